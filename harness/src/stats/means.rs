//! One arm: its items averaged over training seeds.

use super::ItemScore;
use anyhow::{Result, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};

/// One item of one arm, averaged over the arm's training seeds. All values are in `0 ..= 1`.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemMean<'a> {
    /// Item id.
    pub item: &'a str,
    /// Cluster id.
    pub cluster: &'a str,
    /// avg@k.
    pub avg: f64,
    /// avg@k under each seed, in ascending order of the seeds.
    pub avg_s: Vec<f64>,
    /// Variance of `avg` by the sampling of answers, `sum_s p_s (1 - p_s) / (k - 1) / S^2`; `None` for k = 1.
    pub sampling: Option<f64>,
    /// pass@k: the share of seeds with any correct sample.
    pub pass: f64,
    /// maj@k: the share of seeds whose most frequent answer is correct.
    pub majority: f64,
}

/// Averages the rows of one arm, in any order, over its seeds: item means by benchmark, sorted by item id.
///
/// # Errors
/// Names benchmark, item and seed where a row fails [`ItemScore::check`], occurs twice or is missing under one
/// of the arm's seeds, or where the cluster differs between seeds.
pub fn by_benchmark(scores: &[ItemScore], k: u32) -> Result<BTreeMap<&str, Vec<ItemMean<'_>>>> {
    let seeds: BTreeSet<u64> = scores.iter().map(|score| score.seed).collect();
    let mut sorted: Vec<&ItemScore> = scores.iter().collect();
    sorted.sort_by(|a, b| sort_key(a).cmp(&sort_key(b)));
    let mut means: BTreeMap<&str, Vec<ItemMean>> = BTreeMap::new();
    for runs in sorted.chunk_by(|a, b| a.benchmark == b.benchmark && a.item == b.item) {
        check_runs(runs, &seeds, k)?;
        means.entry(&runs[0].benchmark).or_default().push(over_seeds(runs));
    }
    Ok(means)
}

fn sort_key(score: &ItemScore) -> (&str, &str, u64) {
    (&score.benchmark, &score.item, score.seed)
}

/// `runs` are the rows of one item, sorted by seed.
fn check_runs(runs: &[&ItemScore], seeds: &BTreeSet<u64>, k: u32) -> Result<()> {
    let first = runs[0];
    let at = format!("arm {}, {}, item {}", first.arm, first.benchmark, first.item);
    runs.iter().try_for_each(|run| run.check(k))?;
    if let Some(twice) = runs.windows(2).find(|pair| pair[0].seed == pair[1].seed) {
        bail!("{at}: seed {} occurs twice", twice[0].seed);
    }
    if let Some(missing) = seeds.iter().find(|&&seed| runs.iter().all(|run| run.seed != seed)) {
        bail!("{at}: missing under seed {missing}, which the arm has for other items; evaluate it too");
    }
    if let Some(other) = runs.iter().find(|run| run.cluster != first.cluster) {
        bail!(
            "{at}: cluster {} under seed {}, but {} under seed {}",
            first.cluster,
            first.seed,
            other.cluster,
            other.seed
        );
    }
    ensure!(runs.iter().all(|run| run.arm == first.arm), "{at}: rows of two arms were given as one arm");
    Ok(())
}

fn over_seeds<'a>(runs: &[&'a ItemScore]) -> ItemMean<'a> {
    let share =
        |hit: fn(&ItemScore) -> bool| runs.iter().filter(|run| hit(run)).count() as f64 / runs.len() as f64;
    let sum = |part: fn(&ItemScore) -> u32| runs.iter().map(|run| u64::from(part(run))).sum::<u64>() as f64;
    let avg_s: Vec<f64> = runs.iter().map(|run| run.avg()).collect();
    ItemMean {
        item: &runs[0].item,
        cluster: &runs[0].cluster,
        avg: sum(|run| run.correct) / sum(|run| run.samples),
        sampling: sampling_variance(&avg_s, runs[0].samples),
        avg_s,
        pass: share(|run| run.correct > 0),
        majority: share(|run| run.majority_correct),
    }
}

/// The variance of the mean of shares `avg_s`, each of `k` independent samples, without bias.
fn sampling_variance(avg_s: &[f64], k: u32) -> Option<f64> {
    let (k, seeds) = (f64::from(k), avg_s.len() as f64);
    let one = |avg: &f64| avg * (1.0 - avg) / (k - 1.0);
    (k > 1.0).then(|| avg_s.iter().map(one).sum::<f64>() / (seeds * seeds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(seed: u64, benchmark: &str, item: &str, correct: u32) -> ItemScore {
        ItemScore {
            arm: "dapo".into(),
            seed,
            benchmark: benchmark.into(),
            item: item.into(),
            cluster: "c".into(),
            samples: 4,
            correct,
            no_answer: 0,
            truncated: 0,
            gold_unparsable: 0,
            undecided: 0,
            tokens_total: 40,
            majority_correct: correct > 2,
        }
    }

    fn two_seeds() -> Vec<ItemScore> {
        vec![
            score(2, "B", "y", 4),
            score(1, "B", "y", 0),
            score(1, "B", "x", 1),
            score(2, "B", "x", 2),
            score(1, "A", "x", 3),
            score(2, "A", "x", 3),
        ]
    }

    #[test]
    fn items_are_averaged_over_seeds_by_hand() {
        let rows = two_seeds();
        let means = by_benchmark(&rows, 4).unwrap();
        assert_eq!(means.keys().copied().collect::<Vec<_>>(), ["A", "B"]);
        let [x, y] = means["B"].as_slice() else { panic!("two items") };
        assert_eq!((x.item, x.avg, x.pass, x.majority), ("x", 0.375, 1.0, 0.0));
        assert_eq!(x.avg_s, [0.25, 0.5]);
        assert_eq!((y.item, y.avg, y.pass, y.majority), ("y", 0.5, 0.5, 0.5));
    }

    #[test]
    fn sampling_variance_by_hand() {
        // k = 4 and shares 1/4, 1/2: (3/16 + 1/4) / 3 / 4.
        let variance = sampling_variance(&[0.25, 0.5], 4).unwrap();
        assert!((variance - 7.0 / 192.0).abs() < 1e-15, "{variance}");
        assert_eq!((sampling_variance(&[0.0], 8), sampling_variance(&[1.0], 1)), (Some(0.0), None));
    }

    fn refusal(change: impl Fn(&mut Vec<ItemScore>)) -> String {
        let mut rows = two_seeds();
        change(&mut rows);
        by_benchmark(&rows, 4).unwrap_err().to_string()
    }

    #[test]
    fn refuses_uneven_seeds_and_says_where() {
        let cases = [
            (refusal(|rows| drop(rows.remove(0))), "arm dapo, B, item y: missing under seed 2"),
            (refusal(|rows| rows.push(rows[0].clone())), "B, item y: seed 2 occurs twice"),
            (refusal(|rows| rows[0].cluster = "d".into()), "cluster c under seed 1, but d under seed 2"),
            (refusal(|rows| rows[0].samples = 5), "5 samples, but avg@4"),
            (refusal(|rows| rows[0].arm = "vppo".into()), "rows of two arms"),
        ];
        for (message, wanted) in cases {
            assert!(message.contains(wanted), "{message}");
        }
    }
}
