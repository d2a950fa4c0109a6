//! Tables on a small synthetic study: every renderer, missing arms, order of lines, recomputation, refusals.

use harness::report::{
    Arm, ArmState, Cell, Footing, ItemScore, PaperTables, Published, Table, TableSpec, files, items_by_arm,
    items_csv, parse_items,
};
use harness::rng::{Purpose, Stream, stream};
use harness::store::{CellKey, Store};
use harness::types::{Outcome, SampleLine, StopReason};
use proptest::prelude::*;

const K: u32 = 8;

/// One sample line whose chance of success has a part shared by the cluster.
fn line(benchmark: &str, item: usize, sample: u32, chance: f64, draw: &mut Stream) -> SampleLine {
    let outcome = match draw.uniform() {
        u if u < 0.03 => Outcome::NoAnswer,
        u if u < 0.07 => Outcome::Truncated,
        u if u < 0.08 => Outcome::Undecided,
        _ if draw.chance(chance) => Outcome::Correct,
        _ => Outcome::Wrong,
    };
    let silent = matches!(outcome, Outcome::NoAnswer | Outcome::Truncated);
    let answer = if outcome == Outcome::Correct { 0 } else { 1 + draw.below(3) };
    SampleLine {
        benchmark: benchmark.into(),
        item: format!("{item:02}"),
        cluster: format!("source-{}", item / 2),
        sample,
        outcome,
        extracted: (!silent).then(|| answer.to_string()),
        tokens: 20 + draw.below(60) as u32,
        stop: if outcome == Outcome::Truncated { StopReason::Length } else { StopReason::EndToken },
    }
}

/// `items` questions per benchmark, two per cluster.
fn lines(arm: &str, seed: u64, skill: f64, benchmarks: &[String], items: usize) -> Vec<SampleLine> {
    let mut lines = Vec::new();
    for benchmark in benchmarks {
        for item in 0..items {
            let mut shared = stream(1, Purpose::World, &[benchmark.into(), (item / 2).into()]);
            let chance = skill + 0.4 * (shared.uniform() - 0.5);
            let at = [arm.into(), seed.into(), benchmark.into(), item.into()];
            let mut draw = stream(2, Purpose::World, &at);
            lines.extend((0..K).map(|sample| line(benchmark, item, sample, chance, &mut draw)));
        }
    }
    lines
}

fn spec(benchmarks: Vec<String>, paper: Vec<Published>) -> TableSpec {
    TableSpec {
        title: "Main table".into(),
        study: "main".into(),
        scale: "synthetic".into(),
        seeds: "1, 2".into(),
        config_hashes: vec!["dapo 0123abcd".into(), "vppo 4567ef00".into()],
        protocol: "own: temperature 1".into(),
        notes: vec!["Synthetic lines, made for a test.".into()],
        benchmarks,
        baseline: "dapo".into(),
        samples: K,
        resamples: 500,
        statistics_seed: 1,
        paper,
        footing: Footing::Tiny,
    }
}

fn measured(key: &str, label: &str, state: Vec<ItemScore>) -> Arm {
    Arm { key: key.into(), label: label.into(), state: ArmState::Measured(state) }
}

fn scores(arm: &str, seeds: &[u64], skill: f64, benchmarks: &[String], items: usize) -> Vec<ItemScore> {
    let score =
        |&seed: &u64| ItemScore::from_lines(arm, seed, &lines(arm, seed, skill, benchmarks, items), K);
    seeds.iter().map(score).collect::<anyhow::Result<Vec<_>>>().unwrap().concat()
}

/// Eight benchmarks; the base with one seed, three trained arms with two, one running and one not run.
fn main_study() -> (TableSpec, Vec<Arm>) {
    let paper = PaperTables::load().unwrap();
    let columns = &paper.benchmarks;
    let arms = vec![
        measured("base", "Base", scores("base", &[0], 0.3, columns, 10)),
        measured("grpo", "GRPO", scores("grpo", &[1, 2], 0.5, columns, 10)),
        measured("dapo", "DAPO", scores("dapo", &[1, 2], 0.52, columns, 10)),
        measured("vppo", "VPPO", scores("vppo", &[1, 2], 0.6, columns, 10)),
        Arm { key: "tas".into(), label: "VPPO, reweighting only (TAS)".into(), state: ArmState::Running },
        Arm { key: "tgf".into(), label: "VPPO, masking only (TGF)".into(), state: ArmState::NotRun },
    ];
    let published = |(arm, row): (&Arm, _)| Published { arm: arm.key.clone(), row };
    let rows = arms.iter().zip(paper.main_rows().unwrap()).map(published).collect();
    (spec(paper.benchmarks.clone(), rows), arms)
}

/// Two benchmarks; the baseline and VPPO, which has only one of them.
fn small_study() -> (TableSpec, Vec<Arm>) {
    let columns = ["Geo3k", "We-Math"].map(String::from);
    let arms = vec![
        measured("dapo", "DAPO", scores("dapo", &[1], 0.4, &columns, 4)),
        measured("vppo", "VPPO", scores("vppo", &[1, 2], 0.7, &columns[..1], 4)),
        Arm { key: "tgf".into(), label: "VPPO, masking only (TGF)".into(), state: ArmState::NotRun },
    ];
    (spec(columns.into(), Vec::new()), arms)
}

fn table(study: (TableSpec, Vec<Arm>)) -> Table {
    Table::new(study.0, &study.1).unwrap()
}

fn snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[test]
fn every_renderer_of_the_main_table() {
    let table = table(main_study());
    snapshot("report_main_markdown", &table.markdown());
    snapshot("report_main_terminal", &table.terminal(120));
    snapshot("report_main_latex", &table.latex());
    snapshot("report_main_scores_csv", &table.scores_csv().unwrap());
    snapshot("report_main_differences_csv", &table.differences_csv().unwrap());
    snapshot("report_main_verification_csv", &table.verification_csv().unwrap());
}

#[test]
fn every_number_of_a_small_table() {
    let (spec, arms) = small_study();
    let table = Table::new(spec, &arms).unwrap();
    snapshot("report_small_json", &table.json().unwrap());
    snapshot("report_small_markdown", &table.markdown());
    snapshot("report_small_items_csv", &items_csv(&arms).unwrap());
    assert_eq!(serde_json::from_str::<Table>(&table.json().unwrap()).unwrap(), table);
}

/// A benchmark, a label, the title of the study and a note with all that LaTeX takes for its own.
#[test]
fn names_are_printed_by_latex_as_they_are() {
    let columns = ["We_Math & 100%".to_owned()];
    let label = "[x] {50%} $k$ #1 a_b ~2 ^3 \\cmd <p> | \"q\" ’ – −1 ±2 Größe";
    let arms = vec![
        measured("dapo", "DAPO", scores("dapo", &[1], 0.4, &columns, 4)),
        Arm { key: "tgf".into(), label: label.into(), state: ArmState::NotRun },
    ];
    let spec = TableSpec {
        title: "Is 100 % of \\x\nbetter?".into(),
        notes: vec!["Read 5 %\nof {A}.".into()],
        ..spec(columns.into(), Vec::new())
    };
    let text = table((spec, arms)).latex();
    let escaped = "{[}x] \\{50\\%\\} \\$k\\$ \\#1 a\\_b \\textasciitilde{}2 \\textasciicircum{}3 \
                   \\textbackslash{}cmd $<$p$>$ \\textbar{} ''q'' ’ -- $-$1 $\\pm$2 Größe";
    for line in [
        "% Is 100 % of \\x better?",
        "% Read 5 % of {A}.",
        "Arm & We\\_Math \\& 100\\% & Avg \\\\",
        &format!("{escaped} & not run & not run \\\\"),
        &format!("{escaped} $-$ DAPO & not run & not run \\\\"),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    let rows = |end: &str| text.matches(end).count();
    assert_eq!(rows("\\toprule\n"), rows("\\begin{table}"));
    assert_eq!((rows("\\midrule\n"), rows("\\bottomrule\n")), (rows("\\toprule\n"), rows("\\toprule\n")));
}

#[test]
fn plain_text_fits_120_columns() {
    let text = table(main_study()).terminal(120);
    let widest = text.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(120), "{widest:?}");
}

#[test]
fn means_and_differences_by_hand() {
    // Two items of one sample each per arm and benchmark: DAPO 1/2 and 0, VPPO 1 and 1/2, differences +1/2.
    let one = |item: usize, outcome| SampleLine {
        outcome,
        ..line("A", item, 0, 0.5, &mut stream(0, Purpose::World, &[]))
    };
    let arm = |key: &str, a: [Outcome; 2], b: [Outcome; 2]| {
        let mut lines: Vec<SampleLine> = (0..2).map(|i| one(2 * i, a[i])).collect();
        lines.extend((0..2).map(|i| SampleLine { benchmark: "B".into(), ..one(2 * i, b[i]) }));
        measured(key, key, ItemScore::from_lines(key, 1, &lines, 1).unwrap())
    };
    use Outcome::{Correct as C, Wrong as W};
    let arms = [arm("dapo", [C, W], [W, W]), arm("vppo", [C, C], [C, W])];
    let spec = TableSpec { samples: 1, ..spec(vec!["A".into(), "B".into()], Vec::new()) };
    let table = Table::new(spec, &arms).unwrap();
    let averages = |row: usize| table.rows[row].average.measured().unwrap().clone();
    assert_eq!((averages(0).avg_pct, averages(1).avg_pct), (25.0, 75.0));
    let change = table.changes[0].average.measured().unwrap();
    // Differences 0 and 1 on either benchmark: s.e. 1/2 each, sqrt(1/2)/2 of the average, one degree of freedom
    // each, hence Satterthwaite (1/2)^2 / (2/16) = 2 and t = 4.302653.
    assert_eq!((change.mean_pct, change.se_pct, change.resolved), (50.0, Some(35.355339), false));
    let half = change.interval_pct.unwrap().high_pct - 50.0;
    assert!((half - 4.302_653 * 35.355_339).abs() < 1e-4, "{half}");
    // t(0.8, 2) = 1.060660.
    let detectable = change.detectable_pct.unwrap();
    assert!((detectable - (4.302_653 + 1.060_660) * 35.355_339).abs() < 1e-4, "{detectable}");
}

#[test]
fn arms_without_result_never_look_like_a_number() {
    let table = table(main_study());
    for (row, word) in [(4, "running"), (5, "not run")] {
        assert!(table.rows[row].cells.iter().all(|cell| cell.status() == word && cell.measured().is_none()));
        let label = &table.rows[row].label;
        let text = table.markdown();
        // What stands beside published numbers: tests/verification.rs.
        let beside = |part: &&str| part.starts_with("Verification") || part.starts_with("Claims");
        let parts = text.split("\n## ").filter(|part| !beside(part)).flat_map(str::lines);
        for line in parts.filter(|line| line.starts_with(&format!("| {label}"))) {
            let cells = line.trim_matches('|').split('|').skip(1);
            assert!(cells.into_iter().all(|cell| cell.trim() == word), "{line}");
        }
    }
}

#[test]
fn a_missing_benchmark_leaves_no_average() {
    let table = table(small_study());
    assert!(matches!(table.rows[1].cells[0], Cell::Measured(_)) && table.rows[1].cells[1] == Cell::NotRun);
    assert_eq!((&table.rows[1].average, table.rows[1].runs_mean), (&Cell::NotRun, None));
    assert!(matches!(table.changes[0].cells[0], Cell::Measured(_)));
    assert_eq!((&table.changes[0].cells[1], &table.changes[0].average), (&Cell::NotRun, &Cell::NotRun));
}

#[test]
fn a_baseline_that_is_not_there_yet_leaves_the_scores() {
    let (spec, mut arms) = small_study();
    arms[0].state = ArmState::Running;
    let table = Table::new(spec, &arms).unwrap();
    assert!(matches!(table.rows[1].cells[0], Cell::Measured(_)));
    assert!(table.changes[0].cells.iter().all(|cell| *cell == Cell::Running));
    assert!(table.changes[1].cells.iter().all(|cell| *cell == Cell::NotRun));
}

#[test]
fn the_table_is_recomputed_from_its_items() {
    let (spec, arms) = main_study();
    let written = files("main", &Table::new(spec.clone(), &arms).unwrap(), &arms).unwrap();
    let names: Vec<&str> = written.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "main.md",
            "main.csv",
            "main.differences.csv",
            "main.verification.csv",
            "main.json",
            "main.tex",
            "main.items.csv"
        ]
    );
    let mut read = items_by_arm(parse_items(&written[6].1, "main.items.csv").unwrap());
    let restored: Vec<Arm> = arms
        .into_iter()
        .map(|arm| match read.remove(&arm.key) {
            Some(scores) => Arm { state: ArmState::Measured(scores), ..arm },
            None => arm,
        })
        .collect();
    assert_eq!(files("main", &Table::new(spec, &restored).unwrap(), &restored).unwrap(), written);
}

#[test]
fn lines_in_any_order_give_the_same_bytes() {
    let (spec, arms) = small_study();
    let ordered = files("t", &Table::new(spec.clone(), &arms).unwrap(), &arms).unwrap();
    for seed in 0..4 {
        let mut draw = stream(seed, Purpose::World, &["order".into()]);
        let mut shuffled_lines = lines("dapo", 1, 0.4, &spec.benchmarks, 4);
        draw.shuffle(&mut shuffled_lines);
        let mut dapo = ItemScore::from_lines("dapo", 1, &shuffled_lines, K).unwrap();
        let mut vppo = scores("vppo", &[2, 1], 0.7, &spec.benchmarks[..1], 4);
        draw.shuffle(&mut dapo);
        draw.shuffle(&mut vppo);
        let arms = [measured("dapo", "DAPO", dapo), measured("vppo", "VPPO", vppo), arms[2].clone()];
        assert_eq!(files("t", &Table::new(spec.clone(), &arms).unwrap(), &arms).unwrap(), ordered);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn one_changed_outcome_changes_the_table(at in 0usize..64, next in 1usize..6) {
        let (spec, mut arms) = small_study();
        let before = files("t", &Table::new(spec.clone(), &arms).unwrap(), &arms).unwrap();
        let mut changed = lines("dapo", 1, 0.4, &spec.benchmarks, 4);
        let now = Outcome::ALL.iter().position(|&outcome| outcome == changed[at].outcome).unwrap();
        changed[at].outcome = Outcome::ALL[(now + next) % Outcome::ALL.len()];
        arms[0].state = ArmState::Measured(ItemScore::from_lines("dapo", 1, &changed, K).unwrap());
        let after = files("t", &Table::new(spec, &arms).unwrap(), &arms).unwrap();
        for name in ["t.md", "t.json", "t.tex", "t.items.csv"] {
            let content = |files: &[(String, String)]| files.iter().find(|file| file.0 == name).unwrap().1.clone();
            prop_assert_ne!(content(&before), content(&after), "{}", name);
        }
    }
}

fn refusal(change: impl FnOnce(&mut TableSpec, &mut Vec<Arm>)) -> String {
    let (mut spec, mut arms) = small_study();
    change(&mut spec, &mut arms);
    format!("{:#}", Table::new(spec, &arms).unwrap_err())
}

fn scores_of(arm: &mut Arm) -> &mut Vec<ItemScore> {
    match &mut arm.state {
        ArmState::Measured(scores) => scores,
        ArmState::Running | ArmState::NotRun => panic!("{} is measured in this study", arm.key),
    }
}

#[test]
fn refusals_name_what_is_wrong() {
    let cases = [
        (
            refusal(|_, arms| scores_of(&mut arms[1]).retain(|score| score.item != "02")),
            "arm vppo against baseline dapo: Geo3k: item 02 is missing from the arm",
        ),
        (
            refusal(|_, arms| scores_of(&mut arms[0]).retain(|score| score.item != "03")),
            "Geo3k: item 03 is missing from the baseline",
        ),
        (refusal(|_, arms| drop(scores_of(&mut arms[1]).pop())), "Geo3k, item 03: missing under seed 2"),
        (refusal(|spec, _| spec.samples = 4), "8 samples, but avg@4 needs exactly 4"),
        (
            refusal(|spec, _| drop(spec.benchmarks.pop())),
            "arm dapo: We-Math is no column of the table (Geo3k)",
        ),
        (refusal(|spec, _| spec.benchmarks[1] = "Geo3k".into()), "each once"),
        (refusal(|spec, _| spec.baseline = "ppo".into()), "baseline, ppo; the arms: dapo, vppo, tgf"),
        (refusal(|_, arms| arms[2].key = "vppo".into()), "two arms have the key vppo"),
        (refusal(|_, arms| arms[1].key = "tas".into()), "arm tas was given scores of arm vppo"),
        (refusal(|_, arms| scores_of(&mut arms[1]).clear()), "arm vppo is given as measured"),
    ];
    for (message, wanted) in cases {
        assert!(message.contains(wanted), "{message}\nlacks {wanted}");
    }
}

/// Questions of the paper's benchmarks in the order of the columns, and how many share a source.
const FULL: [(usize, usize); 8] =
    [(2180, 5), (3666, 7), (2000, 1), (601, 1), (2907, 1), (1740, 1), (447, 1), (1730, 1)];

fn store_full_evaluation(store: &Store, key: &CellKey, resolved: &serde_json::Value, benchmarks: &[String]) {
    let cell = store.cell(key, resolved).unwrap();
    let expected: Vec<(String, usize)> =
        benchmarks.iter().zip(FULL).map(|(name, (items, _))| (name.clone(), items * K as usize)).collect();
    let mut log = cell.sample_log(&expected).unwrap();
    for (name, (items, shared)) in benchmarks.iter().zip(FULL) {
        let mut draw = stream(key.seed, Purpose::World, &[(&key.variant).into(), name.into()]);
        let mut lines = Vec::new();
        for item in 0..items {
            let chance = draw.uniform();
            lines.extend((0..K).map(|sample| SampleLine {
                item: format!("{name}-{item:05}"),
                cluster: format!("{name}-source-{:05}", item / shared),
                ..line(name, item, sample, chance, &mut draw)
            }));
        }
        log.append(name, &lines).unwrap();
    }
    log.finish().unwrap();
    cell.mark_done().unwrap();
}

/// From the stored lines of 6 arms with 3 seeds of 122,168 samples each to the text of every file.
#[test]
#[ignore = "measures; --ignored --nocapture shows seconds"]
fn time_of_the_full_table() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let benchmarks = PaperTables::load().unwrap().benchmarks;
    let keys = ["base", "grpo", "dapo", "vppo", "tas", "tgf"];
    let cell = |variant: &str, seed| CellKey {
        scale: "7b".into(),
        study: "main".into(),
        variant: variant.into(),
        seed,
    };
    for key in keys {
        (1..=3).for_each(|seed| {
            store_full_evaluation(&store, &cell(key, seed), &serde_json::json!({}), &benchmarks);
        });
    }
    let mut clock = std::time::Instant::now();
    let mut lap = |what: &str| {
        println!("{what}: {:.2} s", clock.elapsed().as_secs_f64());
        clock = std::time::Instant::now();
    };
    let scores = |key: &str| -> Vec<ItemScore> {
        let of = |seed| {
            let lines = store.read_only(&cell(key, seed)).unwrap().samples().unwrap().unwrap();
            assert_eq!(lines.len(), 122_168);
            ItemScore::from_lines(key, seed, &lines, K).unwrap()
        };
        (1..=3).flat_map(of).collect()
    };
    let arms: Vec<Arm> = keys.iter().map(|key| measured(key, key, scores(key))).collect();
    lap("lines read and counted");
    let spec = TableSpec { resamples: 10_000, ..spec(benchmarks, Vec::new()) };
    let table = Table::new(spec, &arms).unwrap();
    lap("statistics");
    let bytes: usize = files("main", &table, &arms).unwrap().iter().map(|(_, text)| text.len()).sum();
    lap("files");
    println!("{bytes} bytes");
}

/// The command `harness report` on 6 arms with 3 seeds of 122,168 samples each: seconds, processor seconds of all
/// threads, and the most memory it held. Reads `/proc`, hence Linux alone.
#[cfg(all(feature = "candle", target_os = "linux"))]
#[test]
#[ignore = "measures; --ignored --nocapture shows seconds"]
fn time_of_the_command() {
    use crate::run::{ARMS, harness};
    use harness::algo::Algorithm;
    use harness::config::{RunConfig, Scale, Study};

    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("runs")).unwrap();
    let benchmarks = PaperTables::load().unwrap().benchmarks;
    let (scale, study) = (Scale::load("7b").unwrap(), Study::load("main").unwrap());
    for (arm, seed) in ARMS.iter().flat_map(|arm| (1..=3).map(move |seed| (arm, seed))) {
        let config: RunConfig<Algorithm> = RunConfig::resolve(&scale, &study, arm, seed, &[]).unwrap();
        store_full_evaluation(&store, &config.key(), &config.to_value().unwrap(), &benchmarks);
    }
    for _ in 0..3 {
        let mut command = harness(["report", "--scale", "7b", "--seeds", "1,2,3", "--out"]);
        command.arg(folder.path()).stdout(std::process::Stdio::null());
        let (clock, used) = (std::time::Instant::now(), children_secs());
        let mut child = command.spawn().unwrap();
        let status = format!("/proc/{}/status", child.id());
        let mut most = String::new();
        while child.try_wait().unwrap().is_none() {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            most = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).map_or(most, str::to_owned);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(child.wait().unwrap().success());
        let (wall, processor) = (clock.elapsed().as_secs_f64(), children_secs() - used);
        println!("{wall:.2} s, {processor:.2} s of all threads, at most {}", most.trim());
    }
    let text = std::fs::read_to_string(folder.path().join("results/7b/seeds-1-2-3/main.json")).unwrap();
    println!("main.json: BLAKE3 {}", blake3::hash(text.as_bytes()));
    let table: Table = serde_json::from_str(&text).unwrap();
    let samples = |row: &harness::report::ScoreRow| row.counts.measured().unwrap().samples;
    assert!(table.rows.iter().map(samples).eq([3 * 122_168; 6]));
}

/// Processor seconds, in the program and the system, of the processes that this one has waited for.
#[cfg(all(feature = "candle", target_os = "linux"))]
fn children_secs() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // Fields 16 and 17 of proc(5), in hundredths of a second; the first after the name is field 3.
    fields[13..15].iter().map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}
