//! The published numbers, from `results/paper/tables.csv`.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The file, part of the program: every benchmark score of the paper's tables.
const TABLES: &str = include_str!("../../../results/paper/tables.csv");
/// Columns before the benchmarks, and the one after them.
const FIRST_COLUMNS: [&str; 3] = ["table", "size", "row"];
const LAST_COLUMN: &str = "Avg";

/// The rows beside the main table: (table, size, row).
const MAIN_ROWS: [(&str, &str, &str); 6] = [
    ("T1-main", "7B", "Qwen2.5-VL-7B (base)"),
    ("T1-main", "7B", "+ GRPO"),
    ("T1-main", "7B", "+ DAPO"),
    ("T1-main", "7B", "+ VPPO"),
    ("T2-components", "7B", "+ TAS only"),
    ("T2-components", "7B", "+ TGF only"),
];

/// One published row: a single run, without interval or seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaperRow {
    /// Name of the table, such as `T1-main`.
    pub table: String,
    /// Size of the model, such as `7B`.
    pub size: String,
    /// Name of the row, as in the file.
    pub row: String,
    /// Scores in percent, by benchmark.
    pub scores_pct: BTreeMap<String, f64>,
    /// The average as printed by the paper, in percent.
    pub average_pct: f64,
}

impl PaperRow {
    /// The published values of these benchmarks, then the average: only where they are all that it is the average of.
    pub(super) fn values(&self, benchmarks: &[String]) -> Vec<Option<f64>> {
        let mut values: Vec<Option<f64>> =
            benchmarks.iter().map(|name| self.scores_pct.get(name).copied()).collect();
        let same_columns = values.len() == self.scores_pct.len() && values.iter().all(Option::is_some);
        values.push(same_columns.then_some(self.average_pct));
        values
    }
}

/// All published rows.
#[derive(Clone, Debug)]
pub struct PaperTables {
    /// The benchmarks in the paper's order: the columns of a result table.
    pub benchmarks: Vec<String>,
    /// The rows, in the order of the file.
    pub rows: Vec<PaperRow>,
}

impl PaperTables {
    /// Reads the tables that are part of the program.
    ///
    /// # Errors
    /// Names the line of `results/paper/tables.csv` that is not as expected.
    pub fn load() -> Result<PaperTables> {
        PaperTables::parse(TABLES, "results/paper/tables.csv")
    }

    /// Reads tables from CSV text. `file` is the name for error messages.
    ///
    /// # Errors
    /// Names file and line where the header or a row is not as expected.
    pub fn parse(text: &str, file: &str) -> Result<PaperTables> {
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let header: Vec<String> =
            reader.headers().with_context(|| format!("{file}, line 1"))?.iter().map(Into::into).collect();
        let framed = header.len() > 4
            && header[..3].iter().eq(&FIRST_COLUMNS)
            && header[header.len() - 1] == LAST_COLUMN;
        ensure!(framed, "{file}, line 1: the columns must be table,size,row, the benchmarks, Avg");
        let benchmarks = &header[3..header.len() - 1];
        let mut rows = Vec::new();
        for record in reader.records() {
            let record = record.with_context(|| format!("{file} cannot be read"))?;
            let line = record.position().map_or(0, csv::Position::line);
            rows.push(parse_row(&record, benchmarks).with_context(|| format!("{file}, line {line}"))?);
        }
        Ok(PaperTables { benchmarks: benchmarks.to_vec(), rows })
    }

    /// One row.
    ///
    /// # Errors
    /// There is no such row; the message lists the rows of that table and size.
    pub fn row(&self, table: &str, size: &str, row: &str) -> Result<&PaperRow> {
        let in_table = || self.rows.iter().filter(|r| r.table == table && r.size == size);
        in_table().find(|r| r.row == row).with_context(|| {
            let names: Vec<&str> = in_table().map(|r| r.row.as_str()).collect();
            format!("the paper's table {table} ({size}) has no row {row:?}; its rows: {}", names.join("; "))
        })
    }

    /// The rows beside the main table: base, GRPO, DAPO, VPPO (Table 1, 7B) and the components (Table 2).
    ///
    /// # Errors
    /// A row is not in the file.
    pub fn main_rows(&self) -> Result<Vec<PaperRow>> {
        MAIN_ROWS.iter().map(|(table, size, row)| self.row(table, size, row).cloned()).collect()
    }
}

/// The reader has checked that the record has a field for every column.
fn parse_row(record: &csv::StringRecord, benchmarks: &[String]) -> Result<PaperRow> {
    let scores = record
        .iter()
        .skip(FIRST_COLUMNS.len())
        .map(|field| field.parse::<f64>().with_context(|| format!("{field:?} is not a number")))
        .collect::<Result<Vec<f64>>>()?;
    ensure!(scores.iter().all(|score| (0.0..=100.0).contains(score)), "a score is not a percentage");
    let (&average_pct, scores) = scores.split_last().context("the row has no score")?;
    let text = |index: usize| record.get(index).unwrap_or_default().to_owned();
    let scores_pct = benchmarks.iter().cloned().zip(scores.iter().copied()).collect();
    Ok(PaperRow { table: text(0), size: text(1), row: text(2), scores_pct, average_pct })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_load_and_their_averages_are_means() {
        let tables = PaperTables::load().unwrap();
        assert_eq!(
            tables.benchmarks,
            ["MathVerse", "DynaMath", "MMK12", "Geo3k", "MathVision", "We-Math", "LogicVista", "MMMU-Pro"]
        );
        for row in &tables.rows {
            let mean = row.scores_pct.values().sum::<f64>() / 8.0;
            assert!((mean - row.average_pct).abs() <= 0.101, "{row:?}: {mean}");
        }
    }

    #[test]
    fn the_main_rows_are_there() {
        let averages: Vec<f64> =
            PaperTables::load().unwrap().main_rows().unwrap().iter().map(|row| row.average_pct).collect();
        assert_eq!(averages, [38.3, 53.1, 55.0, 57.5, 56.3, 57.1]);
    }

    #[test]
    fn errors_name_line_or_rows() {
        let header = "table,size,row,A,Avg\n";
        let error = |text: &str| format!("{:#}", PaperTables::parse(text, "t.csv").unwrap_err());
        assert!(error("table,row,A,B,Avg\n").contains("t.csv, line 1"));
        assert!(error(&format!("{header}T,7B,r,x,1\n")).contains("t.csv, line 2: \"x\" is not a number"));
        assert!(error(&format!("{header}T,7B,r,1,1\nT,7B,r,NaN,1\n")).contains("t.csv, line 3"));
        assert!(error(&format!("{header}T,7B,r,1\n")).contains("line: 2"));
        let missing = PaperTables::load().unwrap().row("T6-mask", "7B", "soft").unwrap_err().to_string();
        assert!(missing.contains("VPPO w/ Soft Mask; VPPO (Binary Mask)"), "{missing}");
    }
}
