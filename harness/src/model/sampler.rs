//! One token from a row of logits.

use super::attention::lane_max;
use super::head::{Normaliser, check_finite, map_logits};
use super::kernels::exp;
use crate::settings::Sampling;
use anyhow::Result;
use candle_core::Tensor;

/// Draws one token per row of normed hidden states (B, D) under the head (V, D), by one uniform each: (token,
/// log-probability, entropy).
///
/// # Errors
/// If logits are not finite.
pub(crate) fn draw(
    hidden: &Tensor,
    head: &Tensor,
    uniforms: &[f64],
    sampling: &Sampling,
    forbidden: &[u32],
) -> Result<Vec<(u32, f32, f32)>> {
    let drawn = map_logits(hidden, head, |i, logits| {
        let normaliser = Normaliser::of(logits);
        let token = sample(logits, uniforms[i], sampling, forbidden);
        (token, logits[token as usize] - normaliser.log, normaliser.entropy)
    })?;
    drawn.iter().try_for_each(|&(_, _, entropy)| check_finite(&[entropy]))?;
    Ok(drawn)
}

/// Draws a token by inverse transform over the kept tokens in the order of ids: temperature, then top-k, then top-p,
/// as vLLM orders them. `logits` may be shifted by any constant (log-probabilities); `uniform` is in [0, 1).
fn sample(logits: &[f32], uniform: f64, sampling: &Sampling, forbidden: &[u32]) -> u32 {
    let allowed = |id: usize| !forbidden.contains(&(id as u32));
    let Some(best) = best(logits, allowed) else { return 0 };
    if sampling.temperature == 0.0 {
        return best as u32;
    }
    let weights = weights(logits, logits[best], sampling.temperature, forbidden);
    if sampling.top_k == 0 && sampling.top_p >= 1.0 {
        return pick(0..logits.len(), &weights, uniform).unwrap_or(best) as u32;
    }
    let kept: Vec<usize> = (0..logits.len()).filter(|&id| allowed(id)).collect();
    let mut kept = nucleus(kept, &weights, sampling);
    kept.sort_unstable();
    pick(kept.iter().copied(), &weights, uniform).unwrap_or(best) as u32
}

/// The first of the largest allowed logits.
fn best(logits: &[f32], allowed: impl Fn(usize) -> bool) -> Option<usize> {
    let max = lane_max(logits);
    let first = logits.iter().position(|&x| x == max).filter(|&id| allowed(id));
    let order = |&a: &usize, &b: &usize| logits[a].total_cmp(&logits[b]).then(b.cmp(&a));
    first.or_else(|| (0..logits.len()).filter(|&id| allowed(id)).max_by(order))
}

/// Unnormalised probabilities at a temperature; those of forbidden tokens are zero.
fn weights(logits: &[f32], best: f32, temperature: f64, forbidden: &[u32]) -> Vec<f64> {
    let inverse = 1.0 / temperature;
    let weight = |&l: &f32| f64::from(exp((f64::from(l - best) * inverse) as f32));
    let mut weights: Vec<f64> = logits.iter().map(weight).collect();
    for &id in forbidden {
        if let Some(weight) = weights.get_mut(id as usize) {
            *weight = 0.0;
        }
    }
    weights
}

/// The tokens that top-k and top-p keep of `kept`, which is in the order of ids.
fn nucleus(mut kept: Vec<usize>, weights: &[f64], sampling: &Sampling) -> Vec<usize> {
    let order = |a: &usize, b: &usize| weights[*b].total_cmp(&weights[*a]).then(a.cmp(b));
    if sampling.top_k > 0 && sampling.top_k < kept.len() {
        kept.select_nth_unstable_by(sampling.top_k, order);
        kept.truncate(sampling.top_k);
        kept.sort_unstable();
    }
    if sampling.top_p < 1.0 {
        let total: f64 = kept.iter().map(|&id| weights[id]).sum();
        // Everything below this bound adds up to less than the mass that may be dropped.
        let bound = (1.0 - sampling.top_p) * total / kept.len() as f64;
        kept.retain(|&id| weights[id] >= bound);
        kept.sort_unstable_by(order);
        let mut mass = 0.0;
        let nucleus = kept.iter().take_while(|&&id| {
            let before = mass;
            mass += weights[id];
            before < sampling.top_p * total
        });
        let count = nucleus.count().max(1);
        kept.truncate(count);
    }
    kept
}

/// The token of `kept`, in the order of ids, at which the share `uniform` of their weights is passed.
fn pick(kept: impl Iterator<Item = usize> + Clone, weights: &[f64], uniform: f64) -> Option<usize> {
    let total: f64 = kept.clone().map(|id| weights[id]).sum();
    let mut left = uniform * total;
    let mut last = None;
    for id in kept.filter(|&id| weights[id] > 0.0) {
        left -= weights[id];
        if left < 0.0 {
            return Some(id);
        }
        last = Some(id);
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 6] = [0.0, 2.0, -1.0, 2.0, 1.0, 30.0];
    /// The largest logit is of a token that may never be drawn.
    const FORBIDDEN: [u32; 1] = [5];

    fn settings(temperature: f64, top_p: f64, top_k: usize) -> Sampling {
        Sampling { temperature, top_p, top_k, max_new_tokens: 1 }
    }

    /// Shares of the ids over evenly spaced uniforms.
    fn shares(sampling: &Sampling) -> Vec<f64> {
        const DRAWS: usize = 20_000;
        let mut counts = vec![0f64; LOGITS.len()];
        for i in 0..DRAWS {
            counts[sample(&LOGITS, i as f64 / DRAWS as f64, sampling, &FORBIDDEN) as usize] += 1.0;
        }
        counts.iter().map(|n| n / DRAWS as f64).collect()
    }

    /// What the kept ids should have at a temperature.
    fn expected(kept: &[usize], temperature: f64) -> Vec<f64> {
        let weight = |id: usize| libm::exp(f64::from(LOGITS[id] - 2.0) / temperature);
        let total: f64 = kept.iter().map(|&id| weight(id)).sum();
        (0..LOGITS.len()).map(|id| if kept.contains(&id) { weight(id) / total } else { 0.0 }).collect()
    }

    #[test]
    fn shares_are_those_of_the_kept_tokens() {
        for (sampling, kept, temperature) in [
            (settings(1.0, 1.0, 0), &[0, 1, 2, 3, 4][..], 1.0),
            (settings(0.5, 1.0, 0), &[0, 1, 2, 3, 4], 0.5),
            (settings(1.0, 1.0, 3), &[1, 3, 4], 1.0),
            (settings(1.0, 1.0, 1), &[1], 1.0),
            (settings(1.0, 0.7, 0), &[1, 3], 1.0),
            (settings(1.0, 0.9, 3), &[1, 3, 4], 1.0),
            (settings(1.0, 0.01, 0), &[1], 1.0),
            (settings(0.0, 1.0, 0), &[1], 1.0),
        ] {
            for (got, want) in shares(&sampling).iter().zip(expected(kept, temperature)) {
                assert!((got - want).abs() < 2e-4, "{sampling:?}: {got} {want}");
            }
        }
    }

    #[test]
    fn logits_that_are_not_finite_are_an_error() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let tensor =
                |values, rows| Tensor::from_vec(values, (rows, 1), &candle_core::Device::Cpu).unwrap();
            let (hidden, head) = (tensor(vec![1.0f32], 1), tensor(vec![0.5, value, 0.1, 0.2], 4));
            for sampling in [settings(1.0, 1.0, 0), settings(0.0, 1.0, 0), settings(1.0, 0.9, 2)] {
                let error = draw(&hidden, &head, &[0.5], &sampling, &[]).unwrap_err().to_string();
                assert!(error.contains("not finite"), "{error}");
            }
        }
    }

    #[test]
    fn where_everything_is_forbidden_the_first_token_is_drawn() {
        assert_eq!(sample(&[1.0, 2.0], 0.5, &settings(1.0, 1.0, 0), &[0, 1]), 0);
    }
}
