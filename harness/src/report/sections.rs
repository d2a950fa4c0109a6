//! A table laid out as titled grids of text: what Markdown, LaTeX and the terminal have in common.

use super::PaperRow;
use super::table::{
    Cell, Change, ChangeRow, Counts, Footing, Interval, Part, RunScore, Score, ScoreRow, SeedScore, Table,
};
use serde::Serialize;

/// Shown where a value does not exist (no interval).
pub(super) const NONE: &str = "–";
/// Shown where one training seed says nothing.
const UNKNOWN: &str = "not known";

/// A titled grid. The first column is text, the others are numbers.
#[derive(Serialize)]
pub(super) struct Section {
    pub(super) title: String,
    pub(super) note: String,
    pub(super) header: Vec<String>,
    /// Rows that belong together; renderers put some space between groups.
    pub(super) groups: Vec<Vec<Vec<String>>>,
}

impl Table {
    /// The grids, from the scores to the outcomes.
    pub(super) fn sections(&self) -> Vec<Section> {
        let mut sections = vec![self.score_section()];
        if self.several_seeds() {
            sections.push(self.seed_section());
            sections.push(self.run_section());
        }
        if !self.changes.is_empty() {
            sections.push(self.change_section());
        }
        if !self.spec.paper.is_empty() {
            sections.push(self.paper_section());
        }
        sections.extend(self.verification_section());
        sections.extend(self.claim_section());
        sections.extend([self.outcome_section(), self.kinds_section()]);
        sections
    }

    /// Whether any arm has more than one training seed.
    fn several_seeds(&self) -> bool {
        self.rows.iter().any(|row| row.seeds.len() > 1)
    }

    /// The lines below the grids.
    pub(super) fn footer(&self) -> Vec<String> {
        let spec = &self.spec;
        let mut lines =
            vec![format!("Study: {}. Scale: {}. Training seeds: {}.", spec.study, spec.scale, spec.seeds)];
        if !spec.config_hashes.is_empty() {
            lines.push(format!("Configurations: {}.", spec.config_hashes.join(", ")));
        }
        lines.push(format!("Evaluation protocol {}.", spec.protocol));
        lines.extend(spec.notes.iter().cloned());
        lines
    }

    fn score_section(&self) -> Section {
        Section {
            title: format!("avg@{} in percent ± half of the 95 % interval", self.spec.samples),
            note: format!(
                "Intervals cover the choice of questions (clustered by their source, Student's t) and the sampling of \
                 answers, not the training seed{}. Avg is the unweighted mean of the benchmarks. A value without ± has \
                 no interval: fewer than two clusters, or no spread at all.",
                if self.several_seeds() {
                    " (see below); items are averaged over the seeds first"
                } else {
                    ": with one seed its share is not known"
                }
            ),
            header: self.header("Arm"),
            groups: vec![self.rows.iter().map(score_cells).collect()],
        }
    }

    fn change_section(&self) -> Section {
        Section {
            title: format!("Paired difference to {} in percentage points", self.baseline_label()),
            note: format!(
                "Item by item, ± half of the 95 % interval. The verdict goes by the interval; not resolved: it spans \
                 zero, so these data do not tell the two arms apart. p: two-sided clustered sign-flip test ({} \
                 resamples); Holm: corrected over the benchmarks of the row. Detectable: the difference that would \
                 be found with 80 % power (2.8 standard errors, more for few clusters). All this holds for the models \
                 that were trained; {}",
                self.spec.resamples,
                if self.several_seeds() {
                    "the rows \"with seeds\" cover training again under other seeds as well, both arms under the same \
                     ones."
                } else {
                    "what another training seed would give is not known from one."
                }
            ),
            header: self.header("Difference"),
            groups: self.changes.iter().map(|row| change_cells(row, self.baseline_label())).collect(),
        }
    }

    fn paper_section(&self) -> Section {
        let rows = self.spec.paper.iter();
        let comparable = match self.spec.footing {
            Footing::Paper { .. } => "They stand beside ours below.",
            Footing::Changed | Footing::Tiny => {
                "Not comparable as numbers with the rows above; at most the order and the direction of differences are."
            }
        };
        Section {
            title:
                "As published: the paper's models (size in brackets) on the real benchmarks, arXiv 2510.09285"
                    .into(),
            note: format!("Not measured by this harness. Single runs without intervals. {comparable}"),
            header: self.header("Paper"),
            groups: vec![rows.map(|published| paper_cells(&published.row, &self.spec.benchmarks)).collect()],
        }
    }

    fn outcome_section(&self) -> Section {
        let header = [
            "Arm",
            "seeds",
            "samples",
            "correct",
            "wrong",
            "no answer",
            "truncated",
            "undecided",
            "gold unparsable",
        ];
        Section {
            title: "What became of the samples".into(),
            note: "Counts over all benchmarks and seeds; in brackets percent of the samples. Every sample counts \
                   in avg@k, whatever its outcome; only correct ones score. Undecided: the grader cannot tell."
                .into(),
            header: header.map(String::from).into(),
            groups: vec![self.rows.iter().map(outcome_cells).collect()],
        }
    }

    /// What single numbers per arm leave out, by benchmark.
    fn kinds_section(&self) -> Section {
        let k = self.spec.samples;
        Section {
            title: format!(
                "pass@{k}, maj@{k}, no answer and truncated in percent, and response length in tokens"
            ),
            note: format!(
                "pass: any of the {k} samples of an item is correct. maj: its most frequent answer is correct; votes \
                 are counted by the extracted text as it is written, samples without an answer do not vote, and among \
                 equally frequent answers the one with the earliest sample counts. No answer: ended without one; \
                 truncated: cut at the length limit without one. Avg of pass and maj: unweighted mean of the \
                 benchmarks; of the others: over all samples."
            ),
            header: self.header("Arm"),
            groups: self.rows.iter().map(|row| kind_cells(row, k)).collect(),
        }
    }

    fn seed_section(&self) -> Section {
        let header = [
            "Arm",
            "Avg by seed",
            "Avg",
            "± without seeds",
            "± with seeds",
            "s.e.: questions",
            "seeds",
            "question by seed",
            "sampling",
            "s.d. of one training",
        ];
        Section {
            title: "Training seeds: what makes up the uncertainty of Avg, in percentage points".into(),
            note: "± is half of the 95 % interval, without and with training again under other seeds; the latter covers \
                   95 % or more and is wide for two or three seeds. The s.e. columns \
                   split its variance (two-way clustered analysis of variance: questions crossed with seeds, samples \
                   nested): choice of questions, training seed, what a seed does to single questions, sampling of \
                   answers; their squares add up. 0 (negative): the variance was estimated below zero and counts as \
                   zero. s.d. of one training: of Avg from seed to seed; two or three seeds hardly tell it."
                .into(),
            header: header.map(String::from).into(),
            groups: vec![self.rows.iter().map(seed_cells).collect()],
        }
    }

    fn run_section(&self) -> Section {
        let header = [
            "Arm".into(),
            "seeds".into(),
            "mean".into(),
            "interquartile mean".into(),
            format!("better than {}", self.baseline_label()),
        ];
        Section {
            title: "Whole training runs, in percent with 95 % bootstrap intervals over the runs".into(),
            note: format!(
                "After rliable (arXiv 2108.13264): mean and interquartile mean over benchmarks and runs; better: chance \
                 that one training beats one of {} on a benchmark, averaged over benchmarks, 50 being even. Runs are \
                 resampled whole ({} resamples, stratified by arm). The interval of a mean never reaches beyond the \
                 runs: of two it holds what further runs would give in at most half of all cases, of three in at most \
                 three quarters. It shows how far the runs lie apart and resolves nothing; that takes more seeds.",
                self.baseline_label(),
                self.spec.resamples
            ),
            header: header.into(),
            groups: vec![self.rows.iter().map(|row| self.run_cells(row)).collect()],
        }
    }

    fn run_cells(&self, row: &ScoreRow) -> Vec<String> {
        let change = self.changes.iter().find(|change| change.key == row.key);
        let better = match change {
            Some(change) => show(&change.average, |_| run_score(change.better)),
            None => NONE.into(),
        };
        vec![
            row.label.clone(),
            show(&row.average, |_| row.seeds.len().to_string()),
            show(&row.average, |_| run_score(row.runs_mean)),
            show(&row.average, |_| run_score(row.runs_iqm)),
            better,
        ]
    }

    fn header(&self, first: &str) -> Vec<String> {
        let benchmarks = self.spec.benchmarks.iter().cloned();
        std::iter::once(first.into()).chain(benchmarks).chain(["Avg".into()]).collect()
    }
}

/// A label, the text of each cell and the text of the average.
fn line<T>(
    label: String,
    cells: &[Cell<T>],
    average: &Cell<T>,
    text: impl Fn(&Cell<T>) -> String,
) -> Vec<String> {
    std::iter::once(label).chain(cells.iter().chain([average]).map(text)).collect()
}

fn score_cells(row: &ScoreRow) -> Vec<String> {
    line(row.label.clone(), &row.cells, &row.average, |cell| show(cell, score))
}

fn score(score: &Score) -> String {
    with_half_width(format!("{:.1}", score.avg_pct), score.interval_pct)
}

fn change_cells(row: &ChangeRow, baseline: &str) -> Vec<Vec<String>> {
    let name = format!("{} − {baseline}", row.label);
    let first = line(name, &row.cells, &row.average, |cell| show(cell, difference));
    if row.cells.iter().all(|cell| cell.measured().is_none()) {
        return vec![first];
    }
    let detail = |label: &str, text: fn(&Change) -> String| {
        line(label.into(), &row.cells, &row.average, |cell| cell.measured().map_or(NONE.into(), text))
    };
    let mut rows = vec![
        first,
        detail("verdict", |change| verdict(change.mean_pct, change.resolved).into()),
        detail("p", |change| p_value(change.p)),
        detail("p (Holm)", |change| change.p_holm.map_or(NONE.into(), p_value)),
        detail("detectable", |change| optional(change.detectable_pct)),
    ];
    if row.cells.iter().filter_map(Cell::measured).any(|change| change.seeds.is_some()) {
        rows.push(detail("with seeds", difference_with_seeds));
        rows.push(detail("verdict with seeds", verdict_with_seeds));
    }
    rows
}

fn difference(change: &Change) -> String {
    with_half_width(signed(change.mean_pct), change.interval_pct)
}

fn difference_with_seeds(change: &Change) -> String {
    let seeds = change.seeds.as_ref();
    seeds.map_or(UNKNOWN.into(), |seeds| with_half_width(signed(change.mean_pct), seeds.interval_pct))
}

fn verdict_with_seeds(change: &Change) -> String {
    let resolved = change.resolved_with_seeds();
    resolved.map_or(UNKNOWN, |resolved| verdict(change.mean_pct, resolved)).into()
}

/// What an interval says about the direction.
pub(super) fn verdict(mean_pct: f64, resolved: bool) -> &'static str {
    match (resolved, mean_pct > 0.0) {
        (false, _) => "not resolved",
        (true, true) => "higher",
        (true, false) => "lower",
    }
}

fn paper_cells(row: &PaperRow, benchmarks: &[String]) -> Vec<String> {
    let label = format!("{} ({}, {})", row.row, row.table, row.size);
    std::iter::once(label).chain(row.values(benchmarks).into_iter().map(optional)).collect()
}

fn outcome_cells(row: &ScoreRow) -> Vec<String> {
    let counts = |text: fn(&Counts) -> String| show(&row.counts, text);
    let seeds: Vec<String> = row.seeds.iter().map(u64::to_string).collect();
    vec![
        row.label.clone(),
        show(&row.counts, |_| seeds.join(" ")),
        counts(|counts| counts.samples.to_string()),
        counts(|counts| counts.correct.to_string()),
        counts(|counts| counts.wrong.to_string()),
        counts(|counts| with_share(counts, counts.no_answer)),
        counts(|counts| with_share(counts, counts.truncated)),
        counts(|counts| counts.undecided.to_string()),
        counts(|counts| counts.gold_unparsable.to_string()),
    ]
}

fn kind_cells(row: &ScoreRow, k: u32) -> Vec<Vec<String>> {
    let kind = |label: String, text: fn(&Score) -> String| {
        line(format!("{}: {label}", row.label), &row.cells, &row.average, |cell| show(cell, text))
    };
    if row.cells.iter().all(|cell| cell.measured().is_none()) {
        return vec![line(row.label.clone(), &row.cells, &row.average, |cell| cell.status().into())];
    }
    vec![
        kind(format!("pass@{k}"), |score| format!("{:.1}", score.pass_pct)),
        kind(format!("maj@{k}"), |score| format!("{:.1}", score.majority_pct)),
        kind("no answer".into(), |score| optional(score.counts.share_pct(score.counts.no_answer))),
        kind("truncated".into(), |score| optional(score.counts.share_pct(score.counts.truncated))),
        kind("tokens".into(), |score| optional(score.counts.mean_tokens())),
    ]
}

fn seed_cells(row: &ScoreRow) -> Vec<String> {
    let known = |text: fn(&SeedScore) -> String| {
        show(&row.average, |average| average.seeds.as_ref().map_or(UNKNOWN.into(), text))
    };
    vec![
        row.label.clone(),
        show(&row.average, by_seed),
        show(&row.average, |average| format!("{:.1}", average.avg_pct)),
        show(&row.average, |average| optional(average.interval_pct.map(half_width))),
        known(|seeds| optional(seeds.interval_pct.map(half_width))),
        known(|seeds| part(seeds.questions)),
        known(|seeds| part(seeds.seeds)),
        known(|seeds| part(seeds.question_by_seed)),
        known(|seeds| seeds.sampling.map_or(NONE.into(), part)),
        known(|seeds| format!("{:.2}", seeds.one_training_pct)),
    ]
}

/// The average under each seed; under the only one it is the average.
fn by_seed(average: &Score) -> String {
    let means = average.seeds.as_ref().map_or(vec![average.avg_pct], |seeds| seeds.mean_pct_s.clone());
    means.iter().map(|mean| format!("{mean:.1}")).collect::<Vec<_>>().join(" ")
}

fn part(part: Part) -> String {
    if part.negative { "0 (negative)".into() } else { format!("{:.2}", part.se_pct) }
}

fn run_score(score: Option<RunScore>) -> String {
    score.map_or(UNKNOWN.into(), |RunScore { value_pct, interval_pct: Interval { low_pct, high_pct } }| {
        format!("{value_pct:.1} [{low_pct:.1}, {high_pct:.1}]")
    })
}

fn with_share(counts: &Counts, part: u64) -> String {
    format!("{part} ({})", optional(counts.share_pct(part)))
}

/// The text of a measured cell, or its status: a cell without a value never looks like a number.
fn show<T>(cell: &Cell<T>, text: impl Fn(&T) -> String) -> String {
    cell.measured().map_or_else(|| cell.status().into(), text)
}

pub(super) fn optional(value: Option<f64>) -> String {
    value.map_or(NONE.into(), |value| format!("{value:.1}"))
}

pub(super) fn with_half_width(value: String, interval: Option<Interval>) -> String {
    match interval {
        Some(interval) => format!("{value} ±{:.1}", half_width(interval)),
        None => value,
    }
}

fn half_width(interval: Interval) -> f64 {
    (interval.high_pct - interval.low_pct) / 2.0
}

/// With a sign; what rounds to zero has none.
pub(super) fn signed(value: f64) -> String {
    match format!("{value:+.1}").as_str() {
        "+0.0" | "-0.0" => "0.0".into(),
        text => text.replace('-', "−"),
    }
}

fn p_value(p: f64) -> String {
    if p < 0.001 { "<0.001".into() } else { format!("{p:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_fixed_decimals_and_true_signs() {
        assert_eq!(
            (signed(1.26), signed(-1.26), signed(-0.04)),
            ("+1.3".into(), "−1.3".into(), "0.0".into())
        );
        assert_eq!((p_value(0.0009), p_value(0.05)), ("<0.001".into(), "0.050".into()));
        let interval = Some(Interval { low_pct: 9.0, high_pct: 12.0 });
        assert_eq!(with_half_width("10.5".into(), interval), "10.5 ±1.5");
        assert_eq!(optional(None), "–");
    }

    #[test]
    fn published_scores_stand_under_their_own_column() {
        let scores_pct = [("A".to_owned(), 66.0), ("B".to_owned(), 40.0)].into();
        let row =
            PaperRow { table: "T".into(), size: "7B".into(), row: "r".into(), scores_pct, average_pct: 53.0 };
        let cells =
            |names: &[&str]| paper_cells(&row, &names.iter().map(|&name| name.into()).collect::<Vec<_>>());
        assert_eq!(cells(&["B", "A"]), ["r (T, 7B)", "40.0", "66.0", "53.0"]);
        assert_eq!(cells(&["A"]), ["r (T, 7B)", "66.0", "–"]);
        assert_eq!(cells(&["A", "C"]), ["r (T, 7B)", "66.0", "–", "–"]);
    }

    #[test]
    fn verdicts_follow_the_interval() {
        assert_eq!(verdict(3.0, false), "not resolved");
        assert_eq!(verdict(3.0, true), "higher");
        assert_eq!(verdict(-3.0, true), "lower");
    }

    #[test]
    fn a_variance_below_zero_is_said_to_be() {
        assert_eq!(part(Part { se_pct: 0.0, negative: true }), "0 (negative)");
        assert_eq!(part(Part { se_pct: 0.126, negative: false }), "0.13");
        assert_eq!(run_score(None), "not known");
    }
}
