//! Published values beside ours: the paper's score of every arm that reproduces one of its rows, and the paper's
//! differences between such arms beside our paired ones.
//!
//! A number of another model or of other questions verifies nothing: [`Footing`] says what ours are of, and only on the
//! paper's own footing is it told whether the published value lies inside our interval. The direction of a difference is
//! told on any footing. The interval is the one that covers the training seeds, where that is known.
//!
//! What it does not know: how a row of the paper came about. It is one run, whose own chance is in no interval here.
//!
//! Source: the values are the paper's tables (arXiv 2510.09285) as printed, rounded to 0.1.

use super::build::steady;
use super::sections::{NONE, Section, optional, signed, with_half_width};
use super::table::{Cell, Change, Footing, Interval, Published, Score, ScoreRow, Table, TableSpec};
use anyhow::Result;
use serde::{Deserialize, Serialize};

const AVERAGE: &str = "Avg";
const COLUMNS: [&str; 17] = [
    "what",
    "arm",
    "label",
    "baseline",
    "table",
    "size",
    "row",
    "benchmark",
    "status",
    "paper_pct",
    "value_pct",
    "low_pct",
    "high_pct",
    "interval_covers",
    "ours_minus_paper_pct",
    "inside",
    "direction",
];

/// What our side of a check is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Nothing was evaluated.
    NotRun,
    /// An evaluation was begun and is not complete.
    Running,
    /// Of another model and other questions than the paper's.
    Tiny,
    /// Of the paper's model, but with other settings or not of all questions.
    Partial,
    /// Of the paper's model, settings and questions.
    Measured,
}

impl Standing {
    fn in_words(self) -> &'static str {
        match self {
            Standing::NotRun => "not run",
            Standing::Running => "running",
            Standing::Tiny => "tiny",
            Standing::Partial => "partial",
            Standing::Measured => "measured",
        }
    }

    /// With what may be read from such a check, where that is not all.
    fn with_limit(self, limit: &str) -> String {
        match self {
            Standing::Tiny | Standing::Partial => format!("{}: {limit}", self.in_words()),
            _ => self.in_words().into(),
        }
    }
}

/// What our difference says about the sign of the paper's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Our interval excludes zero, on the paper's side.
    Agrees,
    /// Our interval excludes zero, on the other side.
    Opposite,
    /// Our interval spans zero, or there is none.
    NotResolved,
    /// The paper's difference is zero.
    NoneInPaper,
}

impl Direction {
    fn of(paper_pct: f64, value_pct: f64, interval: Option<Interval>) -> Direction {
        let resolved = interval.is_some_and(|ends| ends.low_pct > 0.0 || ends.high_pct < 0.0);
        match (paper_pct == 0.0, resolved) {
            (true, _) => Direction::NoneInPaper,
            (false, false) => Direction::NotResolved,
            (false, true) if (value_pct > 0.0) == (paper_pct > 0.0) => Direction::Agrees,
            (false, true) => Direction::Opposite,
        }
    }

    pub(super) fn in_words(self) -> &'static str {
        match self {
            Direction::Agrees => "agrees",
            Direction::Opposite => "opposite",
            Direction::NotResolved => "not resolved",
            Direction::NoneInPaper => "none in the paper",
        }
    }
}

/// A published value and ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Key of the arm.
    pub arm: String,
    /// Its name; of a difference that of both arms, such as `VPPO − DAPO`.
    pub label: String,
    /// Key of the arm that is subtracted; absent for a score.
    pub baseline: Option<String>,
    /// Name of the paper's table; of a difference between two tables both, such as `T2-components − T1-main`.
    pub table: String,
    /// Size of the paper's model.
    pub size: String,
    /// The row of that table, of a difference both, such as `+ VPPO − + DAPO`.
    pub row: String,
    /// The benchmark, or `Avg`.
    pub benchmark: String,
    /// The published value: percent, or percentage points of a difference.
    pub paper_pct: f64,
    /// What ours is.
    pub status: Standing,
    /// Ours; absent while not run or running.
    pub ours: Option<Ours>,
}

/// Our side of a check.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ours {
    /// Percent, or percentage points of a difference.
    pub value_pct: f64,
    /// The 95 % interval that counts here; absent where there is none.
    pub interval_pct: Option<Interval>,
    /// Whether the interval covers the training seeds besides the questions.
    pub with_seeds: bool,
    /// Ours minus the paper's.
    pub ours_minus_paper_pct: f64,
    /// Whether the published value lies inside the interval; absent without one and unless `measured`.
    pub inside: Option<bool>,
    /// Of a difference: what ours says about the sign of the paper's.
    pub direction: Option<Direction>,
}

/// Our number in a cell of a table and what it is known from.
#[derive(Clone, Copy)]
struct Reading {
    value_pct: f64,
    interval_pct: Option<Interval>,
    with_seeds: bool,
}

impl Reading {
    fn new(value_pct: f64, questions: Option<Interval>, seeds: Option<Interval>) -> Reading {
        Reading { value_pct, interval_pct: seeds.or(questions), with_seeds: seeds.is_some() }
    }

    fn of_score(score: &Score) -> Reading {
        let seeds = score.seeds.as_ref().and_then(|seeds| seeds.interval_pct);
        Reading::new(score.avg_pct, score.interval_pct, seeds)
    }

    fn of_change(change: &Change) -> Reading {
        let seeds = change.seeds.as_ref().and_then(|seeds| seeds.interval_pct);
        Reading::new(change.mean_pct, change.interval_pct, seeds)
    }

    fn beside(self, paper_pct: f64, status: Standing, difference: bool) -> Ours {
        let Reading { value_pct, interval_pct, with_seeds } = self;
        let within = |ends: Interval| (ends.low_pct..=ends.high_pct).contains(&paper_pct);
        Ours {
            value_pct,
            interval_pct,
            with_seeds,
            ours_minus_paper_pct: steady(value_pct - paper_pct),
            inside: interval_pct.filter(|_| status == Standing::Measured).map(within),
            direction: difference.then(|| Direction::of(paper_pct, value_pct, interval_pct)),
        }
    }
}

impl TableSpec {
    /// What a measured cell of an arm is, by its column; the one after the benchmarks is the average.
    fn standing(&self, row: &ScoreRow, column: usize) -> Standing {
        let Footing::Paper { items } = &self.footing else {
            return if self.footing == Footing::Tiny { Standing::Tiny } else { Standing::Partial };
        };
        let whole = |at: usize| row.cells[at].measured().is_some_and(|score| score.items == items[at]);
        let all = if column < items.len() { whole(column) } else { (0..items.len()).all(whole) };
        if all { Standing::Measured } else { Standing::Partial }
    }

    fn column_name(&self, column: usize) -> String {
        self.benchmarks.get(column).map_or(AVERAGE, String::as_str).to_owned()
    }
}

impl Table {
    /// Every published value beside ours: the scores of each arm that has a row of the paper, then the differences to the
    /// baseline of each that has one of the same model size.
    pub(super) fn checks(&self) -> Vec<Check> {
        let rows = self.spec.paper.iter().flat_map(|published| self.score_checks(published));
        rows.chain(self.spec.paper.iter().flat_map(|published| self.difference_checks(published))).collect()
    }

    fn row(&self, key: &str) -> Option<&ScoreRow> {
        self.rows.iter().find(|row| row.key == key)
    }

    fn score_checks(&self, published: &Published) -> Vec<Check> {
        let Some(row) = self.row(&published.arm) else { return vec![] };
        let blank = Check {
            arm: row.key.clone(),
            label: row.label.clone(),
            baseline: None,
            table: published.row.table.clone(),
            size: published.row.size.clone(),
            row: published.row.row.clone(),
            benchmark: String::new(),
            paper_pct: 0.0,
            status: Standing::NotRun,
            ours: None,
        };
        let values = published.row.values(&self.spec.benchmarks);
        self.fill(&blank, row, &values, row.cells.iter().chain([&row.average]), Reading::of_score)
    }

    fn difference_checks(&self, published: &Published) -> Vec<Check> {
        let theirs = self.spec.paper.iter().find(|other| {
            other.arm == self.spec.baseline
                && other.row.size == published.row.size
                && other.arm != published.arm
        });
        let change = self.changes.iter().find(|change| change.key == published.arm);
        let (Some(theirs), Some(change), Some(row)) = (theirs, change, self.row(&published.arm)) else {
            return vec![];
        };
        let tables = [&published.row.table, &theirs.row.table];
        let blank = Check {
            arm: row.key.clone(),
            label: format!("{} − {}", row.label, self.baseline_label()),
            baseline: Some(self.spec.baseline.clone()),
            table: if tables[0] == tables[1] {
                tables[0].clone()
            } else {
                tables.map(String::as_str).join(" − ")
            },
            size: published.row.size.clone(),
            row: format!("{} − {}", published.row.row, theirs.row.row),
            benchmark: String::new(),
            paper_pct: 0.0,
            status: Standing::NotRun,
            ours: None,
        };
        let benchmarks = &self.spec.benchmarks;
        let pairs = published.row.values(benchmarks).into_iter().zip(theirs.row.values(benchmarks));
        let values: Vec<Option<f64>> = pairs.map(|(ours, theirs)| Some(steady(ours? - theirs?))).collect();
        self.fill(&blank, row, &values, change.cells.iter().chain([&change.average]), Reading::of_change)
    }

    /// A check for each column that has a published value.
    fn fill<'a, T: 'a>(
        &self,
        blank: &Check,
        row: &ScoreRow,
        published: &[Option<f64>],
        cells: impl Iterator<Item = &'a Cell<T>>,
        read: impl Fn(&T) -> Reading,
    ) -> Vec<Check> {
        let columns = published.iter().zip(cells).enumerate();
        let check = |(column, (paper_pct, cell)): (usize, (&Option<f64>, &'a Cell<T>))| {
            let paper_pct = (*paper_pct)?;
            let status = match cell {
                Cell::NotRun => Standing::NotRun,
                Cell::Running => Standing::Running,
                Cell::Measured(_) => self.spec.standing(row, column),
            };
            let beside = |value| read(value).beside(paper_pct, status, blank.baseline.is_some());
            let ours = cell.measured().map(beside);
            let benchmark = self.spec.column_name(column);
            Some(Check { benchmark, paper_pct, status, ours, ..blank.clone() })
        };
        columns.filter_map(check).collect()
    }

    /// The averages of the paper beside ours.
    pub(super) fn verification_section(&self) -> Option<Section> {
        let header = ["Arm", "published", "paper", "ours", "± covers", "ours − paper", "inside ±", "status"];
        let of = |check: &&Check| check.baseline.is_none() && check.benchmark == AVERAGE;
        let rows: Vec<Vec<String>> = self.verification.iter().filter(of).map(score_cells).collect();
        (!rows.is_empty()).then(|| Section {
            title: "Verification: the paper's Avg beside ours, in percent".into(),
            note: "Status measured: the paper's model, settings and questions. Partial: the paper's model, but other \
                   settings or not all questions. Tiny: another model and other questions. The last two are not \
                   comparable: what ours − paper is there says nothing about the paper. Inside ±: whether the paper's \
                   value lies in our 95 % interval. It is one run whose own chance is not known: outside refutes \
                   nothing by itself, inside a wide interval confirms little. Each benchmark stands in \
                   the file that ends in .verification.csv."
                .into(),
            header: header.map(String::from).into(),
            groups: vec![rows],
        })
    }

    /// The differences of the paper's averages beside ours.
    pub(super) fn claim_section(&self) -> Option<Section> {
        let header =
            ["Claim", "published", "paper", "ours", "± covers", "paper's inside ±", "direction", "status"];
        let of = |check: &&Check| check.baseline.is_some() && check.benchmark == AVERAGE;
        let rows: Vec<Vec<String>> = self.verification.iter().filter(of).map(claim_cells).collect();
        (!rows.is_empty()).then(|| Section {
            title: "Claims: the paper's differences of Avg beside ours, in percentage points".into(),
            note: "Direction: agrees or opposite where our 95 % interval excludes zero, else not resolved; the paper's \
                   difference is of single runs and has no interval. The size of a difference is compared where the \
                   status is measured; elsewhere only its direction means something."
                .into(),
            header: header.map(String::from).into(),
            groups: vec![rows],
        })
    }

    /// One line per published value, scores before differences; cells without a value are empty.
    ///
    /// # Errors
    /// None is expected; serialisation errors are passed on.
    pub fn verification_csv(&self) -> Result<String> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(COLUMNS)?;
        self.verification.iter().try_for_each(|check| writer.write_record(fields(check)))?;
        Ok(String::from_utf8(writer.into_inner()?)?)
    }
}

fn fields(check: &Check) -> Vec<String> {
    let what = if check.baseline.is_some() { "difference" } else { "score" };
    let mut fields = [what, &check.arm, &check.label, check.baseline.as_deref().unwrap_or_default()].to_vec();
    fields.extend([&*check.table, &check.size, &check.row, &check.benchmark, check.status.in_words()]);
    let number = |value: f64| format!("{value:.4}");
    let Some(ours) = check.ours else {
        let own = fields.into_iter().map(String::from).chain([number(check.paper_pct)]);
        return own.chain(std::iter::repeat_n(String::new(), 7)).collect();
    };
    let end = |end: fn(Interval) -> f64| ours.interval_pct.map(|ends| number(end(ends))).unwrap_or_default();
    let own = fields.into_iter().map(String::from);
    own.chain([
        number(check.paper_pct),
        number(ours.value_pct),
        end(|ends| ends.low_pct),
        end(|ends| ends.high_pct),
        ours.interval_pct.map(|_| ours.covers().to_owned()).unwrap_or_default(),
        number(ours.ours_minus_paper_pct),
        ours.inside.map(|inside| inside.to_string()).unwrap_or_default(),
        ours.direction.map(|direction| direction.in_words().to_owned()).unwrap_or_default(),
    ])
    .collect()
}

impl Ours {
    fn covers(&self) -> &'static str {
        if self.with_seeds { "questions, seeds" } else { "questions" }
    }
}

/// The text of our side of a check, or that there is none.
fn show(check: &Check, text: impl Fn(&Ours) -> String) -> String {
    check.ours.as_ref().map_or(NONE.into(), text)
}

fn covers(check: &Check) -> String {
    show(check, |ours| ours.interval_pct.map_or(NONE, |_| ours.covers()).into())
}

fn inside(check: &Check) -> String {
    show(check, |ours| ours.inside.map_or(NONE, |inside| if inside { "yes" } else { "no" }).into())
}

fn score_cells(check: &Check) -> Vec<String> {
    vec![
        check.label.clone(),
        format!("{}, {}: {}", check.table, check.size, check.row),
        optional(Some(check.paper_pct)),
        ours(check, |value| format!("{value:.1}")),
        covers(check),
        show(check, |ours| signed(ours.ours_minus_paper_pct)),
        inside(check),
        check.status.with_limit("not comparable"),
    ]
}

fn claim_cells(check: &Check) -> Vec<String> {
    vec![
        check.label.clone(),
        format!("{}, {}", check.table, check.size),
        signed(check.paper_pct),
        ours(check, signed),
        covers(check),
        inside(check),
        show(check, |ours| ours.direction.map_or(NONE, Direction::in_words).into()),
        check.status.with_limit("direction only"),
    ]
}

/// Our value with half of its interval, or why there is none.
fn ours(check: &Check, text: impl Fn(f64) -> String) -> String {
    let with_interval = |ours: &Ours| with_half_width(text(ours.value_pct), ours.interval_pct);
    check.ours.as_ref().map_or(check.status.in_words().into(), with_interval)
}
