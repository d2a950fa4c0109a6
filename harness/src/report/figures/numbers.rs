//! Numbers and names in the CSV files of figures.

use anyhow::{Context, Result};

/// Significant digits of a number in a file.
const DIGITS: i32 = 6;

/// A number with six significant digits at most, so that the last bits of a sum never reach a file.
pub(super) fn number(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{}", value + 0.0);
    }
    let magnitude = value.abs().log10().floor() as i32;
    let places = (DIGITS - 1 - magnitude).clamp(0, 12) as usize;
    let text = format!("{value:.places$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A number, or nothing.
pub(super) fn or_empty(value: Option<f64>) -> String {
    value.map_or(String::new(), number)
}

/// A CSV file.
pub(super) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Result<String> {
    let mut writer = csv::Writer::from_writer(vec![]);
    writer.write_record(header)?;
    for row in rows {
        writer.write_record(row)?;
    }
    let bytes = writer.into_inner().context("the numbers of a figure as CSV")?;
    String::from_utf8(bytes).context("the numbers of a figure as CSV")
}

/// A number for people: two significant digits, or all before the point.
pub(super) fn shown(value: f64) -> String {
    let magnitude = if value == 0.0 { 0 } else { value.abs().log10().floor() as i32 };
    let places = (1 - magnitude).clamp(0, 4) as usize;
    format!("{value:.places$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_six_digits() {
        let cases = [
            (0.0, "0"),
            (-0.0, "0"),
            (1.0 / 3.0, "0.333333"),
            (1234567.0, "1234567"),
            (100.0, "100"),
            (0.1 + 0.2, "0.3"),
            (1.5e-9, "0.0000000015"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text, "{value}");
        }
        assert_eq!((or_empty(None), or_empty(Some(2.0))), (String::new(), "2".into()));
    }

    #[test]
    fn names_with_commas_are_quoted() {
        let rows = [vec!["VPPO, \"mask\"".to_owned(), "1".to_owned()]];
        assert_eq!(table(&["arm", "n"], rows).unwrap(), "arm,n\n\"VPPO, \"\"mask\"\"\",1\n");
        assert!(table(&["arm"], [vec![String::new(), String::new()]]).is_err());
    }

    #[test]
    fn shown_numbers_have_two_digits() {
        assert_eq!(
            [0.0, 0.08795, 1.2345, 256.0, 0.00012].map(shown),
            ["0.0", "0.088", "1.2", "256", "0.0001"]
        );
    }
}
