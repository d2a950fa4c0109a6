//! The few rules of Python's text functions on which the reference's verdicts rest.

use num_bigint::BigInt;
use num_traits::FromPrimitive;
use regex::Regex;
use std::sync::LazyLock;

/// `str.isspace` for one character: Unicode white space and the four separators U+001C..U+001F.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.strip()`.
pub fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Whether the text has decimal digits other than `0`-`9`. Python counts with them; this grader
/// does not, and leaves such answers undecided.
pub fn has_foreign_digits(text: &str) -> bool {
    static DIGIT: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[\p{Nd}--0-9]").ok());
    !text.is_ascii() && DIGIT.as_ref().is_some_and(|digit| digit.is_match(text))
}

/// `float(text)`, or `None` where Python raises.
pub fn float(text: &str) -> Option<f64> {
    let text = trim(text);
    if !text.contains('_') {
        return text.parse().ok();
    }
    let bytes = text.as_bytes();
    let digit_at = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let between_digits = |at: usize| at > 0 && digit_at(at - 1) && digit_at(at + 1);
    let separators_ok = (0..bytes.len()).all(|at| bytes[at] != b'_' || between_digits(at));
    separators_ok.then(|| text.replace('_', "")).and_then(|plain| plain.parse().ok())
}

/// Whether a number lies within 1e-7 of an integer (infinities and NaN do not).
pub fn is_near_int(x: f64) -> bool {
    x.is_finite() && (x - x.round_ties_even()).abs() <= 1e-7
}

/// `str(int(x))` of a finite number that is already integral.
pub fn int_text(x: f64) -> String {
    BigInt::from_f64(x).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_read_as_python_reads_them() {
        assert_eq!(float(" 1_000.5\n"), Some(1000.5));
        assert_eq!(float("1__0"), None);
        assert_eq!(float("_1"), None);
        assert_eq!(float("+.5e1"), Some(5.0));
        assert_eq!(float("0x10"), None);
        assert_eq!(float("1e999"), Some(f64::INFINITY));
        assert_eq!(float(""), None);
    }

    #[test]
    fn integers_are_written_in_full() {
        assert_eq!(int_text(1e22), "10000000000000000000000");
        assert_eq!(int_text(-0.0), "0");
        assert!(is_near_int(4.99999999) && !is_near_int(4.9999999) && !is_near_int(f64::INFINITY));
    }

    #[test]
    fn foreign_digits_are_seen() {
        assert!(has_foreign_digits("x = ٣") && has_foreign_digits("１2"));
        assert!(!has_foreign_digits("3²") && !has_foreign_digits("123"));
    }
}
