//! Expressions as the reference's computer algebra system reads them.
//!
//! Source: sympy 1.14 under Python 3.11, `parse_expr` with the standard transformations and
//! `implicit_multiplication_application`, after `^` became `**`. So the grammar is Python's, with a
//! product sign put between neighbours: `3/4pi` is `(3/4)*pi`, `2^3x` is `(2^3)*x`, `ab` is `a*b`,
//! `x2` is `x*2`, `02` is `0*2`, `5!` a factorial. `e` and `i` are plain symbols; `pi` is the number.
//!
//! What Python or sympy refuses (an `=`, a list, two commas, a `√`) makes two answers differ: that is
//! [`Stop::Refused`]. What they accept but this grader does not follow (functions other than the
//! square root, keywords, bit operators, complex literals, comparisons of comparisons) is
//! [`Stop::Beyond`].

mod lexer;
mod parser;

pub use parser::parse;

use num_bigint::BigInt;

/// Longest text that is read, in bytes.
pub const MAX_BYTES: usize = 4096;

/// Deepest nesting of brackets, signs and powers.
pub const MAX_DEPTH: usize = 64;

/// Longest number literal, in digits.
pub const MAX_DIGITS: usize = 1000;

/// Why there is no expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The reference raises, and takes the answers for different.
    Refused,
    /// The reference might evaluate this; this grader cannot.
    Beyond,
}

/// An expression tree, at most [`MAX_DEPTH`] levels of recursion deep.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// An integer literal.
    Integer(BigInt),
    /// A literal with a point or an exponent: its digits as an integer, and the power of ten.
    Decimal {
        /// All digits, the point left out.
        digits: BigInt,
        /// How many digits count for the precision (leading zeros do not).
        precision_digits: usize,
        /// The power of ten to multiply with.
        power: i32,
    },
    /// The circle constant.
    Pi,
    /// A free variable.
    Symbol(String),
    /// Terms added from left to right.
    Sum(Vec<Expr>),
    /// Factors multiplied or divided from left to right.
    Product(Vec<(Op, Expr)>),
    /// The opposite.
    Negative(Box<Expr>),
    /// Base and exponent.
    Power(Box<Expr>, Box<Expr>),
    /// The principal square root.
    Root(Box<Expr>),
    /// The factorial.
    Factorial(Box<Expr>),
}

/// How a factor enters a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// As it is.
    Times,
    /// As its inverse.
    Over,
}

impl Expr {
    /// Whether only numbers, sums, products, integer powers and factorials occur.
    pub fn is_rational_arithmetic(&self) -> bool {
        match self {
            Expr::Integer(_) | Expr::Decimal { .. } => true,
            Expr::Pi | Expr::Symbol(_) | Expr::Root(_) => false,
            Expr::Sum(terms) => terms.iter().all(Expr::is_rational_arithmetic),
            Expr::Product(factors) => factors.iter().all(|(_, factor)| factor.is_rational_arithmetic()),
            Expr::Negative(inner) | Expr::Factorial(inner) => inner.is_rational_arithmetic(),
            Expr::Power(base, exponent) => base.is_rational_arithmetic() && exponent.is_rational_arithmetic(),
        }
    }

    /// Whether a decimal literal occurs.
    pub fn has_decimals(&self) -> bool {
        self.has_decimal(&|_| true)
    }

    /// Whether a decimal literal of value zero occurs.
    pub fn has_decimal_zero(&self) -> bool {
        self.has_decimal(&|digits| *digits == BigInt::ZERO)
    }

    fn has_decimal(&self, wanted: &dyn Fn(&BigInt) -> bool) -> bool {
        match self {
            Expr::Decimal { digits, .. } => wanted(digits),
            Expr::Integer(_) | Expr::Pi | Expr::Symbol(_) => false,
            Expr::Sum(terms) => terms.iter().any(|term| term.has_decimal(wanted)),
            Expr::Product(factors) => factors.iter().any(|(_, factor)| factor.has_decimal(wanted)),
            Expr::Negative(inner) | Expr::Root(inner) | Expr::Factorial(inner) => inner.has_decimal(wanted),
            Expr::Power(base, exponent) => base.has_decimal(wanted) || exponent.has_decimal(wanted),
        }
    }

    /// Whether only decimals and integers that a float holds exactly occur, under sums and signs.
    pub fn is_sum_of_literals(&self) -> bool {
        match self {
            Expr::Decimal { .. } => true,
            Expr::Integer(n) => n.bits() <= 53,
            Expr::Sum(terms) => terms.iter().all(Expr::is_sum_of_literals),
            Expr::Negative(inner) => inner.is_sum_of_literals(),
            _ => false,
        }
    }

    /// Whether sums stand only under sums and signs, so that collecting like terms is all the
    /// simplification there is, and at most one power has a decimal exponent.
    pub fn is_flat(&self) -> bool {
        let mut decimal_powers = 0;
        self.is_flat_sum(&mut decimal_powers) && decimal_powers <= 1
    }

    fn is_flat_sum(&self, decimal_powers: &mut usize) -> bool {
        match self {
            Expr::Sum(terms) => terms.iter().all(|term| term.is_flat_sum(decimal_powers)),
            Expr::Negative(inner) => inner.is_flat_sum(decimal_powers),
            term => term.is_flat_term(decimal_powers),
        }
    }

    fn is_flat_term(&self, decimal_powers: &mut usize) -> bool {
        match self {
            Expr::Sum(_) => false,
            Expr::Integer(_) | Expr::Decimal { .. } | Expr::Pi | Expr::Symbol(_) => true,
            Expr::Product(factors) => factors.iter().all(|(_, factor)| factor.is_flat_term(decimal_powers)),
            Expr::Negative(inner) | Expr::Root(inner) | Expr::Factorial(inner) => {
                inner.is_flat_term(decimal_powers)
            }
            Expr::Power(base, exponent) => {
                *decimal_powers += usize::from(matches!(**exponent, Expr::Decimal { .. }));
                base.is_flat_term(decimal_powers) && exponent.is_flat_term(decimal_powers)
            }
        }
    }
}
