//! Whether an expression is identically zero, as sympy's `simplify(expr) == 0` would say.
//!
//! Two independent ways, and a verdict only where one of them is conclusive:
//! 1. Evaluation with an error bound at two fixed complex points. A value clearly away from zero
//!    settles almost every pair of real answers: they differ.
//! 2. Otherwise exact algebra: quotients of polynomials over the rationals in the symbols, `pi`,
//!    `i`, square roots of primes and opaque atoms (roots of sums, symbolic powers). If everything
//!    cancels the answers are equal; if something is left and no atom is involved, they differ.
//!
//! Decimals are binary floats of sympy's precision (15 digits or as many as written), so that
//! `0.1+0.2` is not `0.3` and `0.333` is not `1/3`, while `0.75pi` is `3pi/4`. The order of rounding
//! is sympy's only where it evaluates at once (numbers alone) or collects like terms
//! ([`Expr::is_flat`]): there `50sqrt(3)/3.` is not `50sqrt(3)/3`, and `x^2.` is not `x^2`. Everything
//! else is undecided: a decimal zero beside fractions (it makes them floats), floats in products of sums whose values agree, nested roots that happen to
//! agree, and whatever exceeds the bounds of [`exact`] (so no input takes long).

mod exact;
mod float;
mod number;
mod numeric;
mod poly;

use super::Verdict;
use super::expr::Expr;
use exact::{Fault, Field};

/// Whether the expression is identically zero: `Equal` if so.
pub fn compare_with_zero(expr: &Expr) -> Verdict {
    if numeric::is_clearly_nonzero(expr) {
        return Verdict::Different;
    }
    if expr.has_decimal_zero() && !expr.is_sum_of_literals() {
        return Verdict::Undecided;
    }
    let mut field = Field::default();
    let value = match field.evaluate(expr) {
        Ok(value) => value,
        Err(Fault::Pole) => return Verdict::Different,
        Err(Fault::Beyond) => return Verdict::Undecided,
    };
    let has_decimals = expr.has_decimals();
    let rounds_as_sympy = !has_decimals || expr.is_flat() || expr.is_rational_arithmetic();
    match value.is_zero() {
        true if rounds_as_sympy => Verdict::Equal,
        false if rounds_as_sympy && !field.has_opaque_atoms(&value) => Verdict::Different,
        _ => Verdict::Undecided,
    }
}

#[cfg(test)]
mod tests {
    use super::super::expr::parse;
    use super::*;

    fn compare(a: &str, b: &str) -> Verdict {
        match parse(&format!("({a})-({b})").replace('^', "**")) {
            Ok(expr) => compare_with_zero(&expr),
            Err(stop) => panic!("{a:?} {b:?}: {stop:?}"),
        }
    }

    #[test]
    fn equalities_that_sympy_proves() {
        for (a, b) in [
            ("(x+1)^2", "x^2+2x+1"),
            ("x^3-y^3", "(x-y)(x^2+xy+y^2)"),
            ("x/y", "x*y^-1"),
            ("1/(x+1)+1/(x-1)", "2x/(x^2-1)"),
            ("1/sqrt(3)", "sqrt(3)/3"),
            ("sqrt(8)", "2sqrt(2)"),
            ("sqrt(2)sqrt(3)", "sqrt(6)"),
            ("1/(1+sqrt(2))", "sqrt(2)-1"),
            ("sqrt(-4)", "2sqrt(-1)"),
            ("sqrt(8x^2-4)", "2sqrt(2x^2-1)"),
            ("sqrt(x/2)", "sqrt(2x)/2"),
            ("1/sqrt(x)", "sqrt(x)/x"),
            ("sqrt(27/pi)*pi-4.0-10", "3sqrt(3)sqrt(pi)-14"),
            ("6(pi-2)", "6pi-12"),
            ("0.75pi", "3pi/4"),
            ("0.3x", "3x/10"),
            ("7.0/2", "3.5"),
            ("0.000", "0"),
            ("y/7*2.0^0", "y/7"),
            ("(0.5+0.25)*3", "2.25"),
            ("(2.5y)^3", "15.625y^3"),
            ("96pi+120.", "96pi+120"),
            ("2^n*2", "2*2^n"),
            ("12345678901234567890123^2", "12345678901234567890123*12345678901234567890123"),
            ("5!/3!", "20"),
            ("02/10/2013", "0"),
        ] {
            assert_eq!(compare(a, b), Verdict::Equal, "{a} {b}");
        }
    }

    #[test]
    fn differences_that_sympy_keeps() {
        for (a, b) in [
            ("x", "y"),
            ("sqrt(x^2)", "x"),
            ("0.1*3", "0.3"),
            ("0.1+0.2", "0.3"),
            ("0.333333333333333", "1/3"),
            ("0.016666666666666666", "1/60"),
            ("sqrt(2)/2", "0.70710678"),
            ("1/0", "2/0"),
            ("1/0", "5"),
            ("12345678901234567890123", "12345678901234567890124"),
            ("10^9+sqrt(2)", "10^9+sqrt(3)"),
            ("sqrt(xy)", "sqrt(x)sqrt(y)"),
            ("x^0.5", "sqrt(x)"),
            ("6a^2.", "6a^2"),
            ("(4.8y)^3", "13824y^3/125"),
            ("50sqrt(3)/3.", "50sqrt(3)/3"),
        ] {
            assert_eq!(compare(a, b), Verdict::Different, "{a} {b}");
        }
    }

    #[test]
    fn hostile_expressions_are_undecided() {
        for (a, b) in [
            ("9**9**9**9", "9**9**9**9+1"),
            ("(x+y)**1000", "(y+x)**1000"),
            ("(x+y)**(10**10)", "x"),
            ("sqrt(3+2sqrt(2))", "1+sqrt(2)"),
            ("10**10**10", "1"),
            ("999!", "999!+1"),
            ("1^-3.", "1^-3"),
            ("8/3-0.0", "8/3"),
            ("(x+1.5)(x+1)", "x^2+2.5x+1.5"),
            ("x^0.5+x^2.", "sqrt(x)+x^2"),
            ("sqrt(10**40+1)-sqrt(10**40+1)", "0*sqrt(10**50+3)"),
        ] {
            assert_eq!(compare(a, b), Verdict::Undecided, "{a} {b}");
        }
    }
}
