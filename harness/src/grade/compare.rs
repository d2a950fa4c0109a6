//! From two second normal forms to a verdict: tuples element by element, then numbers, then algebra.
//!
//! Source: mathruler 0.1.0, `grade_answer` from the second comparison on.

use super::Verdict;
use super::algebra::compare_with_zero;
use super::expr::{self, Stop};
use super::norm::{int_like, strip_thousands};
use super::pytext::trim;
use regex::Regex;
use std::collections::BTreeSet;
use std::sync::LazyLock;

const BRACKETS: [char; 4] = ['(', ')', '[', ']'];

/// More letters than this, and the reference does not ask its algebra system.
const MAX_LETTERS: usize = 2;

/// Compares two second normal forms.
pub fn compare(given: &str, gold: &str) -> Verdict {
    if given == gold {
        return Verdict::Equal;
    }
    if given.is_empty() {
        return Verdict::Different;
    }
    let gold_elements = elements(gold);
    let given_elements = elements(given);
    let same_brackets =
        given.chars().next() == gold.chars().next() && given.chars().next_back() == gold.chars().next_back();
    if given_elements.len() != gold_elements.len() || (gold_elements.len() > 1 && !same_brackets) {
        return Verdict::Different;
    }
    let mut verdict = Verdict::Equal;
    for (gold, given) in gold_elements.iter().zip(&given_elements) {
        match compare_element(given, gold) {
            Verdict::Different => return Verdict::Different,
            Verdict::Undecided => verdict = Verdict::Undecided,
            Verdict::Equal => {}
        }
    }
    verdict
}

/// The elements of a tuple or interval; anything with brackets inside is one element.
fn elements(form: &str) -> Vec<String> {
    let form = strip_thousands(form);
    if form.is_empty() {
        return Vec::new();
    }
    let inside = form.strip_prefix(BRACKETS).and_then(|rest| rest.strip_suffix(BRACKETS));
    match inside {
        Some(inside) if !inside.is_empty() && !inside.contains(BRACKETS) => {
            inside.split(',').map(|element| trim(element).to_string()).collect()
        }
        _ => vec![form],
    }
}

/// Fractions of integers must be written alike, integers only meet integers, the rest is algebra.
fn compare_element(given: &str, gold: &str) -> Verdict {
    if is_fraction(gold) && is_fraction(given) {
        return if gold == given { Verdict::Equal } else { Verdict::Different };
    }
    if int_like(gold).is_some() != int_like(given).is_some() {
        return Verdict::Different;
    }
    let difference = format!("({gold})-({given})");
    if !may_evaluate(&difference) {
        return Verdict::Different;
    }
    match expr::parse(&difference.replace('^', "**")) {
        Ok(expr) => compare_with_zero(&expr),
        Err(Stop::Refused) => Verdict::Different,
        Err(Stop::Beyond) => Verdict::Undecided,
    }
}

fn is_fraction(element: &str) -> bool {
    static FRACTION: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"^-?[0-9]+.?/0*[1-9][0-9]*.?\n?$").ok());
    element.contains('/') && FRACTION.as_ref().is_some_and(|fraction| fraction.is_match(element))
}

/// The reference's guard before it evaluates: few letters, and no powers that could take long.
fn may_evaluate(expr: &str) -> bool {
    if expr.contains("^(") || expr.contains("^{") {
        return false;
    }
    let mut parts = expr.split('^');
    parts.next();
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        let another_power = digits == part.len() && digits > 0 && parts.peek().is_some();
        if digits >= 2 || another_power {
            return false;
        }
    }
    count_letters(expr) <= MAX_LETTERS
}

/// Different letters (Unicode categories L*), `sqrt` and `frac` left out.
fn count_letters(expr: &str) -> usize {
    static LETTER: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\p{L}").ok());
    let rest = expr.replace("sqrt", "").replace("frac", "");
    let mut letters: BTreeSet<char> = rest.chars().filter(char::is_ascii_alphabetic).collect();
    if let (false, Some(letter)) = (rest.is_ascii(), LETTER.as_ref()) {
        letters.extend(letter.find_iter(&rest).flat_map(|found| found.as_str().chars()));
    }
    letters.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuples_are_split_only_without_inner_brackets() {
        assert_eq!(elements("(1,000,2)"), ["1000", "2"]);
        assert_eq!(elements("(sqrt(2),1)"), ["(sqrt(2),1)"]);
        assert_eq!(elements("()"), ["()"]);
        assert_eq!(elements(""), Vec::<String>::new());
        assert_eq!(compare("(1,2]", "(1,2)"), Verdict::Different);
        assert_eq!(compare("(0.5,2)", "(1/2,2)"), Verdict::Equal);
        assert_eq!(compare("(b,a)", "(a,b)"), Verdict::Different);
    }

    #[test]
    fn element_rules() {
        for (given, gold, verdict) in [
            ("2/4", "1/2", Verdict::Different),
            ("4/2", "2", Verdict::Different),
            ("2^10", "1024", Verdict::Different),
            ("x^10", "x^9*x", Verdict::Different),
            ("ab", "ba", Verdict::Equal),
            ("abc", "cba", Verdict::Different),
            ("(a)", "a", Verdict::Equal),
            ("a)", "a", Verdict::Different),
            ("ln(x)", "x", Verdict::Different),
            ("ln(l)", "n", Verdict::Undecided),
        ] {
            assert_eq!(compare(given, gold), verdict, "{given} {gold}");
        }
    }
}
