//! Numbers as sympy keeps them: exact rationals, and floats that spread to what they touch.

use super::exact::Fault;
use super::float::{Float, Rounded};
use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Pow, Signed, Zero};

/// Longest numerator or denominator of an exact number, in bits.
const MAX_BITS: u64 = 4096;

/// A rational number or a float. A float that is zero is the exact zero.
#[derive(Clone, Debug, PartialEq)]
pub enum Number {
    /// An exact rational number.
    Exact(BigRational),
    /// A float, not zero.
    Float(Float),
}

impl From<BigInt> for Number {
    fn from(value: BigInt) -> Self {
        Number::Exact(BigRational::from(value))
    }
}

impl From<i64> for Number {
    fn from(value: i64) -> Self {
        Number::from(BigInt::from(value))
    }
}

impl Number {
    /// The float nearest to a rational number.
    pub fn float(ratio: &BigRational, precision: u64) -> Result<Self, Fault> {
        rounded(Float::from_ratio(ratio, precision))
    }

    /// Whether the number is zero.
    pub fn is_zero(&self) -> bool {
        matches!(self, Number::Exact(ratio) if ratio.is_zero())
    }

    /// Whether the number is a float.
    pub fn is_float(&self) -> bool {
        matches!(self, Number::Float(_))
    }

    /// The work that an operation with this number stands for.
    pub fn cost(&self) -> u64 {
        match self {
            Number::Exact(ratio) => 1 + ((ratio.numer().bits() + ratio.denom().bits()) / 64).pow(2),
            Number::Float(_) => 4,
        }
    }

    /// The opposite.
    pub fn negate(&self) -> Self {
        match self {
            Number::Exact(ratio) => Number::Exact(-ratio),
            Number::Float(float) => Number::Float(float.negate()),
        }
    }

    /// The sum; an exact zero leaves a float as it is.
    pub fn add(&self, other: &Self) -> Result<Self, Fault> {
        if self.is_zero() {
            return Ok(other.clone());
        }
        if other.is_zero() {
            return Ok(self.clone());
        }
        self.combine(other, |a, b| a + b, Float::add)
    }

    /// The product; an exact zero wins over a float.
    pub fn multiply(&self, other: &Self) -> Result<Self, Fault> {
        if self.is_zero() || other.is_zero() {
            return Ok(Number::from(0));
        }
        self.combine(other, |a, b| a * b, Float::multiply)
    }

    /// The quotient by a number that is not zero. An exact number over a float is multiplied with
    /// the float's rounded inverse, as sympy does.
    pub fn divide(&self, other: &Self) -> Result<Self, Fault> {
        match (self, other) {
            (Number::Exact(_), Number::Float(_)) => self.multiply(&other.inverse()?),
            _ if self.is_zero() => Ok(Number::from(0)),
            _ => self.combine(other, |a, b| a / b, Float::divide),
        }
    }

    /// One over a number that is not zero.
    pub fn inverse(&self) -> Result<Self, Fault> {
        match self {
            Number::Exact(ratio) if ratio.is_zero() => Err(Fault::Beyond),
            Number::Exact(ratio) => Ok(Number::Exact(ratio.recip())),
            Number::Float(float) => rounded(float.power(-1)),
        }
    }

    /// An integer power of a number that is not zero; the power 0 is the exact 1, of a float too.
    pub fn power(&self, exponent: i32) -> Result<Self, Fault> {
        match self {
            _ if exponent == 0 => Ok(Number::from(1)),
            Number::Exact(ratio) => {
                let bits = ratio.numer().bits().max(ratio.denom().bits());
                let grows = !ratio.is_integer() || ratio.numer().magnitude() > &1u32.into();
                if grows && bits * u64::from(exponent.unsigned_abs()) > MAX_BITS {
                    return Err(Fault::Beyond);
                }
                Ok(Number::Exact(Pow::pow(ratio, exponent)))
            }
            Number::Float(float) => rounded(float.power(exponent)),
        }
    }

    /// The number as an integer exponent, if it is one and small.
    pub fn small_integer(&self) -> Option<i32> {
        match self {
            Number::Exact(ratio) if ratio.is_integer() => i32::try_from(ratio.numer()).ok(),
            _ => None,
        }
    }

    /// Whether the number is the exact half.
    pub fn is_half(&self) -> bool {
        matches!(self, Number::Exact(ratio) if ratio.numer().is_one() && *ratio.denom() == 2.into())
    }

    /// Whether the number is below zero.
    pub fn is_negative(&self) -> bool {
        match self {
            Number::Exact(ratio) => ratio.is_negative(),
            Number::Float(float) => float.is_negative(),
        }
    }

    fn combine(
        &self,
        other: &Self,
        exact: fn(&BigRational, &BigRational) -> BigRational,
        float: fn(&Float, &Float) -> Rounded,
    ) -> Result<Self, Fault> {
        let at = |ratio: &BigRational, precision: u64| Float::from_ratio(ratio, precision).flatten();
        match (self, other) {
            (Number::Exact(a), Number::Exact(b)) => {
                let ratio = exact(a, b);
                let too_long = ratio.numer().bits().max(ratio.denom().bits()) > MAX_BITS;
                if too_long { Err(Fault::Beyond) } else { Ok(Number::Exact(ratio)) }
            }
            (Number::Float(a), Number::Float(b)) => rounded(float(a, b)),
            (Number::Float(a), Number::Exact(b)) => {
                rounded(float(a, &at(b, a.precision()).ok_or(Fault::Beyond)?))
            }
            (Number::Exact(a), Number::Float(b)) => {
                rounded(float(&at(a, b.precision()).ok_or(Fault::Beyond)?, b))
            }
        }
    }
}

fn rounded(float: Rounded) -> Result<Number, Fault> {
    match float {
        Some(Some(float)) => Ok(Number::Float(float)),
        Some(None) => Ok(Number::from(0)),
        None => Err(Fault::Beyond),
    }
}
