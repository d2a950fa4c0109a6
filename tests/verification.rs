//! Published values beside ours: numbers by hand, what may be compared with the paper, and arms without a result.

#[cfg(feature = "candle")]
use crate::run::{harness, succeeds};
use harness::report::{
    Arm, ArmState, Check, Direction, Footing, ItemScore, PaperRow, Published, Standing, Table, TableSpec,
    summary,
};
#[cfg(feature = "candle")]
use std::path::Path;

/// One item of 8 samples per number: how many are correct.
fn scores(arm: &str, seed: u64, correct: &[u32]) -> Vec<ItemScore> {
    let score = |(item, &correct): (usize, &u32)| ItemScore {
        arm: arm.into(),
        seed,
        benchmark: "A".into(),
        item: item.to_string(),
        cluster: item.to_string(),
        samples: 8,
        correct,
        no_answer: 0,
        truncated: 0,
        gold_unparsable: 0,
        undecided: 0,
        tokens_total: 80,
        majority_correct: false,
    };
    correct.iter().enumerate().map(score).collect()
}

fn arm(key: &str, state: ArmState) -> Arm {
    Arm { key: key.into(), label: key.to_uppercase(), state }
}

fn published(arm: &str, table: &str, score_pct: f64) -> Published {
    let scores_pct = [("A".to_owned(), score_pct)].into();
    let row = format!("+ {arm}");
    let row = PaperRow { table: table.into(), size: "7B".into(), row, scores_pct, average_pct: score_pct };
    Published { arm: arm.into(), row }
}

fn spec(footing: Footing, paper: Vec<Published>) -> TableSpec {
    TableSpec {
        title: "A table".into(),
        study: "main".into(),
        scale: "7b".into(),
        seeds: "1".into(),
        config_hashes: vec![],
        protocol: "paper: temperature 1".into(),
        notes: vec![],
        benchmarks: vec!["A".into()],
        baseline: "dapo".into(),
        samples: 8,
        resamples: 99,
        statistics_seed: 1,
        paper,
        footing,
    }
}

const WHOLE: [usize; 1] = [4];

fn paper() -> Footing {
    Footing::Paper { items: WHOLE.into() }
}

/// DAPO with 4 of 8 in each of four items, and an arm; the paper has 57.5 and `theirs` percent.
fn against(state: ArmState, theirs: f64, footing: Footing) -> Table {
    let dapo = ArmState::Measured(scores("dapo", 1, &[4, 4, 4, 4]));
    let rows = vec![published("dapo", "T1", 57.5), published("vppo", "T2", theirs)];
    Table::new(spec(footing, rows), &[arm("dapo", dapo), arm("vppo", state)]).unwrap()
}

fn vppo(correct: &[u32]) -> ArmState {
    ArmState::Measured(scores("vppo", 1, correct))
}

/// The check of VPPO's average, or of its difference to DAPO.
fn check(table: &Table, difference: bool) -> &Check {
    let of = |check: &&Check| {
        check.arm == "vppo" && check.benchmark == "Avg" && check.baseline.is_some() == difference
    };
    table.verification.iter().find(of).unwrap()
}

#[test]
fn scores_by_hand() {
    // 0.5, 0.5, 0.5, 0.625: mean 0.53125, s = 0.0625, s.e. 0.03125; t(0.975, 3) = 3.182446, half 9.945145 points.
    for (theirs, difference, inside) in [(60.0, -6.875, true), (63.1, -9.975, false), (43.1, 10.025, false)] {
        let table = against(vppo(&[4, 4, 4, 5]), theirs, paper());
        let check = check(&table, false);
        let ours = check.ours.unwrap();
        assert_eq!((check.paper_pct, check.status), (theirs, Standing::Measured));
        assert_eq!((ours.value_pct, ours.ours_minus_paper_pct, ours.direction), (53.125, difference, None));
        assert_eq!((ours.inside, ours.with_seeds), (Some(inside), false));
        let ends = ours.interval_pct.unwrap();
        assert!(
            (ends.high_pct - 63.070145).abs() < 2e-6 && (ends.low_pct - 43.179855).abs() < 2e-6,
            "{ends:?}"
        );
        assert_eq!((check.table.as_str(), check.row.as_str()), ("T2", "+ vppo"));
    }
}

#[test]
fn differences_by_hand() {
    // The differences of the items are those of the scores, less one half: half of the interval is 9.945145 points.
    let cases = [
        (&[6, 6, 6, 7], 60.0, 28.125, Direction::Agrees, false),
        (&[6, 6, 6, 7], 85.0, 28.125, Direction::Agrees, true),
        (&[2, 2, 2, 3], 60.0, -21.875, Direction::Opposite, false),
        (&[6, 6, 6, 7], 55.0, 28.125, Direction::Opposite, false),
        (&[4, 4, 4, 5], 60.0, 3.125, Direction::NotResolved, true),
        (&[6, 6, 6, 7], 57.5, 28.125, Direction::NoneInPaper, false),
    ];
    for (correct, theirs, value, direction, inside) in cases {
        let table = against(vppo(correct), theirs, paper());
        let check = check(&table, true);
        let ours = check.ours.unwrap();
        assert_eq!((check.paper_pct, ours.value_pct), (theirs - 57.5, value));
        assert_eq!((ours.direction, ours.inside), (Some(direction), Some(inside)), "{correct:?} {theirs}");
        assert!((ours.ours_minus_paper_pct - (value - theirs + 57.5)).abs() < 1e-9);
        let names = [&check.label, &check.table, &check.row];
        assert_eq!(names, ["VPPO − DAPO", "T2 − T1", "+ vppo − + dapo"]);
    }
}

#[test]
fn the_interval_covers_the_seeds_where_it_can() {
    let both = |key: &str, seeds: [[u32; 4]; 2]| {
        let of = |(seed, correct): (usize, &[u32; 4])| scores(key, seed as u64 + 1, correct);
        arm(key, ArmState::Measured(seeds.iter().enumerate().flat_map(of).collect()))
    };
    let arms = [both("dapo", [[4, 4, 4, 5], [3, 4, 4, 4]]), both("vppo", [[5, 5, 6, 7], [7, 7, 7, 8]])];
    let rows = vec![published("dapo", "T1", 50.0), published("vppo", "T1", 80.0)];
    let table = Table::new(spec(paper(), rows), &arms).unwrap();
    let known = |ours: Option<harness::report::Ours>| ours.map(|ours| (ours.interval_pct, ours.with_seeds));
    let score = table.rows[1].average.measured().unwrap();
    let seeds = score.seeds.as_ref().unwrap().interval_pct;
    assert!(seeds.unwrap().high_pct > score.interval_pct.unwrap().high_pct, "{score:?}");
    assert_eq!(known(check(&table, false).ours), Some((seeds, true)));
    let change = table.changes[0].average.measured().unwrap();
    let seeds = change.seeds.as_ref().unwrap().interval_pct;
    assert_ne!(seeds, change.interval_pct);
    assert_eq!(known(check(&table, true).ours), Some((seeds, true)));
    assert!(table.verification_csv().unwrap().contains(",\"questions, seeds\","));
}

#[test]
fn only_the_papers_own_footing_verifies() {
    let five = Footing::Paper { items: vec![5] };
    for (footing, status, word) in [
        (paper(), Standing::Measured, "measured"),
        (five, Standing::Partial, "partial: not comparable"),
        (Footing::Changed, Standing::Partial, "partial: not comparable"),
        (Footing::Tiny, Standing::Tiny, "tiny: not comparable"),
    ] {
        let measured = status == Standing::Measured;
        let table = against(vppo(&[6, 6, 6, 7]), 80.0, footing.clone());
        for check in &table.verification {
            let ours = check.ours.unwrap();
            assert_eq!(check.status, status, "{footing:?}");
            assert_eq!(ours.inside.is_some(), measured && ours.interval_pct.is_some(), "{footing:?}");
            assert_eq!(ours.direction.is_some(), check.baseline.is_some());
        }
        let (table, inside) = (table.markdown(), if measured { "yes" } else { "–" });
        let line = format!("| 80.0 | 78.1 ±9.9 | questions | −1.9 | {inside} | {word} |");
        assert!(table.contains(&line), "{line}: {table}");
    }
}

/// Text behind the columns that hold the paper's own numbers.
fn cells(text: &str, section: &str, label: &str) -> Vec<String> {
    let part = text.split("\n## ").find(|part| part.starts_with(section)).unwrap();
    let line = part.lines().find(|line| line.starts_with(&format!("| {label} |"))).unwrap();
    line.trim_matches('|').split('|').skip(3).map(|cell| cell.trim().to_owned()).collect()
}

#[test]
fn an_arm_without_result_has_no_number() {
    for (state, word) in [(ArmState::NotRun, "not run"), (ArmState::Running, "running")] {
        let table = against(state, 80.0, paper());
        let of_vppo: Vec<&Check> = table.verification.iter().filter(|check| check.arm == "vppo").collect();
        assert_eq!(of_vppo.len(), 4, "a score and a difference for A and Avg");
        assert!(of_vppo.iter().all(|check| check.ours.is_none()), "{of_vppo:?}");
        let csv = table.verification_csv().unwrap();
        let mut lines = csv::Reader::from_reader(csv.as_bytes());
        let lines: Vec<csv::StringRecord> = lines.records().map(Result::unwrap).collect();
        let without: Vec<_> = lines.iter().filter(|line| &line[1] == "vppo").collect();
        assert_eq!(without.len(), 4);
        for line in without {
            assert_eq!(&line[8], word);
            assert!(line.iter().skip(10).all(str::is_empty), "{line:?}");
        }
        let text = table.markdown();
        assert_eq!(cells(&text, "Verification", "VPPO"), [word, "–", "–", "–", word]);
        assert_eq!(cells(&text, "Claims", "VPPO − DAPO"), [word, "–", "–", "–", word]);
    }
}

#[test]
fn a_baseline_without_result_leaves_the_claims_open() {
    let rows = vec![published("dapo", "T1", 57.5), published("vppo", "T1", 80.0)];
    let arms = [arm("dapo", ArmState::Running), arm("vppo", vppo(&[6, 6, 6, 7]))];
    let table = Table::new(spec(paper(), rows), &arms).unwrap();
    assert!(check(&table, false).ours.is_some());
    let claim = check(&table, true);
    assert_eq!((claim.status, claim.ours), (Standing::Running, None));
}

#[test]
fn claims_need_both_rows_of_one_size() {
    let vppo_row = published("vppo", "T1", 80.0);
    let mut other = published("dapo", "T1", 57.5);
    other.row.size = "32B".into();
    for rows in [vec![vppo_row.clone()], vec![other, vppo_row]] {
        let arms = [arm("dapo", ArmState::NotRun), arm("vppo", vppo(&[6, 6, 6, 7]))];
        let table = Table::new(spec(paper(), rows), &arms).unwrap();
        assert!(table.verification.iter().all(|check| check.baseline.is_none()));
        assert!(!table.markdown().contains("## Claims"));
    }
}

#[test]
fn what_belongs_to_no_arm_or_column_is_refused() {
    let arms = [arm("dapo", ArmState::NotRun)];
    let refusal = |spec: TableSpec| Table::new(spec, &arms).unwrap_err().to_string();
    let row = published("vppo", "T1", 80.0);
    assert!(refusal(spec(paper(), vec![row])).contains("\"+ vppo\" belongs to vppo, which is no arm"));
    let items = Footing::Paper { items: vec![4, 4] };
    assert!(refusal(spec(items, vec![])).contains("2 numbers of items are given for 1 benchmarks"));
}

/// The footing of the main study's table under these arguments; nothing has been run.
#[cfg(feature = "candle")]
fn footing(out: &Path, scale: &str, more: &[&str]) -> Footing {
    let mut command = harness(["report", "--scale", scale, "--seeds", "1", "--out"]);
    command.arg(out).args(more);
    succeeds(command);
    let text = std::fs::read_to_string(out.join(format!("results/{scale}/main.json"))).unwrap();
    let table: Table = serde_json::from_str(&text).unwrap();
    assert!(table.verification.iter().all(|check| check.ours.is_none() && check.status == Standing::NotRun));
    table.spec.footing
}

#[cfg(feature = "candle")]
#[test]
fn the_papers_footing_is_its_settings_and_all_questions() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Footing::Paper { items: vec![2180, 3666, 2000, 601, 2907, 1740, 447, 1730] };
    for (scale, more, wanted) in [
        ("7b", &[][..], &whole),
        ("32b", &[], &whole),
        ("7b", &["--protocol", "papo-eval"], &whole),
        ("7b", &["--device", "cpu", "--set", "eval.batch=7"], &whole),
        ("7b", &["--protocol", "own"], &Footing::Changed),
        ("7b", &["--set", "eval.items=50"], &Footing::Changed),
        ("7b", &["--set", "eval.samples=1"], &Footing::Changed),
        ("7b", &["--set", "train.steps=40"], &Footing::Changed),
        ("7b", &["--set", "algorithm.entropy_penalty.coef=0.02"], &Footing::Changed),
        ("tiny", &[], &Footing::Tiny),
    ] {
        assert_eq!(footing(folder.path(), scale, more), *wanted, "{scale} {more:?}");
    }
}

/// One line per difference of every table, in words and as numbers; an arm that has not run has no number.
#[test]
fn all_studies_on_one_sheet() {
    let tables =
        [against(vppo(&[6, 6, 6, 7]), 60.0, Footing::Tiny), against(ArmState::NotRun, 55.0, Footing::Tiny)];
    let sheet = summary(&tables).unwrap();
    assert_eq!(
        sheet.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["summary.md", "summary.csv"]
    );
    let text = &sheet[0].1;
    assert!(text.contains("1 of 2 differences are measured"), "{text}");
    assert!(text.contains("| VPPO − DAPO | +28.1 ±9.9 | higher | +2.5 | agrees |"), "{text}");
    assert!(text.contains("| VPPO − DAPO | not run | not run | −2.5 | – |"), "{text}");
    let rows: Vec<&str> = sheet[1].1.lines().collect();
    assert_eq!(rows.len(), 3);
    assert!(
        rows[1].ends_with(",vppo,VPPO,dapo,measured,28.1250,18.1799,38.0701,questions,2.5000,agrees"),
        "{}",
        rows[1]
    );
    assert!(rows[2].ends_with(",vppo,VPPO,dapo,not run,,,,,-2.5000,"), "{}", rows[2]);
}
