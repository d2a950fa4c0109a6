//! All studies of one scale on one sheet: the difference of every arm to the baseline of its study, in the average over the
//! benchmarks, with the paper's difference where it has one.

use super::build::steady;
use super::draw::markdown_escape;
use super::sections::{NONE, signed, verdict, with_half_width};
use super::table::{Cell, Change, ChangeRow, Interval, Table};
use super::verification::{Check, Direction};
use anyhow::Result;

const AVERAGE: &str = "Avg";
const COLUMNS: [&str; 11] = [
    "study",
    "arm",
    "label",
    "baseline",
    "status",
    "difference_pct",
    "low_pct",
    "high_pct",
    "interval_covers",
    "paper_pct",
    "direction",
];

/// A difference of averages with the interval that counts: the one that covers the training seeds, where that is known.
struct Line<'a> {
    table: &'a Table,
    row: &'a ChangeRow,
    paper: Option<&'a Check>,
}

impl Line<'_> {
    fn change(&self) -> Option<&Change> {
        self.row.average.measured()
    }

    fn interval(&self) -> Option<Interval> {
        let change = self.change()?;
        change.seeds.as_ref().and_then(|seeds| seeds.interval_pct).or(change.interval_pct)
    }

    fn resolved(&self) -> bool {
        self.interval().is_some_and(|ends| ends.low_pct > 0.0 || ends.high_pct < 0.0)
    }

    fn direction(&self) -> Option<Direction> {
        self.paper?.ours.as_ref()?.direction
    }

    fn cells(&self) -> Vec<String> {
        let measured =
            |text: &dyn Fn(&Change) -> String| self.change().map_or(self.row.average.status().into(), text);
        vec![
            self.table.spec.study.clone(),
            format!("{} − {}", self.row.label, self.table.baseline_label()),
            measured(&|change| with_half_width(signed(change.mean_pct), self.interval())),
            measured(&|change| verdict(change.mean_pct, self.resolved()).into()),
            self.paper.map_or(NONE.into(), |check| signed(check.paper_pct)),
            self.direction().map_or(NONE.into(), |direction| direction.in_words().into()),
        ]
    }

    fn record(&self) -> Vec<String> {
        let number =
            |value: Option<f64>| value.map_or(String::new(), |value| format!("{:.4}", steady(value)));
        let covers = self.change().map(|change| match &change.seeds {
            Some(seeds) if seeds.interval_pct.is_some() => "questions, seeds",
            _ => "questions",
        });
        vec![
            self.table.spec.study.clone(),
            self.row.key.clone(),
            self.row.label.clone(),
            self.table.spec.baseline.clone(),
            self.row.average.status().into(),
            number(self.change().map(|change| change.mean_pct)),
            number(self.interval().map(|ends| ends.low_pct)),
            number(self.interval().map(|ends| ends.high_pct)),
            covers.unwrap_or_default().into(),
            number(self.paper.map(|check| check.paper_pct)),
            self.direction().map_or("", Direction::in_words).into(),
        ]
    }
}

fn lines(tables: &[Table]) -> Vec<Line<'_>> {
    tables.iter().flat_map(|table| table.changes.iter().map(move |row| line(table, row))).collect()
}

fn line<'a>(table: &'a Table, row: &'a ChangeRow) -> Line<'a> {
    let of = |check: &&Check| {
        let same = check.baseline.as_ref() == Some(&table.spec.baseline) && check.arm == row.key;
        same && check.benchmark == AVERAGE
    };
    Line { table, row, paper: table.verification.iter().find(of) }
}

/// The sheet as (file name, content): `summary.md` and `summary.csv`.
///
/// # Errors
/// None is expected; serialisation errors are passed on.
pub fn summary(tables: &[Table]) -> Result<Vec<(String, String)>> {
    let lines = lines(tables);
    let measured = |line: &&Line<'_>| matches!(line.row.average, Cell::Measured(_));
    let done = lines.iter().filter(measured).count();
    let mut text = String::from("# Every study on one sheet\n\n");
    if let Some(first) = tables.first() {
        text += &format!("Scale {}, training seeds {}. ", first.spec.scale, first.spec.seeds);
    }
    text += &format!(
        "{done} of {} differences are measured. Each is the paired difference of avg@k, averaged over the benchmarks, in \
         percentage points ± half of the 95 % interval, which covers training again under other seeds where there is \
         more than one. Not resolved: the interval spans zero. Paper: its difference (of single runs, without interval); \
         direction: whether ours has its sign. No correction is made for the number of differences: one in twenty true \
         zeros would be resolved by chance.\n\n",
        lines.len()
    );
    text += "| Study | Difference | ours | verdict | paper | direction |\n|---|---|---:|---|---:|---|\n";
    for line in &lines {
        let cells: Vec<String> = line.cells().iter().map(|cell| markdown_escape(cell)).collect();
        text += &format!("| {} |\n", cells.join(" | "));
    }
    let mut writer = csv::Writer::from_writer(vec![]);
    writer.write_record(COLUMNS)?;
    lines.iter().try_for_each(|line| writer.write_record(line.record()))?;
    Ok(vec![("summary.md".into(), text), ("summary.csv".into(), String::from_utf8(writer.into_inner()?)?)])
}
