//! What a table is made from and every number in it.

use super::PaperRow;
use super::verification::Check;
use crate::stats::ItemScore;
use serde::{Deserialize, Serialize};

/// One row to be: a variant of the algorithm, evaluated or not.
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    /// The key that its [`ItemScore`]s carry, unique in a table.
    pub key: String,
    /// The name that people read, such as `VPPO, masking only (TGF)`.
    pub label: String,
    /// How far it is.
    pub state: ArmState,
}

/// How far an arm is.
#[derive(Clone, Debug, PartialEq)]
pub enum ArmState {
    /// Evaluated: the scores of all its training seeds, in any order. A benchmark without scores is not run.
    Measured(Vec<ItemScore>),
    /// Begun; nothing is shown before its evaluation is complete.
    Running,
    /// Not begun.
    NotRun,
}

/// What to compare and what the footer states. Nothing here may depend on time or machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableSpec {
    /// Heading.
    pub title: String,
    /// Name of the study.
    pub study: String,
    /// Name of the scale, such as `tiny`.
    pub scale: String,
    /// The training seeds, as text.
    pub seeds: String,
    /// Hashes of the configurations behind the rows, as text, one entry each.
    pub config_hashes: Vec<String>,
    /// The evaluation protocol in words; its name stands before the colon.
    pub protocol: String,
    /// Further sentences for the footer.
    pub notes: Vec<String>,
    /// The columns in order (the paper's: [`super::PaperTables::benchmarks`]).
    pub benchmarks: Vec<String>,
    /// Key of the arm with which the others are compared.
    pub baseline: String,
    /// The k of avg@k.
    pub samples: u32,
    /// Sign flips per test (10,000 is usual).
    pub resamples: usize,
    /// Seed of the sign flips.
    pub statistics_seed: u64,
    /// Published rows to show below, and the arms that reproduce them.
    pub paper: Vec<Published>,
    /// What the numbers are of, compared with the published ones.
    pub footing: Footing,
}

/// A row of the paper that an arm reproduces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// Key of the arm.
    pub arm: String,
    /// The row.
    pub row: PaperRow,
}

/// What the numbers of a table are of, compared with the published ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Footing {
    /// The paper's model and settings; `items` says how many questions its protocol has, by benchmark of the table.
    Paper {
        /// In the order of the table's benchmarks.
        items: Vec<usize>,
    },
    /// The paper's model, but other settings.
    Changed,
    /// Another model and other questions.
    Tiny,
}

impl TableSpec {
    /// The name of the evaluation protocol.
    pub(super) fn protocol_name(&self) -> String {
        self.protocol.split(':').next().unwrap_or_default().to_owned()
    }
}

/// A cell with a number, or without one and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Cell<T> {
    /// Nothing was evaluated.
    NotRun,
    /// An evaluation was begun and is not complete.
    Running,
    /// The value.
    Measured(T),
}

impl<T> Cell<T> {
    /// The value, if there is one.
    pub fn measured(&self) -> Option<&T> {
        match self {
            Cell::Measured(value) => Some(value),
            Cell::NotRun | Cell::Running => None,
        }
    }

    /// The status in words: `not run`, `running` or `measured`.
    pub fn status(&self) -> &'static str {
        match self {
            Cell::NotRun => "not run",
            Cell::Running => "running",
            Cell::Measured(_) => "measured",
        }
    }

    /// The measured value turned into another cell; the other states stay.
    pub(super) fn and_then<'a, U>(&'a self, next: impl FnOnce(&'a T) -> Cell<U>) -> Cell<U> {
        match self {
            Cell::NotRun => Cell::NotRun,
            Cell::Running => Cell::Running,
            Cell::Measured(value) => next(value),
        }
    }
}

/// A 95 % interval, in percent or percentage points, not cut at 0 and 100.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low_pct: f64,
    /// Upper end.
    pub high_pct: f64,
}

/// The score of one arm on one benchmark, or averaged over all (unweighted; counts are then totals).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// avg@k in percent.
    pub avg_pct: f64,
    /// Clustered standard error; absent for fewer than two clusters.
    pub se_pct: Option<f64>,
    /// 95 % interval; absent for fewer than two clusters and for scores without any spread.
    pub interval_pct: Option<Interval>,
    /// pass@k in percent.
    pub pass_pct: f64,
    /// maj@k in percent.
    pub majority_pct: f64,
    /// Number of items.
    pub items: usize,
    /// Number of clusters.
    pub clusters: usize,
    /// What became of the samples of all seeds.
    pub counts: Counts,
    /// What the training seeds do to `avg_pct`; absent where that is not known.
    pub seeds: Option<SeedScore>,
}

/// What the training seeds do to a mean: known for two or more seeds and clusters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeedScore {
    /// The mean under each seed, in ascending order of the seeds.
    pub mean_pct_s: Vec<f64>,
    /// 95 % interval for other questions, answers and training seeds; absent without any spread.
    pub interval_pct: Option<Interval>,
    /// Standard error by the choice of questions.
    pub questions: Part,
    /// Standard error by the training seeds.
    pub seeds: Part,
    /// Standard error by what a seed does to single questions, and by the sampling of answers where that is absent.
    pub question_by_seed: Part,
    /// Standard error by the sampling of answers; absent where it cannot be told apart.
    pub sampling: Option<Part>,
    /// Standard deviation from one training to another.
    pub one_training_pct: f64,
}

/// A part of a standard error: the squares of the parts add up to the square of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// In percent or percentage points; 0 where the variance was estimated below zero.
    pub se_pct: f64,
    /// Whether the variance was estimated below zero: no such part was found.
    pub negative: bool,
}

/// A statistic of whole training runs with its bootstrap interval, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunScore {
    /// Of the runs themselves.
    pub value_pct: f64,
    /// The 95 % percentile interval over resampled runs.
    pub interval_pct: Interval,
}

/// Samples by outcome, over all items and seeds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All samples.
    pub samples: u64,
    /// Accepted.
    pub correct: u64,
    /// Read and rejected.
    pub wrong: u64,
    /// Ended without an answer.
    pub no_answer: u64,
    /// Cut at the length limit without an answer.
    pub truncated: u64,
    /// Gold answer cannot be read.
    pub gold_unparsable: u64,
    /// Grader cannot decide.
    pub undecided: u64,
    /// Response tokens.
    pub tokens: u64,
}

impl Counts {
    /// Adds the samples of one item and seed.
    pub(super) fn add(mut self, score: &ItemScore) -> Counts {
        self.samples += u64::from(score.samples);
        self.correct += u64::from(score.correct);
        self.wrong += u64::from(score.wrong());
        self.no_answer += u64::from(score.no_answer);
        self.truncated += u64::from(score.truncated);
        self.gold_unparsable += u64::from(score.gold_unparsable);
        self.undecided += u64::from(score.undecided);
        self.tokens += score.tokens_total;
        self
    }

    /// Mean response length in tokens; `None` without samples.
    pub fn mean_tokens(&self) -> Option<f64> {
        (self.samples > 0).then(|| self.tokens as f64 / self.samples as f64)
    }

    /// `part` of the samples, in percent; `None` without samples.
    pub fn share_pct(&self, part: u64) -> Option<f64> {
        (self.samples > 0).then(|| 100.0 * part as f64 / self.samples as f64)
    }
}

/// One arm's row of scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreRow {
    /// Key of the arm.
    pub key: String,
    /// Its name.
    pub label: String,
    /// The training seeds that were evaluated, ascending.
    pub seeds: Vec<u64>,
    /// One cell per benchmark of the spec.
    pub cells: Vec<Cell<Score>>,
    /// The unweighted mean over all benchmarks of the spec; not run while one is missing.
    pub average: Cell<Score>,
    /// Mean over benchmarks and training runs; absent where the average's seeds are.
    pub runs_mean: Option<RunScore>,
    /// Interquartile mean over benchmarks and training runs; absent likewise.
    pub runs_iqm: Option<RunScore>,
    /// All samples of the row.
    pub counts: Cell<Counts>,
}

/// The paired difference of one arm to the baseline, in percentage points.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Mean difference of avg@k over the common items.
    pub mean_pct: f64,
    /// Clustered standard error; absent for fewer than two clusters.
    pub se_pct: Option<f64>,
    /// 95 % interval; absent for fewer than two clusters and for differences without any spread.
    pub interval_pct: Option<Interval>,
    /// Whether the interval exists and excludes zero.
    pub resolved: bool,
    /// Two-sided p value of the clustered sign-flip test.
    pub p: f64,
    /// The same after Holm's correction over the benchmarks of this row; absent for the average.
    pub p_holm: Option<f64>,
    /// Difference that would be found with 80 % power.
    pub detectable_pct: Option<f64>,
    /// What the training seeds do to `mean_pct`; absent unless both arms have the same two or more seeds.
    pub seeds: Option<SeedScore>,
}

impl Change {
    /// Whether the interval that covers the training seeds exists and excludes zero; `None` where it is not known
    /// what the seeds do.
    pub fn resolved_with_seeds(&self) -> Option<bool> {
        let seeds = self.seeds.as_ref()?;
        Some(seeds.interval_pct.is_some_and(|ends| ends.low_pct > 0.0 || ends.high_pct < 0.0))
    }
}

/// One arm's row of differences to the baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChangeRow {
    /// Key of the arm.
    pub key: String,
    /// Its name.
    pub label: String,
    /// One cell per benchmark of the spec; measured where both arms are.
    pub cells: Vec<Cell<Change>>,
    /// The difference of the averages; not run while a benchmark is missing.
    pub average: Cell<Change>,
    /// Chance that one training of this arm beats one of the baseline on a benchmark, averaged over benchmarks;
    /// absent while one is missing and unless both have two or more seeds.
    pub better: Option<RunScore>,
}

/// A complete result table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// What it compares and states.
    pub spec: TableSpec,
    /// One row per arm, in the order given.
    pub rows: Vec<ScoreRow>,
    /// One row per arm but the baseline.
    pub changes: Vec<ChangeRow>,
    /// Every published value of the spec beside ours.
    pub verification: Vec<Check>,
}

impl Table {
    /// The name of the baseline.
    pub fn baseline_label(&self) -> &str {
        let row = self.rows.iter().find(|row| row.key == self.spec.baseline);
        row.map_or(&self.spec.baseline, |row| &row.label)
    }
}
