//! The grader against mathruler's own output, against itself, and against hostile input.

use harness::grade::{Verdict, extract_boxed, grade_answer, grade_extracted, grade_response, mathd, norm};
use harness::types::{Outcome, StopReason};
use proptest::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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

/// Texts that are long, deep or ask for a lot of arithmetic.
fn hostile_texts() -> Vec<String> {
    const LONG: usize = 100_000;
    let fill = |part: &str| part.repeat(LONG / part.len());
    let mut texts: Vec<String> = [
        "{",
        "}",
        r"\boxed{",
        r"\boxed{}",
        "(",
        ")",
        "[",
        "-",
        "!",
        "^",
        "1",
        "9.",
        "0",
        "1,",
        "1,000",
        ",",
        " ",
        " <",
        "\n",
        "\\",
        r"\frac",
        r"\frac{",
        r"\sqrt[",
        r"\sqrt{",
        r"\text{ ",
        r"\begin{pmatrix}",
        r"\(",
        r"\hat",
        "1 ",
        "- ",
        "degree",
        "^ ",
        "=",
        "x",
        "xy",
        "a_",
        "1/",
        "2**",
        "9^",
        "(x+y)",
        "é",
        "\u{301}",
        "١",
        "\u{a0}",
        "\u{1d7ec}",
        "'",
        "\"",
        "#\n",
        "&",
        "~",
        "İ",
    ]
    .map(fill)
    .to_vec();
    texts.push(format!("{}</think>{}", " ".repeat(LONG), " ".repeat(LONG)));
    texts.push(format!("{}5{}", r"\frac{".repeat(3000), "}{2}".repeat(3000)));
    texts.push(format!("{}5{}", "(".repeat(2000), ")".repeat(2000)));
    texts.push(format!("{}5{}", "sqrt(".repeat(500), ")".repeat(500)));
    texts.push(format!("1e{}", fill("9")));
    texts.push(format!("0.{}1", fill("0")));
    texts.push("1+".repeat(1900) + "1");
    texts.push("x*".repeat(1900) + "x");
    texts.push("(x+y)".repeat(700));
    texts.push("(x+y+1/7)^9".repeat(30));
    texts.push("1/(x+y)+".repeat(400) + "1");
    texts.push("sqrt(x+1)".repeat(300));
    texts.push("1/3^9*".repeat(500) + "1");
    texts.push("(2/3)^9".repeat(300));
    texts.push("0.1*".repeat(900) + "1");
    texts.push("sqrt(999999937)+".repeat(200) + "1");
    for text in [
        "9^9^9^9",
        "10^10^10",
        "9**9**9**9",
        "10**10**10",
        "2**-(10**9)",
        "1.5**(10**9)",
        "x**(10**9)",
        "1/0",
        "0^-1",
        "0**-1",
        "0/0",
        "(x+y)^1000",
        "(x+y)**1000",
        "(x+y)**-1000",
        "(1+sqrt(2))**999",
        "(x+1.5)**999",
        "1e400",
        "1e-400**999",
        "sqrt(2**4000+1)",
        "200!",
        "200!!",
        "999999999!",
        "1e308*1e308",
        "((2**9)**9)**9",
    ] {
        texts.push(text.to_string());
    }
    texts
}

/// Grades in the three ways that a text can come in; the shortest time of fifty tries that is below the
/// limit, or the last one (the machine may be busy with something else).
fn grading_time(text: &str, gold: &str, limit: Duration) -> Duration {
    let grade_once = || {
        let start = Instant::now();
        grade_answer(text, gold);
        grade_response(text, gold, StopReason::Length);
        grade_response(&format!(r"\boxed{{{text}}}"), gold, StopReason::EndToken);
        start.elapsed()
    };
    let mut took = grade_once();
    for _ in 1..50 {
        if took >= limit {
            took = grade_once();
        }
    }
    took
}

/// Every text against itself with a change that keeps the first normal form from settling it: at
/// most 50 ms for each of the three gradings.
#[test]
fn hostile_texts_are_graded_in_bounded_time() {
    let limit = 3 * Duration::from_millis(50);
    for text in hostile_texts() {
        for gold in [format!("{text}+0"), format!("({text})"), "x".to_string(), "y+1.5".to_string()] {
            let took = grading_time(&text, &gold, limit);
            let head: String = text.chars().take(30).collect();
            assert!(took < limit, "{took:?} for {head:?}... against {} bytes", gold.len());
        }
    }
}

#[test]
fn truncation_is_told_from_a_missing_answer() {
    let response = r"It is \boxed{\frac{1}{2";
    assert_eq!(grade_response(response, "1/2", StopReason::Length).outcome, Outcome::Truncated);
    assert_eq!(grade_response(response, "1/2", StopReason::EndToken).outcome, Outcome::NoAnswer);
}

/// Strings of pieces that mean something to one of the steps.
fn nasty_text() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        ",",
        ".",
        "=",
        "!",
        "<",
        ">",
        "/",
        "\\",
        "^",
        "_",
        "*",
        "+",
        "-",
        "~",
        "&",
        "'",
        "#",
        "\n",
        " ",
        "0",
        "1",
        "23",
        "1,000",
        "5.",
        ".5",
        "e5",
        "x",
        "y",
        "pi",
        "sqrt",
        "sqrt(",
        "or",
        "frac",
        "degree",
        "\\frac",
        "\\frac{1}{2}",
        "\\sqrt",
        "\\sqrt{",
        "\\text{",
        "\\text{ ",
        "\\boxed{",
        "\\hat",
        "\\left",
        "\\(",
        "\\[",
        "\\]",
        "\\begin{array}",
        "\\end{array}",
        "^\\circ",
        "^{\\circ}",
        "\\%",
        "\\$",
        "$",
        "%",
        "é",
        "²",
        "٣",
        "\u{a0}",
        "\u{1d402}",
        "İ",
        "\u{fffd}",
        "million",
        "None",
    ]);
    prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_input_panics_and_outcome_and_reward_agree(given in nasty_text(), gold in nasty_text()) {
        let graded = grade_extracted(&given, &gold);
        prop_assert_eq!(graded.reward, graded.outcome.reward());
        let response = grade_response(&given, &gold, StopReason::Length);
        let expected = if response.extracted.is_some() { response.outcome.reward() } else {
            grade_extracted("None", &gold).reward
        };
        prop_assert_eq!(response.reward, expected);
    }

    #[test]
    fn any_text_is_graded(given in any::<String>(), gold in any::<String>()) {
        grade_response(&given, &gold, StopReason::EndToken);
        grade_extracted(&given, &gold);
    }

    #[test]
    fn an_answer_equals_itself(answer in nasty_text()) {
        prop_assert_eq!(grade_answer(&answer, &answer), Verdict::Equal);
        prop_assert_eq!(grade_answer(&format!(" {answer} "), &answer), Verdict::Equal);
    }

    #[test]
    fn equal_second_forms_are_equal(a in nasty_text(), b in nasty_text()) {
        if norm(&a).is_some() && norm(&a) == norm(&b) && !format!("{a}{b}").contains('٣') {
            prop_assert_eq!(grade_answer(&a, &b), Verdict::Equal);
        }
    }

    #[test]
    fn boxing_again_changes_nothing(text in nasty_text()) {
        if let Some(inside) = extract_boxed(&text) {
            let boxed = format!("{text} and {}{inside}}}", r"\boxed{");
            prop_assert_eq!(extract_boxed(&boxed), Some(inside));
        }
    }
}
