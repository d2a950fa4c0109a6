//! Numbers in words: operations, bytes, counts.

/// A number of operations or bytes in the largest unit that leaves at least one before the point.
fn in_units(count: u64, step: f64, units: [&str; 4]) -> String {
    let mut value = count as f64;
    let mut unit = 0;
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

/// Floating-point operations: `1.2 TFLOP`.
pub fn operations(count: u64) -> String {
    in_units(count / 1_000_000, 1e3, ["MFLOP", "GFLOP", "TFLOP", "PFLOP"])
}

/// Bytes: `1.2 GiB`.
pub fn bytes(count: u64) -> String {
    in_units(count, 1024.0, ["B", "KiB", "MiB", "GiB"])
}

/// `12345678` as `12,345,678`.
pub fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_unit_that_fits() {
        assert_eq!(operations(1_499_000_000_000), "1.5 TFLOP");
        assert_eq!(operations(999_000_000), "999.0 MFLOP");
        assert_eq!([bytes(1023), bytes(1536), bytes(3 << 30)], ["1023.0 B", "1.5 KiB", "3.0 GiB"]);
        assert_eq!([thousands(7), thousands(1_000), thousands(12_345_678)], ["7", "1,000", "12,345,678"]);
    }
}
