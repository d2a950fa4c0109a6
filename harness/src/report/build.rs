//! From the scores of the arms to the numbers of a table.

use super::table::{
    Arm, ArmState, Cell, Change, ChangeRow, Counts, Footing, Interval, Part, RunScore, Score, ScoreRow,
    SeedScore, Table, TableSpec,
};
use crate::stats::{
    Clusters, Difference, Estimate, ItemMean, ItemScore, OverRuns, Resampling, SeedSpread, by_benchmark,
    compare, item_differences,
};
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};

/// A measured arm: its scores and their means by benchmark.
struct Board<'a> {
    scores: &'a [ItemScore],
    means: BTreeMap<&'a str, Vec<ItemMean<'a>>>,
    counts: BTreeMap<&'a str, Counts>,
}

/// A score together with what averages are made from.
struct Scored {
    estimate: Estimate,
    spread: Option<SeedSpread>,
    score: Score,
}

/// Item differences of two arms on one benchmark, by cluster and, if both have the same seeds, by seed.
struct Paired {
    clusters: Clusters,
    spread: Option<SeedSpread>,
}

impl Table {
    /// Computes the table of `arms`, in the order given, with the differences to the baseline.
    ///
    /// # Errors
    /// Names what is wrong: two arms with one key; no arm with the key of the baseline or of a published row; scores of another arm,
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
        let mut table = Table { spec, rows, changes, verification: vec![] };
        table.verification = table.checks();
        Ok(table)
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
    if let Some(other) = spec.paper.iter().find(|published| !keys.contains(published.arm.as_str())) {
        anyhow::bail!("the published row {:?} belongs to {}, which is no arm", other.row.row, other.arm);
    }
    if let Footing::Paper { items } = &spec.footing {
        ensure!(
            items.len() == columns.len(),
            "{} numbers of items are given for {} benchmarks",
            items.len(),
            columns.len()
        );
    }
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
        let spread = SeedSpread::of(items);
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
            seeds: spread.as_ref().map(seed_score),
        };
        Ok(Cell::Measured(Scored { estimate, spread, score }))
    }

    /// Scores by benchmark of the table and by seed; `None` for one seed and while a benchmark is missing.
    fn runs(&self, spec: &TableSpec) -> Option<Vec<Vec<f64>>> {
        let of = |benchmark: &String| Some(SeedSpread::of(self.means.get(benchmark.as_str())?)?.mean_s);
        spec.benchmarks.iter().map(of).collect()
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
    let runs = board.measured().and_then(|board| board.runs(spec));
    let over_runs = |statistic: fn(&[Vec<f64>], Resampling<'_>) -> OverRuns| {
        runs.as_ref().map(|runs| run_score(statistic(runs, resampling(spec, &arm.key))))
    };
    Ok(ScoreRow {
        key: arm.key.clone(),
        label: arm.label.clone(),
        seeds: board.measured().map(Board::seeds).unwrap_or_default(),
        cells: scored
            .iter()
            .map(|cell| cell.and_then(|scored| Cell::Measured(scored.score.clone())))
            .collect(),
        average,
        runs_mean: over_runs(OverRuns::mean),
        runs_iqm: over_runs(OverRuns::interquartile_mean),
        counts: board.and_then(|board| Cell::Measured(board.total())),
    })
}

/// The unweighted mean of the benchmarks; not run while one of them is missing.
fn average_score(scored: &[Cell<Scored>], counts: Counts) -> Cell<Score> {
    let Some(parts) = scored.iter().map(Cell::measured).collect::<Option<Vec<&Scored>>>() else {
        return Cell::NotRun;
    };
    let estimates: Vec<Estimate> = parts.iter().map(|part| part.estimate).collect();
    let Some(estimate) = Estimate::average(&estimates) else { return Cell::NotRun };
    let mean = |value: fn(&Score) -> f64| {
        parts.iter().map(|part| value(&part.score)).sum::<f64>() / parts.len() as f64
    };
    Cell::Measured(Score {
        avg_pct: pct(estimate.mean),
        se_pct: estimate.se.map(pct),
        interval_pct: interval(estimate),
        pass_pct: steady(mean(|score| score.pass_pct)),
        majority_pct: steady(mean(|score| score.majority_pct)),
        items: parts.iter().map(|part| part.score.items).sum(),
        clusters: parts.iter().map(|part| part.score.clusters).sum(),
        counts,
        seeds: average_spread(parts.iter().map(|part| &part.spread)),
    })
}

/// What the seeds do to the average; `None` where that is not known of every benchmark.
fn average_spread<'a>(spreads: impl Iterator<Item = &'a Option<SeedSpread>>) -> Option<SeedScore> {
    let spreads: Vec<SeedSpread> = spreads.cloned().collect::<Option<_>>()?;
    SeedSpread::average(&spreads).as_ref().map(seed_score)
}

fn resampling<'a>(spec: &TableSpec, comparison: &'a str) -> Resampling<'a> {
    Resampling { seed: spec.statistics_seed, resamples: spec.resamples, comparison }
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
        .collect::<Result<Vec<Cell<Paired>>>>()?;
    let common: Vec<(&str, Clusters)> = spec
        .benchmarks
        .iter()
        .zip(&pairs)
        .filter_map(|(name, pair)| pair.measured().map(|pair| (name.as_str(), pair.clusters.clone())))
        .collect();
    let comparison = compare(&common, resampling(spec, &arm.key));
    let mut results = comparison.benchmarks.iter().zip(&comparison.p_holm);
    let cells: Vec<Cell<Change>> = pairs
        .iter()
        .map(|pair| {
            pair.and_then(|pair| match results.next() {
                Some((difference, &p_holm)) => {
                    Cell::Measured(change(difference, Some(p_holm), pair.spread.as_ref().map(seed_score)))
                }
                None => Cell::NotRun,
            })
        })
        .collect();
    let average = both(ours, theirs).and_then(|_| match comparison.average {
        Some(difference) if common.len() == cells.len() => {
            let spreads = pairs.iter().filter_map(Cell::measured).map(|pair| &pair.spread);
            Cell::Measured(change(&difference, None, average_spread(spreads)))
        }
        _ => Cell::NotRun,
    });
    let better = both(ours, theirs).measured().and_then(|boards| {
        let [ours, theirs] = [boards[0].runs(spec)?, boards[1].runs(spec)?];
        Some(run_score(OverRuns::improvement(&ours, &theirs, resampling(spec, &arm.key))))
    });
    Ok(ChangeRow { key: arm.key.clone(), label: arm.label.clone(), cells, average, better })
}

/// The boards of two arms that are both measured; else the state of the one that is less far.
fn both<'a, 'b>(ours: &'a Cell<Board<'b>>, theirs: &'a Cell<Board<'b>>) -> Cell<[&'a Board<'b>; 2]> {
    match (ours, theirs) {
        (Cell::Measured(ours), Cell::Measured(theirs)) => Cell::Measured([ours, theirs]),
        (Cell::NotRun, _) | (_, Cell::NotRun) => Cell::NotRun,
        _ => Cell::Running,
    }
}

fn paired(benchmark: &str, ours: &Cell<Board<'_>>, theirs: &Cell<Board<'_>>) -> Result<Cell<Paired>> {
    let boards = match both(ours, theirs) {
        Cell::NotRun => return Ok(Cell::NotRun),
        Cell::Running => return Ok(Cell::Running),
        Cell::Measured(boards) => boards,
    };
    let [Some(ours), Some(theirs)] = boards.map(|board| board.means.get(benchmark)) else {
        return Ok(Cell::NotRun);
    };
    let clusters = item_differences(ours, theirs)?;
    let same_seeds = boards[0].seeds() == boards[1].seeds();
    let spread = same_seeds.then(|| SeedSpread::of_differences(ours, theirs)).flatten();
    Ok(Cell::Measured(Paired { clusters, spread }))
}

fn change(difference: &Difference, p_holm: Option<f64>, seeds: Option<SeedScore>) -> Change {
    let estimate = difference.estimate;
    Change {
        mean_pct: pct(estimate.mean),
        se_pct: estimate.se.map(pct),
        interval_pct: interval(estimate),
        resolved: estimate.resolved(),
        p: steady(difference.p),
        p_holm: p_holm.map(steady),
        detectable_pct: estimate.detectable().map(pct),
        seeds,
    }
}

fn seed_score(spread: &SeedSpread) -> SeedScore {
    let parts = spread.parts();
    SeedScore {
        mean_pct_s: spread.mean_s.iter().copied().map(pct).collect(),
        interval_pct: spread.half_width_with_seeds().map(|half| around(spread.questions.mean, half)),
        questions: part(parts.questions),
        seeds: part(parts.seeds),
        question_by_seed: part(parts.question_by_seed),
        sampling: parts.sampling.map(part),
        one_training_pct: pct(spread.one_training()),
    }
}

fn part(variance: f64) -> Part {
    let se_pct = pct(variance.abs().sqrt());
    let negative = variance < 0.0 && se_pct > 0.0;
    Part { se_pct: if negative { 0.0 } else { se_pct }, negative }
}

fn run_score(over: OverRuns) -> RunScore {
    let interval_pct = Interval { low_pct: pct(over.low), high_pct: pct(over.high) };
    RunScore { value_pct: pct(over.value), interval_pct }
}

fn interval(estimate: Estimate) -> Option<Interval> {
    estimate.half_width().map(|half| around(estimate.mean, half))
}

fn around(mean: f64, half: f64) -> Interval {
    Interval { low_pct: pct(mean - half), high_pct: pct(mean + half) }
}

/// A fraction in percent.
fn pct(fraction: f64) -> f64 {
    steady(100.0 * fraction)
}

/// Rounded to six decimals, so that the last bits of a library function never reach a file.
pub(super) fn steady(value: f64) -> f64 {
    (value * 1e6).round() / 1e6 + 0.0
}
