//! A table for machines: JSON with every number, CSV in long form (one line per cell).

use super::table::{Cell, Change, Interval, Score, Table};
use anyhow::Result;

const SCORES: [&str; 20] = [
    "arm",
    "label",
    "benchmark",
    "status",
    "value_pct",
    "low_pct",
    "high_pct",
    "items",
    "clusters",
    "samples",
    "seeds",
    "pass_pct",
    "majority_pct",
    "mean_tokens",
    "no_answer_pct",
    "truncated_pct",
    "seeds_low_pct",
    "seeds_high_pct",
    "seeds_se_pct",
    "protocol",
];
const DIFFERENCES: [&str; 15] = [
    "arm",
    "label",
    "baseline",
    "benchmark",
    "status",
    "value_pct",
    "low_pct",
    "high_pct",
    "resolved",
    "p",
    "p_holm",
    "detectable_pct",
    "seeds_low_pct",
    "seeds_high_pct",
    "resolved_with_seeds",
];

impl Table {
    /// Everything, as indented JSON.
    ///
    /// # Errors
    /// None is expected; serialisation errors are passed on.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// One line per arm and benchmark, and per arm and average (`Avg`); cells without a value are empty.
    ///
    /// # Errors
    /// None is expected; serialisation errors are passed on.
    pub fn scores_csv(&self) -> Result<String> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(SCORES)?;
        for row in &self.rows {
            for (benchmark, cell) in self.named(&row.cells, &row.average) {
                let head = [&row.key, &row.label, benchmark, cell.status()].map(String::from);
                let fields = score_fields(cell, row.seeds.len());
                writer.write_record(head.into_iter().chain(fields).chain([self.spec.protocol_name()]))?;
            }
        }
        Ok(String::from_utf8(writer.into_inner()?)?)
    }

    /// One line per arm but the baseline and benchmark (and `Avg`); cells without a value are empty.
    ///
    /// # Errors
    /// None is expected; serialisation errors are passed on.
    pub fn differences_csv(&self) -> Result<String> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(DIFFERENCES)?;
        for row in &self.changes {
            for (benchmark, cell) in self.named(&row.cells, &row.average) {
                let head = [&row.key, &row.label, &self.spec.baseline, benchmark, cell.status()];
                writer.write_record(head.map(String::from).into_iter().chain(change_fields(cell)))?;
            }
        }
        Ok(String::from_utf8(writer.into_inner()?)?)
    }

    fn named<'a, T>(
        &'a self,
        cells: &'a [Cell<T>],
        average: &'a Cell<T>,
    ) -> impl Iterator<Item = (&'a str, &'a Cell<T>)> {
        self.spec.benchmarks.iter().map(String::as_str).zip(cells).chain([("Avg", average)])
    }
}

fn score_fields(cell: &Cell<Score>, seeds: usize) -> [String; 15] {
    let Some(score) = cell.measured() else { return Default::default() };
    let [low, high] = ends(score.interval_pct);
    let [seeds_low, seeds_high] = ends(score.seeds.as_ref().and_then(|seeds| seeds.interval_pct));
    let optional = |value: Option<f64>| value.map(number).unwrap_or_default();
    let counts = &score.counts;
    [
        number(score.avg_pct),
        low,
        high,
        score.items.to_string(),
        score.clusters.to_string(),
        counts.samples.to_string(),
        seeds.to_string(),
        number(score.pass_pct),
        number(score.majority_pct),
        optional(counts.mean_tokens()),
        optional(counts.share_pct(counts.no_answer)),
        optional(counts.share_pct(counts.truncated)),
        seeds_low,
        seeds_high,
        optional(score.seeds.as_ref().map(|seeds| seeds.seeds.se_pct)),
    ]
}

fn change_fields(cell: &Cell<Change>) -> [String; 10] {
    let Some(change) = cell.measured() else { return Default::default() };
    let [low, high] = ends(change.interval_pct);
    let [seeds_low, seeds_high] = ends(change.seeds.as_ref().and_then(|seeds| seeds.interval_pct));
    [
        number(change.mean_pct),
        low,
        high,
        change.resolved.to_string(),
        number(change.p),
        change.p_holm.map(number).unwrap_or_default(),
        change.detectable_pct.map(number).unwrap_or_default(),
        seeds_low,
        seeds_high,
        change.resolved_with_seeds().map(|resolved| resolved.to_string()).unwrap_or_default(),
    ]
}

fn ends(interval: Option<Interval>) -> [String; 2] {
    interval.map(|ends| [number(ends.low_pct), number(ends.high_pct)]).unwrap_or_default()
}

fn number(value: f64) -> String {
    format!("{value:.4}")
}
