//! The field in which expressions are compared exactly.

use super::float::Float;
use super::number::Number;
use super::poly::{Generator, Monomial, Poly, invert_monomial, multiply_monomials};
use crate::grade::expr::{Expr, Op};
use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Pow, Signed, ToPrimitive, Zero};

/// Most terms of a polynomial.
pub const MAX_TERMS: usize = 400;

/// Work granted to one comparison, in limb operations.
const BUDGET: u64 = 20_000;

/// Largest power that is multiplied out.
const MAX_POWER: i32 = 1000;

/// Largest argument of a factorial.
const MAX_FACTORIAL: i32 = 200;

/// Largest radicand whose prime factors are sought.
const MAX_RADICAND: u64 = 1_000_000_000;

/// Why there is no exact value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A division by zero outside denominators, powers and roots: sympy's infinity, never 0.
    Pole,
    /// Outside what this field represents, or beyond its bounds.
    Beyond,
}

/// A quotient of polynomials. A denominator with a single term is folded into the numerator.
#[derive(Clone, Debug, PartialEq)]
pub struct Quotient {
    numer: Poly,
    denom: Poly,
}

impl Quotient {
    /// Whether the value is zero.
    pub fn is_zero(&self) -> bool {
        self.numer.is_zero()
    }

    fn as_constant(&self) -> Option<Number> {
        self.whole().and_then(Poly::as_constant)
    }

    fn whole(&self) -> Option<&Poly> {
        (self.denom == one()).then_some(&self.numer)
    }

    /// Whether the value is one symbol or pi: its power with a decimal exponent stays as it is.
    fn is_generator(&self) -> bool {
        let term = self.whole().and_then(Poly::as_term);
        term.is_some_and(|(monomial, coefficient)| is_plain(monomial) && *coefficient == Number::from(1))
    }

    fn has_floats(&self) -> bool {
        self.numer.has_floats() || self.denom.has_floats()
    }
}

impl From<Poly> for Quotient {
    fn from(numer: Poly) -> Self {
        Quotient { numer, denom: one() }
    }
}

fn one() -> Poly {
    Poly::constant(Number::from(1))
}

/// A root or power that does not resolve.
#[derive(Clone, Debug, PartialEq)]
enum Atom {
    /// The square root of a polynomial with integer coefficients without a common factor.
    Root(Poly),
    /// A power with an exponent that is not an integer.
    Power(Quotient, Quotient),
}

impl Atom {
    /// Whether the atom could equal an expression in others: all but the root of one generator and
    /// a power with a decimal exponent.
    fn is_opaque(&self) -> bool {
        match self {
            Atom::Root(radicand) => !matches!(radicand.as_term(), Some((monomial, _)) if is_plain(monomial)),
            Atom::Power(_, exponent) => !exponent.has_floats(),
        }
    }
}

fn is_plain(monomial: &Monomial) -> bool {
    matches!(monomial.as_slice(), [(Generator::Symbol(_) | Generator::Pi, 1)])
}

/// The atoms met so far and the work left.
#[derive(Debug)]
pub struct Field {
    atoms: Vec<Atom>,
    budget: u64,
}

impl Default for Field {
    fn default() -> Self {
        Field { atoms: Vec::new(), budget: BUDGET }
    }
}

impl Field {
    /// The exact value of an expression.
    pub fn evaluate(&mut self, expr: &Expr) -> Result<Quotient, Fault> {
        self.pay(1)?;
        match expr {
            Expr::Integer(n) => Ok(constant(Number::from(n.clone()))),
            Expr::Decimal { digits, precision_digits, power } => decimal(digits, *precision_digits, *power),
            Expr::Pi => Ok(Poly::generator(Generator::Pi).into()),
            Expr::Symbol(name) => Ok(Poly::generator(Generator::Symbol(name.clone())).into()),
            Expr::Sum(terms) => terms.iter().try_fold(Quotient::from(Poly::default()), |sum, term| {
                let term = self.evaluate(term)?;
                self.add(&sum, &term)
            }),
            Expr::Product(factors) => {
                factors.iter().try_fold(one().into(), |product, (op, factor)| match op {
                    Op::Times => {
                        let factor = self.evaluate(factor)?;
                        self.multiply(&product, &factor)
                    }
                    Op::Over => self.divide(&product, factor),
                })
            }
            Expr::Negative(inner) => {
                let value = self.evaluate(inner)?;
                Ok(Quotient { numer: value.numer.negate(), denom: value.denom })
            }
            Expr::Power(base, exponent) => self.power(base, exponent),
            Expr::Root(inner) => {
                let value = self.evaluate_inside(inner)?;
                self.root(&value)
            }
            Expr::Factorial(inner) => factorial(&self.evaluate_inside(inner)?),
        }
    }

    /// Whether the value holds roots or powers that could still be equal to something else.
    pub fn has_opaque_atoms(&self, value: &Quotient) -> bool {
        value
            .numer
            .atoms()
            .chain(value.denom.atoms())
            .any(|index| self.atoms.get(index).is_none_or(Atom::is_opaque))
    }

    /// Where a pole could turn into a number again, it is beyond this field.
    fn evaluate_inside(&mut self, expr: &Expr) -> Result<Quotient, Fault> {
        self.evaluate(expr).map_err(|_| Fault::Beyond)
    }

    fn pay(&mut self, work: u64) -> Result<(), Fault> {
        self.budget = self.budget.checked_sub(work).ok_or(Fault::Beyond)?;
        Ok(())
    }

    fn add(&mut self, a: &Quotient, b: &Quotient) -> Result<Quotient, Fault> {
        self.pay((a.numer.len() + b.numer.len()) as u64)?;
        if a.denom == b.denom {
            return self.quotient(a.numer.add(&b.numer)?, a.denom.clone());
        }
        if a.has_floats() || b.has_floats() {
            return Err(Fault::Beyond);
        }
        let left = self.multiply_polys(&a.numer, &b.denom)?;
        let right = self.multiply_polys(&b.numer, &a.denom)?;
        let denom = self.multiply_polys(&a.denom, &b.denom)?;
        self.quotient(left.add(&right)?, denom)
    }

    fn multiply(&mut self, a: &Quotient, b: &Quotient) -> Result<Quotient, Fault> {
        let numer = self.multiply_polys(&a.numer, &b.numer)?;
        let denom = self.multiply_polys(&a.denom, &b.denom)?;
        self.quotient(numer, denom)
    }

    fn divide(&mut self, dividend: &Quotient, divisor: &Expr) -> Result<Quotient, Fault> {
        let value = self.evaluate_inside(divisor)?;
        if value.is_zero() {
            return Err(if divisor.is_rational_arithmetic() { Fault::Pole } else { Fault::Beyond });
        }
        if let (Some(a), Some(b)) = (dividend.as_constant(), value.as_constant()) {
            return Ok(constant(a.divide(&b)?));
        }
        let inverse = self.quotient(value.denom, value.numer)?;
        self.multiply(dividend, &inverse)
    }

    /// Brings a quotient into its form: the denominator has several terms or is 1.
    fn quotient(&mut self, numer: Poly, denom: Poly) -> Result<Quotient, Fault> {
        if numer.is_zero() || denom == one() {
            return Ok(numer.into());
        }
        match denom.as_term() {
            Some(term) => Ok(self.multiply_polys(&numer, &invert_term(term)?)?.into()),
            None => Ok(Quotient { numer, denom }),
        }
    }

    fn multiply_polys(&mut self, a: &Poly, b: &Poly) -> Result<Poly, Fault> {
        let mut product = Poly::default();
        for (monomial_a, number_a) in a.terms() {
            for (monomial_b, number_b) in b.terms() {
                self.pay(number_a.cost() + number_b.cost() + (monomial_a.len() + monomial_b.len()) as u64)?;
                let (monomial, factor) = multiply_monomials(monomial_a, monomial_b)?;
                let number = number_a.multiply(number_b)?.multiply(&factor)?;
                self.add_reduced(&mut product, monomial, &number)?;
            }
        }
        Ok(product)
    }

    /// Adds a term, the squares of roots replaced by their radicands, and inverse roots by roots
    /// over radicands where the radicand has a single term.
    fn add_reduced(&mut self, sum: &mut Poly, mut monomial: Monomial, number: &Number) -> Result<(), Fault> {
        let reduction = monomial.iter().enumerate().find_map(|(at, (generator, power))| {
            let radicand = self.radicand(generator)?;
            match (*power, radicand.as_term()) {
                (2.., _) => Some((at, -2, Ok(radicand.clone()))),
                (..0, Some(term)) => Some((at, 2, invert_term(term))),
                _ => None,
            }
        });
        let Some((at, change, replacement)) = reduction else {
            return sum.add_term(monomial, number);
        };
        monomial[at].1 += change;
        if monomial[at].1 == 0 {
            monomial.remove(at);
        }
        let replaced = self.multiply_polys(&Poly::monomial(monomial, number.clone()), &replacement?)?;
        for (monomial, number) in replaced.terms() {
            sum.add_term(monomial.clone(), number)?;
        }
        Ok(())
    }

    fn radicand(&self, generator: &Generator) -> Option<&Poly> {
        match generator {
            Generator::Atom(index) => match self.atoms.get(*index) {
                Some(Atom::Root(radicand)) => Some(radicand),
                _ => None,
            },
            _ => None,
        }
    }

    fn atom(&mut self, atom: Atom) -> Quotient {
        let known = self.atoms.iter().position(|other| *other == atom);
        let index = known.unwrap_or_else(|| {
            self.atoms.push(atom);
            self.atoms.len() - 1
        });
        Poly::generator(Generator::Atom(index)).into()
    }

    fn power(&mut self, base: &Expr, exponent: &Expr) -> Result<Quotient, Fault> {
        let exponent = self.evaluate_inside(exponent)?;
        let value = self.evaluate_inside(base)?;
        match exponent.as_constant() {
            Some(number) if number.is_half() => self.root(&value),
            Some(number) => match number.small_integer() {
                Some(n) => self.integer_power(value, n, base),
                None if number.is_float() && value.is_generator() => {
                    Ok(self.atom(Atom::Power(value, exponent)))
                }
                None => Err(Fault::Beyond),
            },
            None if value.is_zero() || value.has_floats() => Err(Fault::Beyond),
            None => Ok(self.atom(Atom::Power(value, exponent))),
        }
    }

    fn integer_power(&mut self, value: Quotient, exponent: i32, base: &Expr) -> Result<Quotient, Fault> {
        if value.is_zero() && exponent <= 0 {
            return match exponent {
                0 => Ok(one().into()),
                _ if base.is_rational_arithmetic() => Err(Fault::Pole),
                _ => Err(Fault::Beyond),
            };
        }
        if let Some(number) = value.as_constant().filter(|number| !number.is_zero()) {
            return Ok(constant(number.power(exponent)?));
        }
        if exponent.abs() > MAX_POWER {
            return Err(Fault::Beyond);
        }
        let mut factor = if exponent < 0 { self.quotient(value.denom, value.numer)? } else { value };
        let mut power: Quotient = one().into();
        if let Some((monomial, coefficient)) = factor.whole().and_then(Poly::as_term) {
            // The coefficient of a single term is raised at once: a float is rounded once.
            power = constant(coefficient.power(exponent.abs())?);
            factor = Poly::monomial(monomial.clone(), Number::from(1)).into();
        }
        for _ in 0..exponent.unsigned_abs() {
            power = self.multiply(&power, &factor)?;
        }
        Ok(power)
    }

    /// The principal square root. Of a number: surds, `i` and a rational. Of a polynomial: its
    /// content and powers of pi, which are positive, come out; the rest is an atom.
    fn root(&mut self, value: &Quotient) -> Result<Quotient, Fault> {
        let poly = value.whole().ok_or(Fault::Beyond)?;
        if let Some(number) = poly.as_constant() {
            return root_of_number(&number);
        }
        let content = content(poly).ok_or(Fault::Beyond)?;
        let mut root = root_of_number(&Number::Exact(content.clone()))?;
        let pi_power = poly.as_term().and_then(|(monomial, _)| {
            monomial.iter().find(|(generator, _)| *generator == Generator::Pi).map(|&(_, power)| power)
        });
        let mut shrink = Poly::constant(Number::Exact(content.recip()));
        if let Some(power) = pi_power {
            shrink = self.multiply_polys(&shrink, &pi_to(-power))?;
            root = self.multiply(&root, &pi_to(power.div_euclid(2)).into())?;
            if power.rem_euclid(2) == 1 {
                let root_of_pi = self.atom(Atom::Root(pi_to(1)));
                root = self.multiply(&root, &root_of_pi)?;
            }
        }
        let rest = self.multiply_polys(poly, &shrink)?;
        let inside = match rest.as_constant() {
            Some(number) => root_of_number(&number)?,
            None => self.atom(Atom::Root(rest)),
        };
        self.multiply(&root, &inside)
    }
}

fn invert_term((monomial, coefficient): (&Monomial, &Number)) -> Result<Poly, Fault> {
    let (monomial, factor) = invert_monomial(monomial)?;
    Ok(Poly::monomial(monomial, coefficient.inverse()?.multiply(&factor)?))
}

fn pi_to(power: i32) -> Poly {
    let monomial = if power == 0 { Monomial::new() } else { vec![(Generator::Pi, power)] };
    Poly::monomial(monomial, Number::from(1))
}

fn constant(number: Number) -> Quotient {
    Poly::constant(number).into()
}

fn decimal(digits: &BigInt, precision_digits: usize, power: i32) -> Result<Quotient, Fault> {
    let ratio = BigRational::from(digits.clone()) * Pow::pow(BigRational::from(BigInt::from(10)), power);
    Ok(constant(Number::float(&ratio, Float::precision_of_digits(precision_digits))?))
}

fn factorial(value: &Quotient) -> Result<Quotient, Fault> {
    let n = value.as_constant().and_then(|number| number.small_integer());
    let n = n.filter(|n| (0..=MAX_FACTORIAL).contains(n)).ok_or(Fault::Beyond)?;
    Ok(constant(Number::from((1..=n).map(BigInt::from).product::<BigInt>())))
}

/// The positive rational by which a polynomial with exact coefficients must be divided to leave
/// integers without a common factor.
fn content(poly: &Poly) -> Option<BigRational> {
    let mut numer = BigInt::zero();
    let mut denom = BigInt::one();
    for (_, number) in poly.terms() {
        let Number::Exact(ratio) = number else { return None };
        numer = gcd(numer, ratio.numer().clone());
        denom = &denom / gcd(denom.clone(), ratio.denom().clone()) * ratio.denom();
    }
    (!numer.is_zero()).then(|| BigRational::new(numer.abs(), denom))
}

fn gcd(mut a: BigInt, mut b: BigInt) -> BigInt {
    while !b.is_zero() {
        (a, b) = (b.clone(), a % b);
    }
    a.abs()
}

fn root_of_number(number: &Number) -> Result<Quotient, Fault> {
    let (root, monomial) = match number {
        Number::Exact(ratio) => root_of_ratio(ratio)?,
        Number::Float(float) => match float.root() {
            Some(Some(root)) => (Number::Float(root), Monomial::new()),
            _ => return Err(Fault::Beyond),
        },
    };
    let imaginary = number.is_negative().then_some((Generator::I, 1));
    Ok(Poly::monomial(monomial.into_iter().chain(imaginary).collect(), root).into())
}

/// The root of a rational number's magnitude: `sqrt(n/d)` is `sqrt(n d)/d`.
fn root_of_ratio(ratio: &BigRational) -> Result<(Number, Monomial), Fault> {
    let square = (ratio.numer() * ratio.denom()).abs();
    let exact = square.sqrt();
    let (outside, primes) = if &exact * &exact == square {
        (exact, Vec::new())
    } else {
        let radicand = square.to_u64().filter(|&n| n <= MAX_RADICAND).ok_or(Fault::Beyond)?;
        let (outside, primes) = extract_squares(radicand);
        (BigInt::from(outside), primes)
    };
    let number = Number::Exact(BigRational::new(outside, ratio.denom().clone()));
    Ok((number, primes.into_iter().map(|prime| (Generator::Surd(prime), 1)).collect()))
}

/// `n` as `a^2` times distinct primes, ascending.
fn extract_squares(mut n: u64) -> (u64, Vec<u64>) {
    let mut outside = 1;
    let mut primes = Vec::new();
    let mut prime = 2;
    while prime * prime <= n {
        while n.is_multiple_of(prime * prime) {
            n /= prime * prime;
            outside *= prime;
        }
        if n.is_multiple_of(prime) {
            n /= prime;
            primes.push(prime);
        }
        prime += 1;
    }
    if n > 1 {
        primes.push(n);
    }
    (outside, primes)
}
