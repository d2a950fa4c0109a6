//! Polynomials with numbers as coefficients and generators with integer powers, negative ones too.

use super::exact::{Fault, MAX_TERMS};
use super::number::Number;
use num_bigint::BigInt;
use num_rational::BigRational;
use std::collections::BTreeMap;

/// Largest power of a generator, in magnitude.
const MAX_POWER: i32 = 2000;

/// Something that polynomials are made of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Generator {
    /// The square root of a prime.
    Surd(u64),
    /// The square root of -1.
    I,
    /// The circle constant.
    Pi,
    /// A free variable.
    Symbol(String),
    /// A root or power that does not resolve, by its place in the field's list.
    Atom(usize),
}

/// Powers of generators, ordered, none of them 0.
pub type Monomial = Vec<(Generator, i32)>;

/// A sum of monomials with nonzero coefficients.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Poly {
    terms: BTreeMap<Monomial, Number>,
}

impl Poly {
    /// A constant.
    pub fn constant(number: Number) -> Self {
        Self::monomial(Vec::new(), number)
    }

    /// One generator.
    pub fn generator(generator: Generator) -> Self {
        Self::monomial(vec![(generator, 1)], Number::from(1))
    }

    /// One term.
    pub fn monomial(monomial: Monomial, coefficient: Number) -> Self {
        let mut poly = Self::default();
        if !coefficient.is_zero() {
            poly.terms.insert(monomial, coefficient);
        }
        poly
    }

    /// Whether nothing is left.
    pub fn is_zero(&self) -> bool {
        self.terms.is_empty()
    }

    /// The terms in a fixed order.
    pub fn terms(&self) -> impl Iterator<Item = (&Monomial, &Number)> {
        self.terms.iter()
    }

    /// The number of terms.
    pub fn len(&self) -> usize {
        self.terms.len()
    }

    /// The value, if the polynomial is a constant.
    pub fn as_constant(&self) -> Option<Number> {
        match self.terms.iter().next() {
            None => Some(Number::from(0)),
            Some((monomial, number)) if self.len() == 1 && monomial.is_empty() => Some(number.clone()),
            Some(_) => None,
        }
    }

    /// The only term, if there is exactly one.
    pub fn as_term(&self) -> Option<(&Monomial, &Number)> {
        self.terms.iter().next().filter(|_| self.len() == 1)
    }

    /// Whether a coefficient is a float.
    pub fn has_floats(&self) -> bool {
        self.terms.values().any(Number::is_float)
    }

    /// The atoms that occur, by their places in the field's list.
    pub fn atoms(&self) -> impl Iterator<Item = usize> {
        self.terms.keys().flatten().filter_map(|(generator, _)| match generator {
            Generator::Atom(index) => Some(*index),
            _ => None,
        })
    }

    /// The opposite.
    pub fn negate(&self) -> Self {
        Self {
            terms: self.terms.iter().map(|(monomial, number)| (monomial.clone(), number.negate())).collect(),
        }
    }

    /// Adds one term.
    pub fn add_term(&mut self, monomial: Monomial, coefficient: &Number) -> Result<(), Fault> {
        let sum = match self.terms.get(&monomial) {
            Some(number) => number.add(coefficient)?,
            None => coefficient.clone(),
        };
        if sum.is_zero() {
            self.terms.remove(&monomial);
        } else {
            self.terms.insert(monomial, sum);
        }
        if self.len() > MAX_TERMS { Err(Fault::Beyond) } else { Ok(()) }
    }

    /// The sum.
    pub fn add(&self, other: &Self) -> Result<Self, Fault> {
        let mut sum = self.clone();
        for (monomial, number) in &other.terms {
            sum.add_term(monomial.clone(), number)?;
        }
        Ok(sum)
    }
}

/// The product of two monomials, powers of surds and of `i` reduced; the factor is what came out.
pub fn multiply_monomials(a: &Monomial, b: &Monomial) -> Result<(Monomial, Number), Fault> {
    let mut powers: BTreeMap<&Generator, i32> = BTreeMap::new();
    for (generator, power) in a.iter().chain(b) {
        *powers.entry(generator).or_default() += power;
    }
    let mut product = Monomial::new();
    let mut factor = Number::from(1);
    for (generator, power) in powers {
        if power.abs() > MAX_POWER {
            return Err(Fault::Beyond);
        }
        let (power, out) = reduce_power(generator, power)?;
        factor = factor.multiply(&out)?;
        if power != 0 {
            product.push((generator.clone(), power));
        }
    }
    Ok((product, factor))
}

/// The inverse of a monomial, reduced.
pub fn invert_monomial(monomial: &Monomial) -> Result<(Monomial, Number), Fault> {
    let inverse = monomial.iter().map(|(generator, power)| (generator.clone(), -power)).collect();
    multiply_monomials(&inverse, &Monomial::new())
}

/// `sqrt(p)^3` is `p sqrt(p)`, `i^3` is `-i`: the power that stays and the number that comes out.
fn reduce_power(generator: &Generator, power: i32) -> Result<(i32, Number), Fault> {
    match generator {
        Generator::Surd(prime) => {
            let prime = Number::Exact(BigRational::from(BigInt::from(*prime)));
            Ok((power.rem_euclid(2), prime.power(power.div_euclid(2))?))
        }
        Generator::I => {
            let sign = if power.rem_euclid(4) < 2 { 1 } else { -1 };
            Ok((power.rem_euclid(2), Number::from(sign)))
        }
        _ => Ok((power, Number::from(1))),
    }
}
