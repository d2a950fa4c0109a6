//! The second normal form: units, money and LaTeX become plain text, case is folded.
//!
//! Source: mathruler 0.1.0, `grader`. What it does on purpose or by accident is kept: `Monday`
//! becomes `mon` (the unit `day`), `kilometers` becomes `kilo`, `1 2` becomes `1+2` (a mixed
//! number), integers pass through a double (above 2^53 neighbours meet).

use super::latex::{self, LatexFault};
use super::mathd::unwrap_text;
use super::pytext::{float, int_text, is_near_int};
use regex::Regex;
use std::sync::LazyLock;

/// Deleted wherever they stand, in this order, each with a plural and a power behind it.
const UNITS: [&str; 16] = [
    "degree",
    "cm",
    "centimeter",
    "meter",
    "mile",
    "second",
    "minute",
    "hour",
    "day",
    "week",
    "month",
    "year",
    "foot",
    "feet",
    "inch",
    "yard",
];

/// Plain replacements before the units go, in this order.
const WORDS: [(&str, &str); 9] = [
    (r"\%", "%"),
    (r"\$", "$"),
    ("$", ""),
    ("%", ""),
    (" or ", " , "),
    (" and ", " , "),
    ("million", "*10^6"),
    ("billion", "*10^9"),
    ("trillion", "*10^12"),
];

/// What the letters of the rendered LaTeX become.
const SIGNS: [(char, &str); 6] =
    [('√', "sqrt"), ('π', "pi"), ('∞', "inf"), ('∪', "U"), ('·', "*"), ('×', "*")];

/// The second normal form, or `None` where the LaTeX step cannot be followed.
pub fn norm(answer: &str) -> Option<String> {
    let mut text = unwrap_text(answer).unwrap_or(answer).to_string();
    for (from, to) in WORDS {
        text = text.replace(from, to);
    }
    text = drop_degree_sign(&drop_units(text));
    if let Some(inside) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        text = inside.to_string();
    }
    text = drop_after(&text, r",\!", "");
    if let Some(value) = float(&text).filter(|&value| is_near_int(value)) {
        text = int_text(value.round_ties_even());
    }
    if text.contains('\\') {
        text = render_latex(text)?;
    }
    text = drop_after(&text, "-", "-");
    text = join_mixed_number(&text).replace([' ', '{', '}'], "").to_lowercase();
    Some(match int_like(&text) {
        Some(value) => int_text(value.trunc()),
        None => text,
    })
}

/// The number an element stands for if, thousands commas aside, it is within 1e-7 of an integer.
pub fn int_like(text: &str) -> Option<f64> {
    float(&strip_thousands(text)).filter(|&value| is_near_int(value))
}

/// Removes commas between a digit and a group of exactly three digits, until none is left that
/// one left-to-right pass would remove. (A match spends the character behind its group, which is
/// why `1,000,000,000` keeps a comma.)
pub fn strip_thousands(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    while let Some(stripped) = strip_thousands_once(&bytes) {
        bytes = stripped;
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_string())
}

fn strip_thousands_once(bytes: &[u8]) -> Option<Vec<u8>> {
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let mut stripped = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let group = digit(at) && bytes.get(at + 1) == Some(&b',') && (at + 2..at + 5).all(digit);
        if group && !digit(at + 5) {
            stripped.push(bytes[at]);
            let behind = bytes.len().min(at + 6);
            stripped.extend_from_slice(&bytes[at + 2..behind]);
            at = behind;
        } else {
            stripped.push(bytes[at]);
            at += 1;
        }
    }
    (stripped.len() < bytes.len()).then_some(stripped)
}

fn drop_units(mut text: String) -> String {
    static PATTERNS: LazyLock<Vec<(&str, Regex)>> = LazyLock::new(|| {
        let pattern = |unit| Regex::new(&format!(r"{unit}(es)?(s)? *(\^[0-9]+)?")).ok();
        UNITS.iter().filter_map(|&unit| Some((unit, pattern(unit)?))).collect()
    });
    for (unit, pattern) in PATTERNS.iter() {
        if text.contains(unit) {
            text = pattern.replace_all(&text, "").into_owned();
        }
    }
    text
}

/// Deletes `^\circ`, blanks allowed after the caret.
fn drop_degree_sign(text: &str) -> String {
    let mut parts = text.split('^');
    let mut out = parts.next().unwrap_or_default().to_string();
    for part in parts {
        match part.trim_start_matches(' ').strip_prefix(r"\circ") {
            Some(rest) => out.push_str(rest),
            None => {
                out.push('^');
                out.push_str(part);
            }
        }
    }
    out
}

/// Replaces `mark` and the blanks behind it.
fn drop_after(text: &str, mark: &str, replacement: &str) -> String {
    let mut parts = text.split(mark);
    let mut out = parts.next().unwrap_or_default().to_string();
    for part in parts {
        out.push_str(replacement);
        out.push_str(part.trim_start_matches(' '));
    }
    out
}

fn render_latex(text: String) -> Option<String> {
    let source = text.replace(r"\tfrac", r"\frac").replace(r"\dfrac", r"\frac").replace(r"\frac", r" \frac");
    match latex::to_text(&source) {
        Ok(mut plain) => {
            for (sign, word) in SIGNS {
                plain = plain.replace(sign, word);
            }
            Some(super::pytext::trim(&plain).to_string())
        }
        Err(LatexFault::Raises) => Some(text),
        Err(LatexFault::Unknown) => None,
    }
}

/// `digit blanks digit` becomes `digit+digit`, left to right, each digit used once.
fn join_mixed_number(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    let mut at = 0;
    while at < bytes.len() {
        let blanks = bytes[at + 1..].iter().take_while(|&&byte| byte == b' ').count();
        let behind = at + 1 + blanks;
        let joins = bytes[at].is_ascii_digit() && blanks > 0;
        if joins && bytes.get(behind).is_some_and(u8::is_ascii_digit) {
            out.push_str(&text[from..=at]);
            out.push('+');
            out.push(bytes[behind] as char);
            from = behind + 1;
        }
        at = behind.max(from);
    }
    out.push_str(&text[from..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_units_and_numbers() {
        for (answer, form) in [
            ("Monday", "mon"),
            ("5 kilometers", "5kilo"),
            ("5 cm^2", "5"),
            ("$3 million", "3*10^6"),
            ("2 or 3", "2,3"),
            ("4.99999999", "5"),
            ("9007199254740993", "9007199254740992"),
            ("1e22", "10000000000000000000000"),
            ("1 2 3", "1+23"),
            ("12  3 4 5", "12+34+5"),
            ("- 5", "-5"),
            (r"30^ \circ", "30"),
            (r"1,\! 000", "1000"),
            ("1,000", "1000"),
            ("1,000,000,000", "1,000,000,000"),
            ("{5}", "5"),
            ("inf", "inf"),
        ] {
            assert_eq!(norm(answer).as_deref(), Some(form), "{answer:?}");
        }
    }

    #[test]
    fn latex_is_rendered_only_behind_a_backslash() {
        assert_eq!(norm(r"\frac{\sqrt{3}}{2}\pi").as_deref(), Some("sqrt(3)/2pi"));
        assert_eq!(norm("2π").as_deref(), Some("2π"));
        assert_eq!(norm(r"3\frac12").as_deref(), Some("3+1/2"));
        assert_eq!(norm(r"\sqrt").as_deref(), Some(r"\sqrt"));
    }
}
