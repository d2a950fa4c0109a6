//! Several training seeds on the same items: where the uncertainty of a mean comes from.
//!
//! Items and seeds are crossed (every seed answers every item), the k samples are nested in item and seed. With
//! `x_is` the avg@k of item i under seed s, of n items in G clusters and S seeds, and means written by leaving an
//! index out, the four numbers below are variances of the grand mean `x`:
//! - `Q = G / (G - 1) / n^2 * sum_c (sum_{i in c} (x_i - x))^2`: the cluster-robust variance over items;
//! - `T = sum_s (x_s - x)^2 / (S (S - 1))`: the variance over seeds;
//! - `C = G / (G - 1) / n^2 / (S (S - 1)) * sum_{c,s} (sum_{i in c} (x_is - x_i - x_s + x))^2`: over cells;
//! - `E = sum_{i,s} x_is (1 - x_is) / (k - 1) / (n S)^2`: of answers drawn again.
//!
//! Q and T both contain C, and C contains E. So the parts are: questions `Q - C`, training seeds `T - C`, question by
//! seed `C - E`, sampling of answers `E`; their sum is `Q + T - C`. With clusters of one item each these are the
//! analysis-of-variance estimators of the crossed two-way random model (Searle, Casella and McCulloch 1992, ch. 4):
//! `C = MS_IS / (n S k)`, and so on. For clusters it is the two-way cluster-robust variance of Cameron, Gelbach and
//! Miller 2011. A part can be estimated below zero; it then counts as zero.

use super::estimate::quantile;
use super::{Clusters, Estimate, ItemMean};
use std::collections::BTreeMap;

/// A mean over items and training seeds and the variances that make up its error.
#[derive(Clone, Debug, PartialEq)]
pub struct SeedSpread {
    /// The mean and its clustered error over questions, these seeds taken as given: the error is `sqrt(Q)`.
    pub questions: Estimate,
    /// The mean under each seed, in the order of the seeds.
    pub mean_s: Vec<f64>,
    /// `C`: the variance over cells of item and seed.
    cells: f64,
    /// `E`: the variance of answers drawn again; `None` where it cannot be known.
    sampling: Option<f64>,
}

/// Variances of a mean by source, as estimated: a negative one means that no such part was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parts {
    /// Choice of the questions: `Q - C`.
    pub questions: f64,
    /// Choice of the training seeds: `T - C`.
    pub seeds: f64,
    /// What a seed does to single questions: `C - E`; with `E` in it where `E` is unknown.
    pub question_by_seed: f64,
    /// Sampling of the answers: `E`; unknown for one sample per item and for differences, whose arms share noise.
    pub sampling: Option<f64>,
}

/// One item: cluster, value under each seed, variance of its mean over seeds by the sampling of answers.
type Row<'a> = (&'a str, Vec<f64>, Option<f64>);

impl SeedSpread {
    /// One arm on one benchmark. `None` for fewer than two seeds or clusters: then the seed's share is not known.
    pub fn of(items: &[ItemMean<'_>]) -> Option<SeedSpread> {
        spread(items.iter().map(|item| (item.cluster, item.avg_s.clone(), item.sampling)).collect())
    }

    /// The differences of two arms with the same seeds, paired by item and seed. The items must be aligned, as
    /// [`super::item_differences`] checks. `None` as for [`SeedSpread::of`].
    pub fn of_differences(ours: &[ItemMean<'_>], theirs: &[ItemMean<'_>]) -> Option<SeedSpread> {
        let minus = |(a, b): (&f64, &f64)| a - b;
        let rows = ours.iter().zip(theirs).map(|(ours, theirs)| {
            (ours.cluster, ours.avg_s.iter().zip(&theirs.avg_s).map(minus).collect(), None)
        });
        spread(rows.collect())
    }

    /// The unweighted mean over benchmarks with the same seeds. A seed moves all of them together, so the variance
    /// over seeds is that of each seed's average; questions and answers of different benchmarks are independent.
    /// `None` for no benchmark.
    pub fn average(parts: &[SeedSpread]) -> Option<SeedSpread> {
        let estimates: Vec<Estimate> = parts.iter().map(|part| part.questions).collect();
        let questions = Estimate::average(&estimates)?;
        let count = parts.len() as f64;
        let mean = |seed: usize| parts.iter().map(|part| part.mean_s[seed]).sum::<f64>() / count;
        let sampling = parts.iter().map(|part| part.sampling).sum::<Option<f64>>();
        Some(SeedSpread {
            questions,
            mean_s: (0..parts[0].mean_s.len()).map(mean).collect(),
            cells: parts.iter().map(|part| part.cells).sum::<f64>() / (count * count),
            sampling: sampling.map(|sum| sum / (count * count)),
        })
    }

    /// The variances by source.
    pub fn parts(&self) -> Parts {
        Parts {
            questions: self.over_questions() - self.cells,
            seeds: self.over_seeds() - self.cells,
            question_by_seed: self.cells - self.sampling.unwrap_or(0.0),
            sampling: self.sampling,
        }
    }

    /// The standard deviation of the mean from one training to another, its questions and answers taken as given:
    /// `sqrt(S (T - C))`; 0 where that is negative.
    pub fn one_training(&self) -> f64 {
        (self.mean_s.len() as f64 * self.parts().seeds).max(0.0).sqrt()
    }

    /// Half the width of a 95 % interval around the mean that covers new questions, new answers and new trainings:
    /// `sqrt(t_Q^2 max(Q - C, 0) + t_S^2 T)` with the 97.5 % quantiles of Student's t for the degrees of freedom of Q
    /// and for S - 1, the squared half-widths of independent intervals added (Zou and Donner 2008). It covers 95 % or
    /// more, and is wide for few seeds: t_S is 12.7 for two, 4.3 for three. `None` without any spread.
    pub fn half_width_with_seeds(&self) -> Option<f64> {
        let of = |variance: f64, freedom: f64| {
            if variance > 0.0 { quantile(0.975, freedom).map(|t| t * t * variance) } else { Some(0.0) }
        };
        let questions = of(self.parts().questions, self.questions.freedom)?;
        let seeds = of(self.over_seeds(), self.mean_s.len() as f64 - 1.0)?;
        let alone = self.questions.half_width().unwrap_or(0.0);
        Some((questions + seeds).sqrt().max(alone)).filter(|&half| half > 0.0)
    }

    /// `Q`.
    fn over_questions(&self) -> f64 {
        self.questions.se.map_or(0.0, |se| se * se)
    }

    /// `T`.
    fn over_seeds(&self) -> f64 {
        let seeds = self.mean_s.len() as f64;
        let centre = self.mean_s.iter().sum::<f64>() / seeds;
        let squares: f64 = self.mean_s.iter().map(|mean| (mean - centre) * (mean - centre)).sum();
        squares / (seeds * (seeds - 1.0))
    }
}

fn spread(rows: Vec<Row<'_>>) -> Option<SeedSpread> {
    let seeds = rows.first().map_or(0, |(_, value_s, _)| value_s.len());
    let item_mean = |value_s: &[f64]| value_s.iter().sum::<f64>() / seeds as f64;
    let clusters =
        Clusters::new(rows.iter().map(|(cluster, value_s, _)| (*cluster, item_mean(value_s)))).ok()?;
    if seeds < 2 || clusters.count() < 2 {
        return None;
    }
    let n = rows.len() as f64;
    let questions = Estimate::of(&clusters);
    let seed_mean = |seed: usize| rows.iter().map(|(_, value_s, _)| value_s[seed]).sum::<f64>() / n;
    let mean_s: Vec<f64> = (0..seeds).map(seed_mean).collect();
    let mut residuals: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (cluster, value_s, _) in &rows {
        let sums = residuals.entry(cluster).or_insert_with(|| vec![0.0; seeds]);
        let centre = item_mean(value_s);
        for (seed, sum) in sums.iter_mut().enumerate() {
            *sum += value_s[seed] - centre - mean_s[seed] + questions.mean;
        }
    }
    let squares: f64 = residuals.values().flatten().map(|sum| sum * sum).sum();
    let (groups, s) = (clusters.count() as f64, seeds as f64);
    let cells = groups / (groups - 1.0) * squares / (n * n * s * (s - 1.0));
    let sampling = rows.iter().map(|(_, _, sampling)| *sampling).sum::<Option<f64>>();
    Some(SeedSpread { questions, mean_s, cells, sampling: sampling.map(|sum| sum / (n * n)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item<'a>(cluster: &'a str, avg_s: &[f64], sampling: Option<f64>) -> ItemMean<'a> {
        let avg = avg_s.iter().sum::<f64>() / avg_s.len() as f64;
        ItemMean { item: cluster, cluster, avg, avg_s: avg_s.to_vec(), sampling, pass: 0.0, majority: 0.0 }
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-15, "{a} is not {b}");
    }

    /// Two seeds, three items of a cluster each. Rows (0.2, 0.4), (0.5, 0.5), (0.8, 1.2): item means 0.3, 0.5, 1.0,
    /// seed means 0.5 and 0.7, mean 0.6.
    fn three() -> [ItemMean<'static>; 3] {
        [
            item("a", &[0.2, 0.4], Some(0.01)),
            item("b", &[0.5, 0.5], Some(0.02)),
            item("c", &[0.8, 1.2], Some(0.03)),
        ]
    }

    #[test]
    fn parts_by_hand() {
        let spread = SeedSpread::of(&three()).unwrap();
        close(spread.mean_s[0], 0.5);
        close(spread.mean_s[1], 0.7);
        // Q: residuals -0.3, -0.1, 0.4, squares 0.26; 3/2 * 0.26 / 9.
        let q = 0.39 / 9.0;
        // T: (0.01 + 0.01) / (2 * 1).
        let t = 0.01;
        // C: under seed 1 the residuals are 0, 0.1, -0.1 and under seed 2 their negatives; 3/2 * 0.04 / (9 * 2).
        let c = 0.06 / 18.0;
        // E: 0.06 / 9.
        let e = 0.06 / 9.0;
        let parts = spread.parts();
        close(parts.questions, q - c);
        close(parts.seeds, t - c);
        close(parts.question_by_seed, c - e);
        close(parts.sampling.unwrap(), e);
        close(spread.one_training(), (2.0 * (t - c)).sqrt());
        // Q has two degrees of freedom, t = 4.302653, and T one, t = 12.706205.
        let half = (4.302_652_73f64.powi(2) * (q - c) + 12.706_204_736f64.powi(2) * t).sqrt();
        assert!((spread.half_width_with_seeds().unwrap() - half).abs() < 1e-8);
    }

    #[test]
    fn clusters_of_one_give_the_analysis_of_variance() {
        // Mean squares of x_is itself (k = 1 in the formulas): MS_I = 2 * 0.26 / 2, MS_S = 3 * 0.02, MS_IS = 0.04 / 2.
        // Components: items (MS_I - MS_IS) / 2, seeds (MS_S - MS_IS) / 3; of the mean: over 3 items, over 2 seeds.
        let (ms_i, ms_s, ms_is) = (0.26, 0.06, 0.02);
        let parts = SeedSpread::of(&three()).unwrap().parts();
        close(parts.questions, (ms_i - ms_is) / 2.0 / 3.0);
        close(parts.seeds, (ms_s - ms_is) / 3.0 / 2.0);
        close(parts.question_by_seed + parts.sampling.unwrap(), ms_is / 6.0);
    }

    #[test]
    fn residuals_are_summed_by_cluster() {
        // As above, but b and c are one cluster: residual sums 0 of both clusters under both seeds.
        let mut items = three();
        items[2].cluster = "b";
        let spread = SeedSpread::of(&items).unwrap();
        assert!(spread.cells.abs() < 1e-30, "{}", spread.cells);
        // Q: residual sums -0.3 and 0.3, two clusters: 2 * 0.18 / 9.
        close(spread.over_questions(), 0.04);
    }

    #[test]
    fn seeds_that_agree_better_than_chance_have_no_part() {
        // Both seeds have mean 0.5, but the items swap: T = 0, C > 0.
        let items = [item("a", &[0.2, 0.4], None), item("b", &[0.8, 0.6], None)];
        let spread = SeedSpread::of(&items).unwrap();
        assert!(spread.parts().seeds < 0.0 && spread.parts().sampling.is_none());
        assert_eq!(spread.one_training(), 0.0);
        // Q = 2 * (0.2^2 + 0.2^2) / 4 = 0.04 with one degree of freedom; Q - C is less, but the width is that of Q.
        assert!((spread.half_width_with_seeds().unwrap() - 12.706_204_736 * 0.2).abs() < 1e-8);
    }

    #[test]
    fn differences_are_taken_seed_by_seed() {
        // Differences (0.1, 0.1), (0.1, -0.1): seed means 0.1 and 0, mean 0.05.
        let ours = [item("a", &[0.3, 0.5], None), item("b", &[0.6, 0.4], None)];
        let theirs = [item("a", &[0.2, 0.4], None), item("b", &[0.5, 0.5], None)];
        let spread = SeedSpread::of_differences(&ours, &theirs).unwrap();
        close(spread.mean_s[0], 0.1);
        close(spread.mean_s[1], 0.0);
        close(spread.over_seeds(), 0.0025);
        assert!(SeedSpread::of_differences(&[], &[]).is_none());
    }

    #[test]
    fn one_seed_or_one_cluster_says_nothing() {
        assert!(SeedSpread::of(&[item("a", &[0.5], None), item("b", &[0.1], None)]).is_none());
        assert!(SeedSpread::of(&[item("a", &[0.5, 0.6], None), item("a", &[0.1, 0.2], None)]).is_none());
    }

    #[test]
    fn the_average_keeps_the_seeds_together() {
        // Seed means (0.5, 0.7) and (0.7, 0.5): the averages 0.6 and 0.6 do not differ.
        let other = [item("a", &[0.4, 0.2], Some(0.01)), item("b", &[1.0, 0.8], Some(0.05))];
        let parts = [SeedSpread::of(&three()).unwrap(), SeedSpread::of(&other).unwrap()];
        let average = SeedSpread::average(&parts).unwrap();
        assert!(average.over_seeds() < 1e-30);
        close(average.questions.mean, 0.6);
        close(average.cells, (parts[0].cells + parts[1].cells) / 4.0);
        close(average.sampling.unwrap(), (0.06 / 9.0 + 0.06 / 4.0) / 4.0);
        assert!(SeedSpread::average(&[]).is_none());
    }
}
