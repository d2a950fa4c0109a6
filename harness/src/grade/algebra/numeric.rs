//! Evaluation in complex doubles with a running error bound.
//!
//! The bound is generous (a hundred units in the last place per operation), which also covers the
//! rounding of sympy's floats. Only used to prove that something is *not* zero, so a value near
//! zero, a pole, an overflow or an argument on a branch cut gives no answer rather than a wrong one.

use crate::grade::expr::{Expr, Op};
use num_traits::ToPrimitive;

/// Relative error granted to every operation.
const EPSILON: f64 = 1e-14;

/// How many times its error bound a value must exceed to be called nonzero.
const MARGIN: f64 = 16.0;

/// Largest integer power evaluated by multiplication.
const MAX_POWER: i32 = 4096;

/// Values for the symbols, one row per point: generic, on both sides of the imaginary axis.
const POINTS: [[(f64, f64); 3]; 2] = [
    [(1.372_91, 0.614_53), (0.831_77, -0.473_19), (1.149_3, 0.287_61)],
    [(-1.213_37, 0.339_81), (-0.741_29, 0.918_23), (-1.532_7, -0.194_57)],
];

/// Whether the value at one of the points is certainly not zero.
pub fn is_clearly_nonzero(expr: &Expr) -> bool {
    POINTS.iter().any(|values| {
        let mut point = Point { values, names: Vec::new() };
        point.value(expr).is_some_and(|value| value.magnitude() > MARGIN * value.error)
    })
}

/// A complex number and a bound on its distance from the true value.
#[derive(Clone, Copy, Debug)]
struct Approx {
    re: f64,
    im: f64,
    error: f64,
}

struct Point<'a> {
    values: &'a [(f64, f64); 3],
    /// Symbols in order of appearance.
    names: Vec<&'a str>,
}

impl<'a> Point<'a> {
    fn value(&mut self, expr: &'a Expr) -> Option<Approx> {
        match expr {
            Expr::Integer(n) => Approx::rounded(n.to_f64()?, 0.0),
            Expr::Decimal { digits, power, .. } => {
                let digits = Approx::rounded(digits.to_f64()?, 0.0)?;
                digits.times(Approx::rounded(libm::pow(10.0, f64::from(*power)), 0.0)?)
            }
            Expr::Pi => Approx::rounded(std::f64::consts::PI, 0.0),
            Expr::Symbol(name) => self.symbol(name),
            Expr::Sum(terms) => {
                terms.iter().try_fold(Approx::exact(0.0), |sum, term| sum.plus(self.value(term)?))
            }
            Expr::Product(factors) => {
                factors.iter().try_fold(Approx::exact(1.0), |product, (op, factor)| match op {
                    Op::Times => product.times(self.value(factor)?),
                    Op::Over => product.times(self.value(factor)?.inverse()?),
                })
            }
            Expr::Negative(inner) => self.value(inner).map(Approx::negated),
            Expr::Power(base, exponent) => self.power(base, exponent),
            Expr::Root(inner) => self.value(inner)?.root(),
            Expr::Factorial(inner) => factorial(inner),
        }
    }

    /// The value of a symbol; more symbols than values repeat them, scaled.
    fn symbol(&mut self, name: &'a str) -> Option<Approx> {
        let known = self.names.iter().position(|&other| other == name);
        let index = known.unwrap_or_else(|| {
            self.names.push(name);
            self.names.len() - 1
        });
        let (re, im) = self.values[index % self.values.len()];
        let scale = 1.0 + 0.173 * (index / self.values.len()) as f64;
        Some(Approx { re: re * scale, im: im * scale, error: 0.0 })
    }

    fn power(&mut self, base: &'a Expr, exponent: &'a Expr) -> Option<Approx> {
        let value = self.value(base)?;
        match small_integer(exponent) {
            Some(n) => value.integer_power(n),
            None => value.general_power(self.value(exponent)?),
        }
    }
}

fn small_integer(expr: &Expr) -> Option<i32> {
    match expr {
        Expr::Integer(n) => n.to_i32().filter(|n| n.abs() <= MAX_POWER),
        Expr::Negative(inner) => small_integer(inner).map(|n| -n),
        _ => None,
    }
}

fn factorial(inner: &Expr) -> Option<Approx> {
    let n = small_integer(inner).filter(|n| (0..=170).contains(n))?;
    Approx::rounded((1..=n).map(f64::from).product(), 0.0)
}

impl Approx {
    fn exact(re: f64) -> Self {
        Approx { re, im: 0.0, error: 0.0 }
    }

    /// A computed value: finite, its own rounding added to the error.
    fn computed(re: f64, im: f64, error: f64) -> Option<Self> {
        let value = Approx { re, im, error: error + EPSILON * libm::hypot(re, im) };
        value.error.is_finite().then_some(value)
    }

    fn rounded(re: f64, im: f64) -> Option<Self> {
        Self::computed(re, im, 0.0)
    }

    fn magnitude(self) -> f64 {
        libm::hypot(self.re, self.im)
    }

    fn negated(self) -> Self {
        // Adding zero keeps the imaginary part of real numbers on the upper side of the cut.
        Approx { re: 0.0 - self.re, im: 0.0 - self.im, error: self.error }
    }

    fn plus(self, other: Self) -> Option<Self> {
        let rounding = EPSILON * (self.magnitude() + other.magnitude());
        Self::computed(self.re + other.re, self.im + other.im, self.error + other.error + rounding)
    }

    fn times(self, other: Self) -> Option<Self> {
        let re = self.re * other.re - self.im * other.im;
        let im = self.re * other.im + self.im * other.re;
        let (a, b) = (self.magnitude(), other.magnitude());
        let error = a * other.error + b * self.error + self.error * other.error;
        Self::computed(re, im + 0.0, error + EPSILON * a * b)
    }

    fn inverse(self) -> Option<Self> {
        let size = self.magnitude();
        if size <= 4.0 * self.error || size < 1e-150 {
            return None;
        }
        let square = size * size;
        Self::computed(self.re / square, 0.0 - self.im / square, 2.0 * self.error / square)
    }

    fn integer_power(self, exponent: i32) -> Option<Self> {
        let mut base = if exponent < 0 { self.inverse()? } else { self };
        let mut left = exponent.unsigned_abs();
        let mut power = Approx::exact(1.0);
        while left > 0 {
            if left & 1 == 1 {
                power = power.times(base)?;
            }
            left >>= 1;
            if left > 0 {
                base = base.times(base)?;
            }
        }
        Some(power)
    }

    /// Whether the principal branch is certain: not near zero, not near the negative axis unless on it.
    fn is_off_cut(self) -> bool {
        self.magnitude() > 4.0 * self.error
            && (self.im == 0.0 || self.re > 0.0 || self.im.abs() > 4.0 * self.error)
    }

    fn root(self) -> Option<Self> {
        if self.re == 0.0 && self.im == 0.0 && self.error == 0.0 {
            return Some(self);
        }
        if !self.is_off_cut() {
            return None;
        }
        let size = libm::sqrt(self.magnitude());
        let angle = libm::atan2(self.im, self.re) / 2.0;
        let error = self.error / size;
        if self.im == 0.0 {
            let (re, im) = if self.re > 0.0 { (size, 0.0) } else { (0.0, size) };
            return Self::computed(re, im, error);
        }
        Self::computed(size * libm::cos(angle), size * libm::sin(angle), error)
    }

    fn general_power(self, exponent: Self) -> Option<Self> {
        if !self.is_off_cut() {
            return None;
        }
        let size = self.magnitude();
        let log = Approx::computed(libm::log(size), libm::atan2(self.im, self.re), 2.0 * self.error / size)?;
        let power = log.times(exponent)?;
        if power.error > 0.1 {
            return None;
        }
        let size = libm::exp(power.re);
        let error = 2.0 * size * power.error;
        Self::computed(size * libm::cos(power.im), size * libm::sin(power.im), error)
    }
}
