//! One item of one arm and seed: its k samples reduced to counts.

use crate::types::{Outcome, SampleLine};
use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// The samples of one item under one arm and one training seed, counted. One row of `main.items.csv`.
///
/// Every number of a result table can be computed from these rows alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemScore {
    /// Key of the arm (variant) that was evaluated.
    pub arm: String,
    /// Its training seed.
    pub seed: u64,
    /// Benchmark (column of the table).
    pub benchmark: String,
    /// Item id within the benchmark.
    pub item: String,
    /// Cluster id within the benchmark.
    pub cluster: String,
    /// Number of samples: the k of avg@k.
    pub samples: u32,
    /// Samples the grader accepts.
    pub correct: u32,
    /// Samples that ended by themselves without an answer.
    pub no_answer: u32,
    /// Samples cut at the length limit without an answer.
    pub truncated: u32,
    /// Samples whose gold answer cannot be read.
    pub gold_unparsable: u32,
    /// Samples the grader cannot decide.
    pub undecided: u32,
    /// Sum of the response lengths in tokens.
    pub tokens_total: u64,
    /// Whether the most frequent extracted answer is correct (maj@k); among equally frequent answers the one
    /// given first counts. Samples without an answer do not vote; without any vote it is false.
    pub majority_correct: bool,
}

impl ItemScore {
    /// Counts the lines of one evaluation, in any order, into one row per item, sorted by benchmark and item.
    ///
    /// # Errors
    /// Names arm, seed, benchmark and item where an item has not exactly `k` samples with the indices
    /// `0 .. k` once each, or where its lines disagree about the cluster; also for no lines or `k = 0`.
    pub fn from_lines(arm: &str, seed: u64, lines: &[SampleLine], k: u32) -> Result<Vec<ItemScore>> {
        ensure!(k > 0, "avg@k needs at least one sample per item; set `samples` to 1 or more");
        ensure!(!lines.is_empty(), "arm {arm}, seed {seed}: no sample lines; evaluate it first");
        let mut sorted: Vec<&SampleLine> = lines.iter().collect();
        sorted.sort_by(|a, b| sort_key(a).cmp(&sort_key(b)));
        sorted
            .chunk_by(|a, b| a.benchmark == b.benchmark && a.item == b.item)
            .map(|samples| {
                check_samples(samples, k)
                    .map_err(|error| error.context(format!("arm {arm}, seed {seed}")))
                    .map(|()| count(arm, seed, samples))
            })
            .collect()
    }

    /// The item's avg@k, in `0 ..= 1`.
    pub fn avg(&self) -> f64 {
        f64::from(self.correct) / f64::from(self.samples)
    }

    /// Samples whose answer was read and rejected.
    pub fn wrong(&self) -> u32 {
        let apart = self.counted_apart().min(self.samples.into());
        self.samples - apart as u32
    }

    /// Checks a row that was read from a file: `k` samples and counts that fit together.
    ///
    /// # Errors
    /// Names the item and what does not fit.
    pub fn check(&self, k: u32) -> Result<()> {
        let at = format!("arm {}, seed {}, {}, item {}", self.arm, self.seed, self.benchmark, self.item);
        ensure!(
            self.samples == k && k > 0,
            "{at}: {} samples, but avg@{k} needs exactly {k}; evaluate again with samples = {k}",
            self.samples
        );
        let apart = self.counted_apart();
        ensure!(apart <= u64::from(k), "{at}: the outcomes count {apart} of {k} samples");
        ensure!(
            !self.majority_correct || self.correct > 0,
            "{at}: the majority answer is marked correct, but no sample is"
        );
        Ok(())
    }

    /// Samples with any outcome but `Wrong`.
    fn counted_apart(&self) -> u64 {
        let parts = [self.correct, self.no_answer, self.truncated, self.gold_unparsable, self.undecided];
        parts.into_iter().map(u64::from).sum()
    }
}

fn sort_key(line: &SampleLine) -> (&str, &str, u32) {
    (&line.benchmark, &line.item, line.sample)
}

/// `samples` are the lines of one item, sorted by sample index.
fn check_samples(samples: &[&SampleLine], k: u32) -> Result<()> {
    let first = samples[0];
    let at = format!("{}, item {}", first.benchmark, first.item);
    if let Some(twice) = samples.windows(2).find(|pair| pair[0].sample == pair[1].sample) {
        bail!("{at}: sample {} occurs twice ({} lines)", twice[0].sample, samples.len());
    }
    ensure!(
        samples.len() == k as usize,
        "{at}: {} samples, but avg@{k} needs exactly {k}; finish the evaluation",
        samples.len()
    );
    let last = samples[samples.len() - 1].sample;
    ensure!(last == k - 1, "{at}: sample index {last}, but {k} samples have the indices 0 to {}", k - 1);
    if let Some(other) = samples.iter().find(|line| line.cluster != first.cluster) {
        bail!("{at}: its lines name two clusters, {} and {}", first.cluster, other.cluster);
    }
    Ok(())
}

fn count(arm: &str, seed: u64, samples: &[&SampleLine]) -> ItemScore {
    let first = samples[0];
    let with = |outcome| samples.iter().filter(|line| line.outcome == outcome).count() as u32;
    ItemScore {
        arm: arm.to_owned(),
        seed,
        benchmark: first.benchmark.clone(),
        item: first.item.clone(),
        cluster: first.cluster.clone(),
        samples: samples.len() as u32,
        correct: with(Outcome::Correct),
        no_answer: with(Outcome::NoAnswer),
        truncated: with(Outcome::Truncated),
        gold_unparsable: with(Outcome::GoldUnparsable),
        undecided: with(Outcome::Undecided),
        tokens_total: samples.iter().map(|line| u64::from(line.tokens)).sum(),
        majority_correct: majority(samples).is_some_and(|line| line.outcome == Outcome::Correct),
    }
}

/// The first line that gives the most frequent answer; `samples` are in the order of their indices.
fn majority<'a>(samples: &[&'a SampleLine]) -> Option<&'a SampleLine> {
    let votes = |line: &SampleLine| samples.iter().filter(|other| other.extracted == line.extracted).count();
    let mut best: Option<(usize, &SampleLine)> = None;
    for line in samples.iter().filter(|line| line.extracted.is_some()) {
        let votes = votes(line);
        if best.is_none_or(|(most, _)| votes > most) {
            best = Some((votes, line));
        }
    }
    best.map(|(_, line)| line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::StopReason;

    fn line(item: &str, sample: u32, outcome: Outcome, extracted: Option<&str>) -> SampleLine {
        SampleLine {
            benchmark: "Geo3k".into(),
            item: item.into(),
            cluster: format!("c{item}"),
            sample,
            outcome,
            extracted: extracted.map(Into::into),
            tokens: 10 + sample,
            stop: StopReason::EndToken,
        }
    }

    fn four() -> Vec<SampleLine> {
        vec![
            line("7", 0, Outcome::Wrong, Some("3")),
            line("7", 1, Outcome::Correct, Some("4")),
            line("7", 2, Outcome::Truncated, None),
            line("7", 3, Outcome::Correct, Some("4")),
        ]
    }

    #[test]
    fn counts_by_hand() {
        let mut lines = four();
        lines.reverse();
        let score = ItemScore::from_lines("vppo", 2, &lines, 4).unwrap().remove(0);
        assert_eq!((score.correct, score.wrong(), score.truncated, score.no_answer), (2, 1, 1, 0));
        assert_eq!((score.tokens_total, score.majority_correct, score.avg()), (46, true, 0.5));
        score.check(4).unwrap();
        assert_eq!((score.arm.as_str(), score.seed, score.cluster.as_str()), ("vppo", 2, "c7"));
    }

    #[test]
    fn equally_frequent_answers_go_to_the_first() {
        let mut lines = four();
        lines[3] = line("7", 3, Outcome::NoAnswer, None);
        assert!(!ItemScore::from_lines("a", 0, &lines, 4).unwrap()[0].majority_correct);
        lines.swap(0, 1);
        (lines[0].sample, lines[1].sample) = (0, 1);
        assert!(ItemScore::from_lines("a", 0, &lines, 4).unwrap()[0].majority_correct);
        let silent: Vec<_> = (0..4).map(|i| line("7", i, Outcome::NoAnswer, None)).collect();
        assert!(!ItemScore::from_lines("a", 0, &silent, 4).unwrap()[0].majority_correct);
    }

    fn refusal(change: impl Fn(&mut Vec<SampleLine>)) -> String {
        let mut lines = four();
        lines.extend((0..4).map(|i| line("8", i, Outcome::Wrong, Some("1"))));
        change(&mut lines);
        format!("{:#}", ItemScore::from_lines("grpo", 3, &lines, 4).unwrap_err())
    }

    #[test]
    fn refuses_all_but_k_samples_and_says_where() {
        let cases = [
            (refusal(|lines| drop(lines.remove(2))), "Geo3k, item 7: 3 samples"),
            (refusal(|lines| lines.push(lines[5].clone())), "Geo3k, item 8: sample 1 occurs twice"),
            (refusal(|lines| lines.push(line("8", 4, Outcome::Wrong, None))), "item 8: 5 samples"),
            (refusal(|lines| lines[1].sample = 9), "item 7: sample index 9"),
            (refusal(|lines| lines[1].cluster = "x".into()), "item 7: its lines name two clusters"),
            (refusal(|lines| lines.clear()), "no sample lines"),
        ];
        for (message, wanted) in cases {
            assert!(message.contains("arm grpo, seed 3") && message.contains(wanted), "{message}");
        }
        assert!(ItemScore::from_lines("grpo", 3, &four(), 0).is_err());
    }

    #[test]
    fn rows_from_files_are_checked() {
        let good = ItemScore::from_lines("a", 0, &four(), 4).unwrap().remove(0);
        assert!(good.check(8).unwrap_err().to_string().contains("4 samples, but avg@8"));
        assert!(ItemScore { undecided: u32::MAX, ..good.clone() }.check(4).is_err());
        assert!(ItemScore { correct: 0, ..good }.check(4).is_err());
    }
}
