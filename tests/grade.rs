//! The grader against mathruler's own output, against itself, and against hostile input.

use harness::grade::{Verdict, extract_boxed, grade_answer, grade_extracted, grade_response, mathd, norm};
use harness::types::{Outcome, StopReason};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/grading");

/// The share of pairs that may stay undecided.
const MAX_UNDECIDED: f64 = 0.005;

/// Cases by kind, and what became of them.
#[derive(Default)]
struct Tally {
    cases: BTreeMap<String, usize>,
    undecided: Vec<String>,
    disagreements: Vec<String>,
}

impl Tally {
    fn count(&mut self, kind: &str) {
        *self.cases.entry(kind.to_string()).or_default() += 1;
    }

    fn verdict(&mut self, verdict: Verdict, expected: bool, case: &Value) {
        let name = || format!("{} | {}", case["given"], case["ground_truth"]);
        match verdict {
            Verdict::Undecided => self.undecided.push(name()),
            _ if (verdict == Verdict::Equal) == expected => {}
            _ => self.disagreements.push(format!("{} is {expected} to mathruler", name())),
        }
    }

    fn expect(&mut self, agrees: bool, what: &str, case: &Value) {
        if !agrees {
            self.disagreements.push(format!("{what}: {case}"));
        }
    }
}

fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().unwrap_or_else(|| panic!("no text {key:?} in {case}"))
}

fn check(case: &Value, tally: &mut Tally) {
    match case["kind"].as_str().unwrap_or("response") {
        "grade" => check_pair(case, tally),
        "extract" => {
            tally.count("extract");
            let extracted = extract_boxed(text(case, "text")).unwrap_or("None");
            tally.expect(extracted == text(case, "result"), "extraction", case);
        }
        "reward_math" => {
            tally.count("reward_math");
            let graded =
                grade_response(text(case, "response"), text(case, "ground_truth"), StopReason::EndToken);
            let expected = case["compute_score_wo_format"]["overall"].as_f64();
            tally.expect(Some(graded.reward) == expected, "reward", case);
        }
        _ => check_response(case, tally),
    }
}

fn check_pair(case: &Value, tally: &mut Tally) {
    tally.count("grade");
    let (given, gold) = (text(case, "given"), text(case, "ground_truth"));
    let expected = case["result"].as_bool().unwrap_or_else(|| panic!("no result in {case}"));
    tally.verdict(grade_answer(given, gold), expected, case);
    for (key, answer) in [("mathd_given", given), ("mathd_gt", gold)] {
        let agrees = case.get(key).is_none_or(|form| form.as_str() == Some(&mathd(answer)));
        tally.expect(agrees, key, case);
    }
    for (key, answer) in [("norm_given", given), ("norm_gt", gold)] {
        let form = norm(answer);
        let agrees =
            case.get(key).is_none_or(|expected| form.is_none() || expected.as_str() == form.as_deref());
        tally.expect(agrees, key, case);
    }
}

fn check_response(case: &Value, tally: &mut Tally) {
    tally.count(if case["response"].is_null() { "extracted" } else { "response" });
    let gold = text(case, "ground_truth");
    let graded = match case["response"].as_str() {
        Some(response) => grade_response(response, gold, StopReason::EndToken),
        None => grade_extracted(text(case, "extracted"), gold),
    };
    let extracted = graded.extracted.as_deref().unwrap_or("None");
    tally.expect(extracted == text(case, "extracted"), "extraction", case);
    let expected = case["result"].as_bool() == Some(true);
    if graded.outcome == Outcome::Undecided {
        tally.undecided.push(format!("{extracted:?} | {gold:?}"));
    } else {
        tally.expect((graded.reward == 1.0) == expected, "reward", case);
    }
}

/// Every line of every `.jsonl` file of a folder, in the order of the file names.
fn cases(folder: &Path) -> Vec<Value> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    paths.sort();
    let read =
        |path: &PathBuf| std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    paths.iter().flat_map(|path| read(path).lines().map(parse).collect::<Vec<Value>>()).collect()
}

fn check_folder(folder: &Path) {
    let cases = cases(folder);
    assert!(!cases.is_empty(), "no cases in {}", folder.display());
    let mut tally = Tally::default();
    for case in &cases {
        check(case, &mut tally);
    }
    println!("{}: {:?}, {} undecided", folder.display(), tally.cases, tally.undecided.len());
    for pair in &tally.undecided {
        println!("  undecided: {pair}");
    }
    let shown = tally.disagreements.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
    assert!(tally.disagreements.is_empty(), "{} disagreements:\n{shown}", tally.disagreements.len());
    let share = tally.undecided.len() as f64 / cases.len() as f64;
    assert!(share <= MAX_UNDECIDED, "{:.2} % undecided", 100.0 * share);
}

#[test]
fn golden_cases_of_mathruler() {
    check_folder(Path::new(FIXTURES));
    if let Some(extra) = std::env::var_os("HARNESS_EXTRA_GOLDEN") {
        let folder = Path::new(&extra).join("grading");
        if folder.is_dir() {
            check_folder(&folder);
        }
    }
}
