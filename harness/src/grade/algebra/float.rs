//! Binary floats of any precision, rounded to nearest, ties to even.
//!
//! Source: the behaviour of mpmath 1.3 under sympy 1.14: every operation is exact, then rounded
//! once to the larger precision of its operands.

use num_bigint::{BigInt, Sign};
use num_rational::BigRational;
use num_traits::{One, Signed, Zero};

/// Largest power of two a float may carry, and largest number of bits of an exact intermediate.
const MAX_EXPONENT: i64 = 20_000;

/// `mantissa * 2^exponent`, not zero, mantissa odd and at most `precision` bits long.
#[derive(Clone, Debug, PartialEq)]
pub struct Float {
    mantissa: BigInt,
    exponent: i64,
    precision: u64,
}

/// The result of an operation: `Some(None)` is exact zero, `None` is out of bounds.
pub type Rounded = Option<Option<Float>>;

impl Float {
    /// Bits for a literal with this many significant digits: sympy uses at least 15 digits.
    pub fn precision_of_digits(digits: usize) -> u64 {
        const BITS_PER_DIGIT: f64 = 3.321_928_094_887_362_6;
        ((digits.max(15) + 1) as f64 * BITS_PER_DIGIT).round_ties_even() as u64
    }

    /// The nearest float to a rational number.
    pub fn from_ratio(ratio: &BigRational, precision: u64) -> Rounded {
        let (numer, denom) = (ratio.numer(), ratio.denom());
        let shift = precision as i64 + 2 + denom.bits() as i64 - numer.bits() as i64;
        if shift.abs() > MAX_EXPONENT {
            return None;
        }
        let (up, down) = (shift.max(0) as u64, (-shift).max(0) as u64);
        let scaled_denom = denom << down;
        let scaled_numer = numer.magnitude() << up;
        let mut mantissa = BigInt::from(&scaled_numer / scaled_denom.magnitude());
        let exact = &mantissa * &scaled_denom == BigInt::from(scaled_numer);
        // A sticky bit below the rounding position stands for the rest of the quotient.
        mantissa = (mantissa << 1u32) + u32::from(!exact);
        let signed = if numer.is_negative() { -mantissa } else { mantissa };
        Self::round(signed, -shift - 1, precision)
    }

    /// The value as a rational number.
    pub fn to_ratio(&self) -> BigRational {
        let power = BigInt::one() << self.exponent.unsigned_abs();
        let mantissa = self.mantissa.clone();
        if self.exponent < 0 {
            BigRational::new(mantissa, power)
        } else {
            BigRational::from(mantissa * power)
        }
    }

    /// The precision in bits.
    pub fn precision(&self) -> u64 {
        self.precision
    }

    /// The opposite.
    pub fn negate(&self) -> Self {
        Self { mantissa: -&self.mantissa, ..self.clone() }
    }

    /// Whether the number is below zero.
    pub fn is_negative(&self) -> bool {
        self.mantissa.is_negative()
    }

    /// The sum.
    pub fn add(&self, other: &Self) -> Rounded {
        let exponent = self.exponent.min(other.exponent);
        let lift = |float: &Self| &float.mantissa << (float.exponent - exponent).unsigned_abs();
        if (self.exponent - other.exponent).abs() > MAX_EXPONENT {
            return None;
        }
        Self::round(lift(self) + lift(other), exponent, self.precision.max(other.precision))
    }

    /// The product.
    pub fn multiply(&self, other: &Self) -> Rounded {
        let precision = self.precision.max(other.precision);
        Self::round(&self.mantissa * &other.mantissa, self.exponent + other.exponent, precision)
    }

    /// The quotient.
    pub fn divide(&self, other: &Self) -> Rounded {
        Self::from_ratio(&(self.to_ratio() / other.to_ratio()), self.precision.max(other.precision))
    }

    /// An integer power, computed exactly and rounded once.
    pub fn power(&self, exponent: i32) -> Rounded {
        let times = exponent.unsigned_abs();
        if self.mantissa.bits() * u64::from(times) > MAX_EXPONENT as u64 {
            return None;
        }
        let mantissa = self.mantissa.pow(times);
        let ratio_exponent = self.exponent.checked_mul(i64::from(times))?;
        let positive = Self { mantissa, exponent: ratio_exponent, precision: self.precision };
        if ratio_exponent.abs() > MAX_EXPONENT {
            return None;
        }
        if exponent < 0 {
            return Self::from_ratio(&positive.to_ratio().recip(), self.precision);
        }
        Self::round(positive.mantissa, positive.exponent, self.precision)
    }

    /// The square root of the magnitude.
    pub fn root(&self) -> Rounded {
        let wanted = 2 * (self.precision as i64 + 2);
        let mut shift = (wanted - self.mantissa.bits() as i64).max(0);
        if (self.exponent - shift) % 2 != 0 {
            shift += 1;
        }
        let square = self.mantissa.magnitude() << shift.unsigned_abs();
        let root = square.sqrt();
        let exact = &root * &root == square;
        let sticky = (BigInt::from(root) << 1u32) + u32::from(!exact);
        Self::round(sticky, (self.exponent - shift) / 2 - 1, self.precision)
    }

    fn round(mantissa: BigInt, exponent: i64, precision: u64) -> Rounded {
        if mantissa.is_zero() {
            return Some(None);
        }
        let (sign, mut magnitude) = mantissa.into_parts();
        let mut exponent = exponent;
        let excess = magnitude.bits().saturating_sub(precision);
        if excess > 0 {
            let half = num_bigint::BigUint::one() << (excess - 1);
            let kept = &magnitude >> excess;
            let rest = &magnitude - (&kept << excess);
            let up = rest > half || (rest == half && kept.bit(0));
            magnitude = kept + u32::from(up);
            exponent += excess as i64;
        }
        let zeros = magnitude.trailing_zeros().unwrap_or(0);
        exponent += zeros as i64;
        if exponent.abs() > MAX_EXPONENT {
            return None;
        }
        let sign = if sign == Sign::Minus { Sign::Minus } else { Sign::Plus };
        let mantissa = BigInt::from_biguint(sign, magnitude >> zeros);
        Some(Some(Self { mantissa, exponent, precision }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use num_traits::ToPrimitive;

    fn double(result: Rounded) -> Option<f64> {
        result?.map_or(Some(0.0), |float| float.to_ratio().to_f64())
    }

    fn float(numer: i64, denom: i64) -> Float {
        let ratio = BigRational::new(numer.into(), denom.into());
        Float::from_ratio(&ratio, 53).flatten().unwrap_or_else(|| panic!("{numer}/{denom} is zero"))
    }

    #[test]
    fn operations_agree_with_doubles() {
        let values = [(1i64, 10i64), (3, 10), (-7, 3), (1, 3), (123_456_789, 1000), (2, 1), (1, 1_000_003)];
        for (a, b) in values {
            for (c, d) in values {
                let (x, y) = (a as f64 / b as f64, c as f64 / d as f64);
                let (p, q) = (float(a, b), float(c, d));
                assert_eq!(p.to_ratio().to_f64(), Some(x));
                assert_eq!(double(p.add(&q)), Some(x + y));
                assert_eq!(double(p.multiply(&q)), Some(x * y));
                assert_eq!(double(p.divide(&q)), Some(x / y));
                assert_eq!(double(p.root()), Some(x.abs().sqrt()));
            }
        }
    }

    #[test]
    fn bounds_are_kept() {
        assert_eq!(float(3, 1).power(1_000_000), None);
        assert_eq!(float(2, 1).power(1_000_000), None);
        assert_eq!(float(1, 10).add(&float(-1, 10)), Some(None));
        assert_eq!(Float::precision_of_digits(15), 53);
        assert_eq!(Float::precision_of_digits(17), 60);
    }
}
