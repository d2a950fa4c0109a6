//! A table laid out as titled grids of text: what Markdown, LaTeX and the terminal have in common.

use super::PaperRow;
use super::table::{Cell, Change, ChangeRow, Counts, Interval, Score, ScoreRow, Table};

/// Shown where a value does not exist (no interval, one seed).
const NONE: &str = "–";

/// A titled grid. The first column is text, the others are numbers.
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
        if !self.changes.is_empty() {
            sections.push(self.change_section());
        }
        if !self.spec.paper.is_empty() {
            sections.push(self.paper_section());
        }
        sections.extend([self.outcome_section(), self.length_section()]);
        sections
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
            note: "Intervals cover the choice of questions (clustered by their source, Student's t) and the \
                   sampling of answers, not the training seed. Avg is the unweighted mean of the benchmarks. \
                   A value without ± has no interval: fewer than two clusters, or no spread at all."
                .into(),
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
                 be found with 80 % power (2.8 standard errors).",
                self.spec.resamples
            ),
            header: self.header("Difference"),
            groups: self.changes.iter().map(|row| change_cells(row, self.baseline_label())).collect(),
        }
    }

    fn paper_section(&self) -> Section {
        Section {
            title:
                "As published: the paper's models (size in brackets) on the real benchmarks, arXiv 2510.09285"
                    .into(),
            note:
                "Not measured by this harness. Single runs without intervals. Not comparable as numbers with \
                   the rows above; at most the order and the direction of differences are."
                    .into(),
            header: self.header("Paper"),
            groups: vec![self.spec.paper.iter().map(|row| paper_cells(row, &self.spec.benchmarks)).collect()],
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

    fn length_section(&self) -> Section {
        let k = self.spec.samples;
        let header = [
            "Arm".into(),
            "mean tokens".into(),
            format!("pass@{k} Avg"),
            format!("maj@{k} Avg"),
            "s.d. of Avg over seeds".into(),
        ];
        Section {
            title: format!("Length, pass@{k}, maj@{k} and the spread between training seeds"),
            note: "Mean tokens over all samples. pass: any sample of an item is correct. maj: its most frequent \
                   answer is correct. s.d.: of avg@k's Avg between training seeds, where there are two or more. \
                   All but tokens in percent."
                .into(),
            header: header.into(),
            groups: vec![self.rows.iter().map(length_cells).collect()],
        }
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
    vec![
        first,
        detail("verdict", |change| verdict(change).into()),
        detail("p", |change| p_value(change.p)),
        detail("p (Holm)", |change| change.p_holm.map_or(NONE.into(), p_value)),
        detail("detectable", |change| optional(change.detectable_pct)),
    ]
}

fn difference(change: &Change) -> String {
    with_half_width(signed(change.mean_pct), change.interval_pct)
}

/// What the interval says about the direction.
fn verdict(change: &Change) -> &'static str {
    match (change.resolved, change.mean_pct > 0.0) {
        (false, _) => "not resolved",
        (true, true) => "higher",
        (true, false) => "lower",
    }
}

/// Scores by the name of the column; the published average only where the columns are the published ones.
fn paper_cells(row: &PaperRow, benchmarks: &[String]) -> Vec<String> {
    let scores: Vec<Option<f64>> = benchmarks.iter().map(|name| row.scores_pct.get(name).copied()).collect();
    let same_columns = scores.len() == row.scores_pct.len() && scores.iter().all(Option::is_some);
    let average = same_columns.then_some(row.average_pct);
    let label = format!("{} ({}, {})", row.row, row.table, row.size);
    std::iter::once(label).chain(scores.into_iter().chain([average]).map(optional)).collect()
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

fn length_cells(row: &ScoreRow) -> Vec<String> {
    vec![
        row.label.clone(),
        show(&row.counts, |counts| optional(counts.mean_tokens())),
        show(&row.average, |average| format!("{:.1}", average.pass_pct)),
        show(&row.average, |average| format!("{:.1}", average.majority_pct)),
        show(&row.average, |_| optional(row.seed_deviation_pct)),
    ]
}

fn with_share(counts: &Counts, part: u64) -> String {
    format!("{part} ({})", optional(counts.share_pct(part)))
}

/// The text of a measured cell, or its status: a cell without a value never looks like a number.
fn show<T>(cell: &Cell<T>, text: impl Fn(&T) -> String) -> String {
    cell.measured().map_or_else(|| cell.status().into(), text)
}

fn optional(value: Option<f64>) -> String {
    value.map_or(NONE.into(), |value| format!("{value:.1}"))
}

fn with_half_width(value: String, interval: Option<Interval>) -> String {
    match interval {
        Some(Interval { low_pct, high_pct }) => format!("{value} ±{:.1}", (high_pct - low_pct) / 2.0),
        None => value,
    }
}

/// With a sign; what rounds to zero has none.
fn signed(value: f64) -> String {
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
        let change = |mean_pct, resolved| Change {
            mean_pct,
            se_pct: None,
            interval_pct: None,
            resolved,
            p: 0.5,
            p_holm: None,
            detectable_pct: None,
        };
        assert_eq!(verdict(&change(3.0, false)), "not resolved");
        assert_eq!(verdict(&change(3.0, true)), "higher");
        assert_eq!(verdict(&change(-3.0, true)), "lower");
    }
}
