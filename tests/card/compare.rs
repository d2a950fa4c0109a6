//! How far the card's numbers are from the processor's. Every measure is printed beside its bound.

use crate::model::{distance, flat, norm};
use harness::model::{Grads, Model, Scores};

/// Fails where a measure is above its bound.
#[track_caller]
pub(super) fn at_most(bound: f64, what: &str, measured: f64) {
    println!("{what}: {measured:.1e} (at most {bound:.1e})");
    assert!(measured <= bound, "{what}: {measured:e}, more than {bound:e}");
}

/// Fails where a measure is below its bound.
#[track_caller]
pub(super) fn at_least(bound: f64, what: &str, measured: f64) {
    println!("{what}: {measured:.5} (at least {bound})");
    assert!(measured >= bound, "{what}: {measured}, less than {bound}");
}

fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |a, b| if b.is_nan() { f64::INFINITY } else { a.max(b) })
}

/// Largest difference of two lists of lists.
pub(super) fn difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    let lengths = |x: &[Vec<f32>]| x.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(lengths(a), lengths(b));
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    largest(pairs.map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs()))
}

/// Largest difference of a log-probability or an entropy.
pub(super) fn score_difference(want: &Scores, got: &Scores) -> f64 {
    difference(&want.logp, &got.logp).max(difference(&want.entropy, &got.entropy))
}

/// Gradients with the names of their parameters.
pub(super) struct Named {
    names: Vec<String>,
    values: Vec<Vec<f32>>,
}

impl Named {
    pub fn new(model: &Model, grads: &Grads) -> Self {
        let names = model.params().iter().map(|(name, _)| name.to_owned()).collect();
        Self { names, values: flat(grads, model) }
    }

    pub fn values(&self) -> &[Vec<f32>] {
        &self.values
    }

    fn worst(&self, got: &Self, measure: impl Fn(&[f32], &[f32]) -> f64) -> (f64, &str) {
        let of = |i: usize| (measure(&self.values[i], &got.values[i]), self.names[i].as_str());
        let all = (0..self.names.len()).map(of);
        all.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
    }

    /// Fails where a tensor is farther from these than `bound` times its length.
    #[track_caller]
    pub fn close(&self, got: &Self, bound: f64, what: &str) {
        let (relative, name) = self.worst(got, |a, b| distance(a, b) / norm(a).max(1e-6));
        at_most(bound, &format!("{what}: relative distance of a gradient ({name})"), relative);
    }

    /// Fails where a tensor points elsewhere than these, or has another length.
    #[track_caller]
    pub fn aligned(&self, got: &Self, cosine: f64, length: f64, what: &str) {
        let (opposite, name) = self.worst(got, |a, b| -dot(a, b) / norm(a) / norm(b));
        at_least(cosine, &format!("{what}: cosine of a gradient ({name})"), -opposite);
        let (change, name) = self.worst(got, |a, b| (norm(b) / norm(a) - 1.0).abs());
        at_most(length, &format!("{what}: change of a gradient's length ({name})"), change);
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}
