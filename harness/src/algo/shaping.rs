//! TAS: the factor of each response from its trajectory dependency (paper eq. 5).
//!
//! The reference takes smallest and largest dependency over a mini-batch (per device) and chooses the ceiling
//! per micro-batch so that the mean factor there is 1; paper and appendix speak of "the batch". Both
//! sets are settings ([`Shaping::range_scope`], [`Shaping::ceiling_scope`]).

use super::algorithm::{Ceiling, Scope, Shaping};
use std::ops::Range;

/// A range of dependencies no wider than this tells responses apart by noise only: all factors are 1.
const LEAST_RANGE: f64 = 1e-6;
/// Added by the reference to the mean position before it divides by it.
const MEAN_EPSILON: f64 = 1e-8;

/// How a rollout batch of `responses` is cut: mini-batches from the front, and micro-batches from the front
/// of each; the last of each kind may be shorter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    pub responses: usize,
    pub mini_batch: usize,
    pub micro_batch: usize,
}

impl Cut {
    /// The sets of responses of a scope, in order.
    pub fn parts(self, scope: Scope) -> Vec<Range<usize>> {
        let chunks = |of: Range<usize>, size: usize| {
            let end = of.end;
            of.step_by(size.max(1)).map(move |start| start..end.min(start.saturating_add(size.max(1))))
        };
        let minis = chunks(0..self.responses, self.mini_batch);
        match scope {
            Scope::Batch => std::iter::once(0..self.responses).collect(),
            Scope::MiniBatch => minis.collect(),
            Scope::MicroBatch => minis.flat_map(|mini| chunks(mini, self.micro_batch)).collect(),
        }
    }
}

/// The factor of each response. `dependency_b` is its mean dependency, `None` for a response without tokens,
/// whose factor is 1 and which counts nowhere.
pub(super) fn factors(shaping: &Shaping, dependency_b: &[Option<f64>], cut: Cut) -> Vec<f64> {
    let position_b = positions(dependency_b, cut.parts(shaping.range_scope));
    let mut factor_b = vec![1.0; dependency_b.len()];
    for part in cut.parts(shaping.ceiling_scope) {
        let ceiling = ceiling(shaping, &position_b[part.clone()]);
        for i in part {
            if let Some(x) = position_b[i] {
                factor_b[i] = shaping.floor + x * (ceiling - shaping.floor);
            }
        }
    }
    factor_b
}

/// Where each dependency lies between the smallest (0) and the largest (1) of its part; `None` throughout a part
/// with fewer than two responses or too narrow a range.
fn positions(dependency_b: &[Option<f64>], parts: Vec<Range<usize>>) -> Vec<Option<f64>> {
    let mut position_b = vec![None; dependency_b.len()];
    for part in parts {
        let known = || dependency_b[part.clone()].iter().flatten().copied();
        let (low, high) = (known().fold(f64::INFINITY, f64::min), known().fold(f64::NEG_INFINITY, f64::max));
        if known().count() > 1 && high - low > LEAST_RANGE {
            for i in part {
                position_b[i] = dependency_b[i].map(|s| ((s - low) / (high - low)).clamp(0.0, 1.0));
            }
        }
    }
    position_b
}

fn ceiling(shaping: &Shaping, position_b: &[Option<f64>]) -> f64 {
    match shaping.ceiling {
        Ceiling::Fixed { value } => value,
        Ceiling::Dynamic {} => {
            let known = || position_b.iter().flatten();
            let mean = known().sum::<f64>() / known().count().max(1) as f64;
            shaping.floor + (1.0 - shaping.floor) / (mean + MEAN_EPSILON)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::algo::ShapingTarget;

    const CUT: Cut = Cut { responses: 7, mini_batch: 5, micro_batch: 2 };

    fn shaping(ceiling: Ceiling, range_scope: Scope, ceiling_scope: Scope) -> Shaping {
        Shaping { floor: 0.9, ceiling, applies_to: ShapingTarget::Advantage, range_scope, ceiling_scope }
    }

    #[test]
    fn micro_batches_start_anew_in_each_mini_batch() {
        assert_eq!(CUT.parts(Scope::Batch), vec![0..7; 1]);
        assert_eq!(CUT.parts(Scope::MiniBatch), [0..5, 5..7]);
        assert_eq!(CUT.parts(Scope::MicroBatch), [0..2, 2..4, 4..5, 5..7]);
        assert!(Cut { responses: 0, ..CUT }.parts(Scope::MicroBatch).is_empty());
    }

    #[test]
    fn a_fixed_ceiling_maps_the_range_linearly() {
        let shaping = shaping(Ceiling::Fixed { value: 1.1 }, Scope::Batch, Scope::Batch);
        let dependency = [Some(0.0), Some(0.5), Some(1.0), None, Some(0.25), Some(0.0), Some(0.0)];
        let expected = [0.9, 1.0, 1.1, 1.0, 0.95, 0.9, 0.9];
        for (got, want) in factors(&shaping, &dependency, CUT).iter().zip(expected) {
            assert!((got - want).abs() < 1e-12, "{got} {want}");
        }
    }

    #[test]
    fn a_dynamic_ceiling_makes_the_mean_factor_one_in_each_part() {
        let dependency = [0.1, 0.3, 0.2, 0.5, 0.15, 0.9, 0.2].map(Some);
        for scope in [Scope::MicroBatch, Scope::MiniBatch, Scope::Batch] {
            let factor_b = factors(&shaping(Ceiling::Dynamic {}, Scope::Batch, scope), &dependency, CUT);
            for part in CUT.parts(scope).into_iter().filter(|part| part.start > 0 || part.len() > 1) {
                let mean = factor_b[part.clone()].iter().sum::<f64>() / part.len() as f64;
                assert!((mean - 1.0).abs() < 1e-6, "{scope:?} {part:?} {mean}");
            }
        }
    }

    #[test]
    fn without_a_range_all_factors_are_one() {
        let shaping = shaping(Ceiling::Dynamic {}, Scope::MicroBatch, Scope::MicroBatch);
        let dependency = [Some(0.3), Some(0.3), None, None, Some(0.2), Some(0.4), Some(0.4 + 1e-7)];
        assert_eq!(factors(&shaping, &dependency, CUT), [1.0; 7]);
    }
}
