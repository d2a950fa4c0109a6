//! Two arms on the same items: paired differences, sign-flip permutation test, Holm's correction.

use super::{Clusters, Estimate, ItemMean};
use crate::rng::{At, Purpose, stream};
use anyhow::{Result, bail, ensure};
use rayon::prelude::*;

/// What a permutation test draws: the seed, the number of resamples and the name of the comparison.
#[derive(Clone, Copy, Debug)]
pub struct Resampling<'a> {
    /// Seed of the statistics.
    pub seed: u64,
    /// Number of resamples; the smallest possible p value is `1 / (resamples + 1)`.
    pub resamples: usize,
    /// Name of the comparison; different names draw independently.
    pub comparison: &'a str,
}

/// A paired difference and its two-sided p value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Mean difference with its clustered error.
    pub estimate: Estimate,
    /// Share of sign flips with a mean difference at least as far from zero (the observed one counted).
    pub p: f64,
}

/// The paired differences of two arms.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// One difference per benchmark, in the order given.
    pub benchmarks: Vec<Difference>,
    /// Their p values after Holm's correction over these benchmarks.
    pub p_holm: Vec<f64>,
    /// The difference of the unweighted averages over these benchmarks; `None` for no benchmark.
    pub average: Option<Difference>,
}

/// Differences `arm - baseline` of avg@k on one benchmark, item by item. Both are sorted by item id, as
/// [`super::by_benchmark`] gives them.
///
/// # Errors
/// Names the first item that one side lacks, or whose cluster differs; or there is no item.
pub fn item_differences(arm: &[ItemMean<'_>], baseline: &[ItemMean<'_>]) -> Result<Clusters> {
    for (ours, theirs) in arm.iter().zip(baseline) {
        match ours.item.cmp(theirs.item) {
            std::cmp::Ordering::Less => bail!("item {} is missing from the baseline", ours.item),
            std::cmp::Ordering::Greater => bail!("item {} is missing from the arm", theirs.item),
            std::cmp::Ordering::Equal => {}
        }
        ensure!(
            ours.cluster == theirs.cluster,
            "item {}: cluster {} in the arm, {} in the baseline",
            ours.item,
            ours.cluster,
            theirs.cluster
        );
    }
    if let Some(ours) = arm.get(baseline.len()) {
        bail!("item {} is missing from the baseline", ours.item);
    }
    if let Some(theirs) = baseline.get(arm.len()) {
        bail!("item {} is missing from the arm", theirs.item);
    }
    Clusters::new(arm.iter().zip(baseline).map(|(ours, theirs)| (ours.cluster, ours.avg - theirs.avg)))
}

/// Tests the item differences of each named benchmark and of the unweighted average.
///
/// The null hypothesis is that a cluster's difference is as likely with either sign, so each resample flips
/// whole clusters. The average reuses the resamples of its benchmarks, which are independent of each other.
pub fn compare(benchmarks: &[(&str, Clusters)], resampling: Resampling<'_>) -> Comparison {
    let mut average_null = vec![0.0; resampling.resamples];
    let mut differences = Vec::with_capacity(benchmarks.len());
    for (name, clusters) in benchmarks {
        let null = flipped_means(clusters, name, resampling);
        for (sum, mean) in average_null.iter_mut().zip(&null) {
            *sum += mean / benchmarks.len() as f64;
        }
        let estimate = Estimate::of(clusters);
        differences.push(Difference { estimate, p: p_value(estimate.mean, &null) });
    }
    let estimates: Vec<Estimate> = differences.iter().map(|difference| difference.estimate).collect();
    let p: Vec<f64> = differences.iter().map(|difference| difference.p).collect();
    let average = Estimate::average(&estimates)
        .map(|estimate| Difference { estimate, p: p_value(estimate.mean, &average_null) });
    Comparison { benchmarks: differences, p_holm: holm(&p), average }
}

/// Holm's step-down correction: adjusted p values in the order given.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut largest: f64 = 0.0;
    for (rank, &index) in order.iter().enumerate() {
        largest = largest.max((p.len() - rank) as f64 * p[index]).min(1.0);
        adjusted[index] = largest;
    }
    adjusted
}

/// Mean differences after flipping the sign of each cluster with probability one half, one per resample.
fn flipped_means(clusters: &Clusters, benchmark: &str, resampling: Resampling<'_>) -> Vec<f64> {
    let n = clusters.values() as f64;
    let sums: Vec<f64> = clusters.sums().filter(|&sum| sum != 0.0).collect();
    (0..resampling.resamples)
        .into_par_iter()
        .map(|resample| {
            let at = [At::S(resampling.comparison), At::S(benchmark), At::from(resample)];
            let mut signs = stream(resampling.seed, Purpose::Statistics, &at);
            sums.chunks(64).map(|chunk| flipped_sum(chunk, signs.bits())).sum::<f64>() / n
        })
        .collect()
}

/// The sum of at most 64 values, value `i` negated where bit `i` is set.
fn flipped_sum(values: &[f64], bits: u64) -> f64 {
    const SIGN: u64 = 1 << 63;
    values
        .iter()
        .enumerate()
        .map(|(i, value)| f64::from_bits(value.to_bits() ^ ((bits << (63 - i)) & SIGN)))
        .sum()
}

/// Two-sided p value of `observed` under resampled `null` means, the observed one counted among them.
/// Differences are multiples of 1 / (k seeds items), so 1e-12 only absorbs rounding between equal sums.
fn p_value(observed: f64, null: &[f64]) -> f64 {
    let as_far = null.iter().filter(|mean| mean.abs() >= observed.abs() - 1e-12).count();
    (as_far + 1) as f64 / (null.len() + 1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item<'a>(item: &'a str, cluster: &'a str, avg: f64) -> ItemMean<'a> {
        ItemMean { item, cluster, avg, avg_s: vec![avg], sampling: None, pass: 0.0, majority: 0.0 }
    }

    fn draws(comparison: &str, resamples: usize) -> Resampling<'_> {
        Resampling { seed: 11, resamples, comparison }
    }

    #[test]
    fn differences_are_aligned_by_item() {
        let arm = [item("1", "a", 0.5), item("2", "a", 1.0), item("3", "b", 0.25)];
        let baseline = [item("1", "a", 0.25), item("2", "a", 0.0), item("3", "b", 0.5)];
        let clusters = item_differences(&arm, &baseline).unwrap();
        assert_eq!(clusters.sums().collect::<Vec<_>>(), [1.25, -0.25]);
        assert!((Estimate::of(&clusters).mean - 1.0 / 3.0).abs() < 1e-15);
    }

    #[test]
    fn the_first_missing_item_is_named() {
        let all = [item("1", "a", 0.5), item("2", "a", 1.0), item("3", "b", 0.25)];
        let message = |ours: &[ItemMean<'_>], theirs: &[ItemMean<'_>]| {
            item_differences(ours, theirs).unwrap_err().to_string()
        };
        assert_eq!(message(&all, &all[..2]), "item 3 is missing from the baseline");
        assert_eq!(message(&all, &all[1..]), "item 1 is missing from the baseline");
        assert_eq!(message(&all[..2], &all), "item 3 is missing from the arm");
        assert_eq!(message(&[all[0].clone(), all[2].clone()], &all), "item 2 is missing from the arm");
        let moved = [item("1", "a", 0.5), item("2", "z", 1.0), item("3", "b", 0.25)];
        assert!(message(&moved, &all).contains("item 2: cluster z in the arm, a in the baseline"));
        assert!(item_differences(&[], &[]).is_err());
    }

    #[test]
    fn holm_by_hand() {
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
        let wanted = [0.03, 0.06, 0.06, 0.02];
        assert!(adjusted.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-15), "{adjusted:?}");
        assert_eq!(holm(&[0.5, 0.9]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }

    #[test]
    fn flips_negate_the_chosen_values() {
        assert_eq!(flipped_sum(&[1.0, 10.0, 100.0], 0b010), 91.0);
        assert_eq!(flipped_sum(&[1.0, 10.0, 100.0], 0b101), -91.0);
        let mut many = vec![0.0; 63];
        many.push(5.0);
        assert_eq!(flipped_sum(&many, 1 << 63), -5.0);
    }

    #[test]
    fn p_value_comes_near_the_exact_permutation() {
        // Five clusters with the same sign: 2 of 32 sign patterns are as extreme, exact p = 1/16.
        let names = ["a", "b", "c", "d", "e"];
        let clusters = Clusters::new(names.iter().map(|&name| (name, 0.5))).unwrap();
        let all = compare(&[("Geo3k", clusters)], draws("x", 10_000));
        let p = all.benchmarks[0].p;
        assert!((p - 1.0 / 16.0).abs() < 0.01, "{p}");
        let average = all.average.unwrap();
        assert_eq!((average.p, average.estimate.mean), (p, 0.5));
    }

    #[test]
    fn an_arm_against_itself_is_not_resolved() {
        let clusters = || Clusters::new([("a", 0.0), ("b", 0.0)]).unwrap();
        let all = compare(&[("A", clusters()), ("B", clusters())], draws("x", 99));
        assert_eq!((all.benchmarks[0].p, all.average.unwrap().p), (1.0, 1.0));
        assert!(!all.average.unwrap().estimate.resolved());
        assert!(compare(&[], draws("x", 99)).average.is_none());
    }

    #[test]
    fn resamples_depend_on_seed_and_names_only() {
        let clusters = || Clusters::new([("a", 1.0), ("b", 2.0), ("c", -0.5), ("d", 0.25)]).unwrap();
        let null = |benchmark, resampling| flipped_means(&clusters(), benchmark, resampling);
        assert_eq!(null("A", draws("x", 50)), null("A", draws("x", 50)));
        assert_ne!(null("A", draws("x", 50)), null("B", draws("x", 50)));
        assert_ne!(null("A", draws("x", 50)), null("A", draws("y", 50)));
        assert_ne!(null("A", draws("x", 50)), null("A", Resampling { seed: 12, ..draws("x", 50) }));
    }
}
