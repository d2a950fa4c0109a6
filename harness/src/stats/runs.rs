//! Whole training runs as the unit: mean, interquartile mean and probability of improvement, bootstrapped.
//!
//! Source: rliable (Agarwal et al. 2021, arXiv 2108.13264). Deviation: there every task has runs of its own, which are
//! resampled task by task; here one run answers all benchmarks, so it is resampled whole, and the strata are the arms.
//!
//! Scores come as one row per benchmark, with one value per run in the order of the seeds.

use super::Resampling;
use crate::rng::{At, Purpose, Stream, stream};
use rayon::prelude::*;

/// A statistic of several runs and its 95 % percentile bootstrap interval.
///
/// The interval of a mean never reaches beyond the single runs. So that of two runs holds what further runs would give
/// on average in at most half of all cases and that of three in at most three quarters, not in 95 %: it shows how far
/// the runs lie apart and promises nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OverRuns {
    /// Of the runs themselves.
    pub value: f64,
    /// 2.5 % of the resamples are below.
    pub low: f64,
    /// 2.5 % of the resamples are above.
    pub high: f64,
}

impl OverRuns {
    /// The mean over benchmarks and runs. The rows must be of one length and not empty, here and below.
    pub fn mean(score_bs: &[Vec<f64>], resampling: Resampling<'_>) -> OverRuns {
        OverRuns::of_one(score_bs, mean, resampling)
    }

    /// The interquartile mean over benchmarks and runs: what is left after a quarter of the values, rounded down, is
    /// taken from either end.
    pub fn interquartile_mean(score_bs: &[Vec<f64>], resampling: Resampling<'_>) -> OverRuns {
        OverRuns::of_one(score_bs, interquartile_mean, resampling)
    }

    /// [`probability_of_improvement`], the runs of both arms resampled independently.
    pub fn improvement(ours_bs: &[Vec<f64>], theirs_bs: &[Vec<f64>], resampling: Resampling<'_>) -> OverRuns {
        let value = probability_of_improvement(ours_bs, theirs_bs);
        bootstrap(value, resampling, |draw| {
            let ours = redrawn(ours_bs, draw);
            probability_of_improvement(&ours, &redrawn(theirs_bs, draw))
        })
    }

    fn of_one(score_bs: &[Vec<f64>], statistic: fn(Vec<f64>) -> f64, resampling: Resampling<'_>) -> OverRuns {
        bootstrap(statistic(score_bs.concat()), resampling, |draw| {
            statistic(redrawn(score_bs, draw).concat())
        })
    }
}

/// The chance that a run of ours beats a run of theirs on a benchmark, averaged over benchmarks: the share of pairs of
/// runs in which ours scores higher, equal scores counted half (the Mann-Whitney statistic).
pub fn probability_of_improvement(ours_bs: &[Vec<f64>], theirs_bs: &[Vec<f64>]) -> f64 {
    let win = |ours: f64, theirs: f64| match ours.total_cmp(&theirs) {
        std::cmp::Ordering::Greater => 1.0,
        std::cmp::Ordering::Equal => 0.5,
        std::cmp::Ordering::Less => 0.0,
    };
    let shares = ours_bs.iter().zip(theirs_bs).map(|(ours_s, theirs_s)| {
        mean(ours_s.iter().flat_map(|&ours| theirs_s.iter().map(move |&theirs| win(ours, theirs))).collect())
    });
    mean(shares.collect())
}

fn mean(values: Vec<f64>) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn interquartile_mean(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let cut = values.len() / 4;
    mean(values[cut..values.len() - cut].to_vec())
}

/// The scores of as many runs, drawn with replacement; a run keeps its scores on all benchmarks.
fn redrawn(score_bs: &[Vec<f64>], draw: &mut Stream) -> Vec<Vec<f64>> {
    let seeds = score_bs.first().map_or(0, Vec::len);
    let picked: Vec<usize> = (0..seeds).map(|_| draw.below(seeds)).collect();
    score_bs.iter().map(|score_s| picked.iter().map(|&seed| score_s[seed]).collect()).collect()
}

fn bootstrap(
    value: f64,
    resampling: Resampling<'_>,
    statistic: impl Fn(&mut Stream) -> f64 + Sync,
) -> OverRuns {
    let one = |resample: usize| {
        let at = [At::S(resampling.comparison), At::S("runs"), At::from(resample)];
        statistic(&mut stream(resampling.seed, Purpose::Statistics, &at))
    };
    let mut values: Vec<f64> = (0..resampling.resamples).into_par_iter().map(one).collect();
    values.sort_by(f64::total_cmp);
    let at = |share| quantile(&values, share).unwrap_or(value);
    OverRuns { value, low: at(0.025), high: at(0.975) }
}

/// The quantile of ascending values, linear between neighbours; `None` for no value.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(below + (above - below) * (place - place.floor()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(resamples: usize) -> Resampling<'static> {
        Resampling { seed: 7, resamples, comparison: "vppo" }
    }

    #[test]
    fn interquartile_mean_by_hand() {
        // A quarter of six values is one, rounded down: 2, 3, 4, 5 are left.
        assert_eq!(interquartile_mean(vec![100.0, 2.0, 3.0, 5.0, 4.0, 1.0]), 3.5);
        // Of eight, two on either side: 3, 4, 5, 6.
        assert_eq!(interquartile_mean((1..=8).map(f64::from).collect()), 4.5);
        assert_eq!(interquartile_mean(vec![1.0, 2.0, 6.0]), 3.0);
    }

    #[test]
    fn quantiles_by_hand() {
        let values = [1.0, 2.0, 4.0];
        assert_eq!(
            [0.0, 0.5, 0.75, 1.0].map(|share| quantile(&values, share)),
            [1.0, 2.0, 3.0, 4.0].map(Some)
        );
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn improvement_by_hand() {
        // Benchmark A: 3 beats 1 and 2, 2 beats 1 and ties 2: 3.5 of 4. B: never.
        let (ours, theirs) = ([vec![3.0, 2.0], vec![0.0, 0.0]], [vec![1.0, 2.0], vec![1.0, 1.0]]);
        assert_eq!(probability_of_improvement(&ours, &theirs), 3.5 / 8.0);
        assert_eq!(probability_of_improvement(&ours, &ours), 0.5);
    }

    #[test]
    fn two_runs_give_the_range_of_the_runs() {
        // Resamples of two runs: both 1/4, mixed 1/2, so the 2.5 % and 97.5 % quantiles are the runs themselves.
        let scores = [vec![0.25, 0.5], vec![0.25, 1.0]];
        let over = OverRuns::mean(&scores, draws(1000));
        assert_eq!((over.value, over.low, over.high), (0.5, 0.25, 0.75));
    }

    #[test]
    fn a_run_stays_whole() {
        // On every benchmark the other run wins, so that each run has the same mean, however often it is drawn.
        let over = OverRuns::mean(&[vec![0.25, 0.75], vec![0.75, 0.25]], draws(200));
        assert_eq!((over.low, over.high), (0.5, 0.5));
    }

    #[test]
    fn draws_do_not_depend_on_threads() {
        let scores = [vec![0.1, 0.5, 0.35], vec![0.2, 0.3, 0.8]];
        let run = || OverRuns::improvement(&scores, &[scores[1].clone(), scores[0].clone()], draws(500));
        let single = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(run);
        assert_eq!(run(), single);
        let other = Resampling { seed: 8, ..draws(51) };
        assert_ne!(OverRuns::mean(&scores, draws(51)), OverRuns::mean(&scores, other));
        assert_eq!(OverRuns::mean(&scores, draws(0)).low, OverRuns::mean(&scores, draws(0)).value);
    }
}
