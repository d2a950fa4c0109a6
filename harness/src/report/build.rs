//! From the scores of the arms to the numbers of a table.

use super::table::{
    Arm, ArmState, Cell, Change, ChangeRow, Counts, Interval, Score, ScoreRow, Table, TableSpec,
};
use crate::stats::{
    Clusters, Difference, Estimate, ItemMean, ItemScore, Resampling, by_benchmark, compare, item_differences,
    seed_deviation,
};
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};

/// A measured arm: its scores and their means by benchmark.
struct Board<'a> {
    scores: &'a [ItemScore],
    means: BTreeMap<&'a str, Vec<ItemMean<'a>>>,
    counts: BTreeMap<&'a str, Counts>,
}

/// A score together with the estimate from which averages are made.
type Scored = (Estimate, Score);

impl Table {
    /// Computes the table of `arms`, in the order given, with the differences to the baseline.
    ///
    /// # Errors
    /// Names what is wrong: two arms with one key; no arm with the key of the baseline; scores of another arm,
    /// of a benchmark that is no column, without exactly k samples, missing under a seed; on a benchmark that
    /// both have, an item that the arm or the baseline lacks.
    pub fn new(spec: TableSpec, arms: &[Arm]) -> Result<Table> {
        check(&spec, arms)?;
        let boards: Vec<Cell<Board>> = arms.iter().map(|arm| board(&spec, arm)).collect::<Result<_>>()?;
        let rows = arms
            .iter()
            .zip(&boards)
            .map(|(arm, board)| score_row(&spec, arm, board))
            .collect::<Result<_>>()?;
        let baseline = arms.iter().position(|arm| arm.key == spec.baseline);
        let baseline = baseline.map_or(&Cell::NotRun, |index| &boards[index]);
        let changes = arms
            .iter()
            .zip(&boards)
            .filter(|(arm, _)| arm.key != spec.baseline)
            .map(|(arm, board)| {
                change_row(&spec, arm, board, baseline)
                    .with_context(|| format!("arm {} against baseline {}", arm.key, spec.baseline))
            })
            .collect::<Result<_>>()?;
        Ok(Table { spec, rows, changes })
    }
}

fn check(spec: &TableSpec, arms: &[Arm]) -> Result<()> {
    let mut keys = BTreeSet::new();
    for arm in arms {
        ensure!(keys.insert(arm.key.as_str()), "two arms have the key {}; rename one", arm.key);
    }
    ensure!(
        keys.contains(spec.baseline.as_str()),
        "no arm has the key of the baseline, {}; the arms: {}",
        spec.baseline,
        arms.iter().map(|arm| arm.key.as_str()).collect::<Vec<_>>().join(", ")
    );
    let columns: BTreeSet<&String> = spec.benchmarks.iter().collect();
    ensure!(
        !columns.is_empty() && columns.len() == spec.benchmarks.len(),
        "a table needs at least one benchmark and each once, not {:?}",
        spec.benchmarks
    );
    Ok(())
}

fn board<'a>(spec: &TableSpec, arm: &'a Arm) -> Result<Cell<Board<'a>>> {
    let scores = match &arm.state {
        ArmState::NotRun => return Ok(Cell::NotRun),
        ArmState::Running => return Ok(Cell::Running),
        ArmState::Measured(scores) => scores,
    };
    ensure!(!scores.is_empty(), "arm {} is given as measured, but has no scores", arm.key);
    if let Some(other) = scores.iter().find(|score| score.arm != arm.key) {
        anyhow::bail!("arm {} was given scores of arm {}", arm.key, other.arm);
    }
    let means = by_benchmark(scores, spec.samples)?;
    if let Some(other) = means.keys().find(|name| spec.benchmarks.iter().all(|column| column != *name)) {
        anyhow::bail!("arm {}: {other} is no column of the table ({})", arm.key, spec.benchmarks.join(", "));
    }
    let mut counts: BTreeMap<&str, Counts> = BTreeMap::new();
    for score in scores {
        let sum = counts.entry(&score.benchmark).or_default();
        *sum = sum.add(score);
    }
    Ok(Cell::Measured(Board { scores, means, counts }))
}

impl Board<'_> {
    fn seeds(&self) -> Vec<u64> {
        self.scores.iter().map(|score| score.seed).collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn score(&self, benchmark: &str) -> Result<Cell<Scored>> {
        let Some(items) = self.means.get(benchmark) else { return Ok(Cell::NotRun) };
        let clusters = Clusters::new(items.iter().map(|item| (item.cluster, item.avg)))?;
        let estimate = Estimate::of(&clusters);
        let mean = |part: fn(&ItemMean) -> f64| items.iter().map(part).sum::<f64>() / items.len() as f64;
        let score = Score {
            avg_pct: pct(estimate.mean),
            se_pct: estimate.se.map(pct),
            interval_pct: interval(estimate),
            pass_pct: pct(mean(|item| item.pass)),
            majority_pct: pct(mean(|item| item.majority)),
            items: items.len(),
            clusters: clusters.count(),
            counts: self.counts.get(benchmark).copied().unwrap_or_default(),
        };
        Ok(Cell::Measured((estimate, score)))
    }

    fn total(&self) -> Counts {
        self.scores.iter().fold(Counts::default(), Counts::add)
    }
}

fn score_row(spec: &TableSpec, arm: &Arm, board: &Cell<Board<'_>>) -> Result<ScoreRow> {
    let scored = spec
        .benchmarks
        .iter()
        .map(|benchmark| match board {
            Cell::NotRun => Ok(Cell::NotRun),
            Cell::Running => Ok(Cell::Running),
            Cell::Measured(board) => board.score(benchmark),
        })
        .collect::<Result<Vec<Cell<Scored>>>>()?;
    let average = board.and_then(|board| average_score(&scored, board.total()));
    let deviation = board.measured().filter(|_| average.measured().is_some());
    Ok(ScoreRow {
        key: arm.key.clone(),
        label: arm.label.clone(),
        seeds: board.measured().map(Board::seeds).unwrap_or_default(),
        cells: scored.iter().map(|cell| cell.and_then(|(_, score)| Cell::Measured(score.clone()))).collect(),
        average,
        seed_deviation_pct: deviation.and_then(|board| seed_deviation(board.scores)).map(pct),
        counts: board.and_then(|board| Cell::Measured(board.total())),
    })
}

/// The unweighted mean of the benchmarks; not run while one of them is missing.
fn average_score(scored: &[Cell<Scored>], counts: Counts) -> Cell<Score> {
    let Some(parts) = scored.iter().map(Cell::measured).collect::<Option<Vec<&Scored>>>() else {
        return Cell::NotRun;
    };
    let estimates: Vec<Estimate> = parts.iter().map(|(estimate, _)| *estimate).collect();
    let Some(estimate) = Estimate::average(&estimates) else { return Cell::NotRun };
    let mean = |part: fn(&Score) -> f64| {
        parts.iter().map(|(_, score)| part(score)).sum::<f64>() / parts.len() as f64
    };
    Cell::Measured(Score {
        avg_pct: pct(estimate.mean),
        se_pct: estimate.se.map(pct),
        interval_pct: interval(estimate),
        pass_pct: steady(mean(|score| score.pass_pct)),
        majority_pct: steady(mean(|score| score.majority_pct)),
        items: parts.iter().map(|(_, score)| score.items).sum(),
        clusters: parts.iter().map(|(_, score)| score.clusters).sum(),
        counts,
    })
}

fn change_row(
    spec: &TableSpec,
    arm: &Arm,
    ours: &Cell<Board<'_>>,
    theirs: &Cell<Board<'_>>,
) -> Result<ChangeRow> {
    let pairs = spec
        .benchmarks
        .iter()
        .map(|benchmark| paired(benchmark, ours, theirs).with_context(|| benchmark.clone()))
        .collect::<Result<Vec<Cell<Clusters>>>>()?;
    let common: Vec<(&str, Clusters)> = spec
        .benchmarks
        .iter()
        .zip(&pairs)
        .filter_map(|(name, pair)| pair.measured().map(|clusters| (name.as_str(), clusters.clone())))
        .collect();
    let resampling =
        Resampling { seed: spec.statistics_seed, resamples: spec.resamples, comparison: &arm.key };
    let comparison = compare(&common, resampling);
    let mut results = comparison.benchmarks.iter().zip(&comparison.p_holm);
    let cells: Vec<Cell<Change>> = pairs
        .iter()
        .map(|pair| {
            pair.and_then(|_| match results.next() {
                Some((difference, &p_holm)) => Cell::Measured(change(difference, Some(p_holm))),
                None => Cell::NotRun,
            })
        })
        .collect();
    let average = both(ours, theirs).and_then(|_| match comparison.average {
        Some(difference) if common.len() == cells.len() => Cell::Measured(change(&difference, None)),
        _ => Cell::NotRun,
    });
    Ok(ChangeRow { key: arm.key.clone(), label: arm.label.clone(), cells, average })
}

/// The boards of two arms that are both measured; else the state of the one that is less far.
fn both<'a, 'b>(ours: &'a Cell<Board<'b>>, theirs: &'a Cell<Board<'b>>) -> Cell<[&'a Board<'b>; 2]> {
    match (ours, theirs) {
        (Cell::Measured(ours), Cell::Measured(theirs)) => Cell::Measured([ours, theirs]),
        (Cell::NotRun, _) | (_, Cell::NotRun) => Cell::NotRun,
        _ => Cell::Running,
    }
}

fn paired(benchmark: &str, ours: &Cell<Board<'_>>, theirs: &Cell<Board<'_>>) -> Result<Cell<Clusters>> {
    let boards = match both(ours, theirs) {
        Cell::NotRun => return Ok(Cell::NotRun),
        Cell::Running => return Ok(Cell::Running),
        Cell::Measured(boards) => boards,
    };
    match boards.map(|board| board.means.get(benchmark)) {
        [Some(ours), Some(theirs)] => item_differences(ours, theirs).map(Cell::Measured),
        _ => Ok(Cell::NotRun),
    }
}

fn change(difference: &Difference, p_holm: Option<f64>) -> Change {
    let estimate = difference.estimate;
    Change {
        mean_pct: pct(estimate.mean),
        se_pct: estimate.se.map(pct),
        interval_pct: interval(estimate),
        resolved: estimate.resolved(),
        p: steady(difference.p),
        p_holm: p_holm.map(steady),
        detectable_pct: estimate.detectable().map(pct),
    }
}

fn interval(estimate: Estimate) -> Option<Interval> {
    let half = estimate.half_width()?;
    Some(Interval { low_pct: pct(estimate.mean - half), high_pct: pct(estimate.mean + half) })
}

/// A fraction in percent.
fn pct(fraction: f64) -> f64 {
    steady(100.0 * fraction)
}

/// Rounded to six decimals, so that the last bits of a library function never reach a file.
fn steady(value: f64) -> f64 {
    (value * 1e6).round() / 1e6 + 0.0
}
