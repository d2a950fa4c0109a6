//! One arm: its items averaged over training seeds, and the spread between the seeds.

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

/// The standard deviation, over the training seeds of one arm, of the unweighted mean of the benchmark scores.
/// `None` for fewer than two seeds. The rows must have passed [`by_benchmark`].
pub fn seed_deviation(scores: &[ItemScore]) -> Option<f64> {
    let mut counts: BTreeMap<u64, BTreeMap<&str, (u64, u64)>> = BTreeMap::new();
    for score in scores {
        let (correct, samples) = counts.entry(score.seed).or_default().entry(&score.benchmark).or_default();
        *correct += u64::from(score.correct);
        *samples += u64::from(score.samples);
    }
    let averages: Vec<f64> = counts
        .values()
        .map(|seed| mean(seed.values().map(|&(correct, samples)| correct as f64 / samples as f64)))
        .collect();
    if averages.len() < 2 {
        return None;
    }
    let centre = mean(averages.iter().copied());
    let squares: f64 = averages.iter().map(|average| (average - centre) * (average - centre)).sum();
    Some((squares / (averages.len() - 1) as f64).sqrt())
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
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
    ItemMean {
        item: &runs[0].item,
        cluster: &runs[0].cluster,
        avg: sum(|run| run.correct) / sum(|run| run.samples),
        pass: share(|run| run.correct > 0),
        majority: share(|run| run.majority_correct),
    }
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
        assert_eq!((y.item, y.avg, y.pass, y.majority), ("y", 0.5, 0.5, 0.5));
    }

    #[test]
    fn seed_deviation_by_hand() {
        // Seed 1: A 3/4, B 1/8, mean 7/16. Seed 2: A 3/4, B 6/8, mean 12/16. s.d. = (5/16) / sqrt(2).
        let deviation = seed_deviation(&two_seeds()).unwrap();
        assert!((deviation - 0.3125 / 2f64.sqrt()).abs() < 1e-15, "{deviation}");
        assert_eq!(seed_deviation(&[score(1, "A", "x", 1)]), None);
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
