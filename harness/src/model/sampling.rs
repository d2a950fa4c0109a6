//! Sampling of tokens on the processor; a card has its own kernel.

use super::head::{entropy, map_rows};
use super::kernels::exp;
use crate::settings::Sampling;
use anyhow::Result;
use candle_core::Tensor;

/// Draws one token per row of normed hidden states (B, D) under the head (V, D), by one uniform each: (token,
/// log-probability, entropy).
pub(crate) fn draw(
    hidden: &Tensor,
    head: &Tensor,
    uniforms: &[f64],
    sampling: &Sampling,
    forbidden: &[u32],
) -> Result<Vec<(u32, f32, f32)>> {
    map_rows(hidden, head, |i, logp| {
        let token = sample(logp, uniforms[i], sampling, forbidden);
        (token, logp[token as usize], entropy(logp))
    })
}

/// Draws a token by inverse transform over the kept tokens in the order of ids: temperature, then top-k, then top-p,
/// as vLLM orders them. `logp` are full-softmax log-probabilities at temperature 1; `uniform` is in [0, 1).
fn sample(logp: &[f32], uniform: f64, sampling: &Sampling, forbidden: &[u32]) -> u32 {
    let allowed = |id: &usize| !forbidden.contains(&(*id as u32));
    let best =
        || (0..logp.len()).filter(allowed).max_by(|&a, &b| logp[a].total_cmp(&logp[b]).then(b.cmp(&a)));
    let Some(best) = best() else { return 0 };
    if sampling.temperature == 0.0 {
        return best as u32;
    }
    let inverse = 1.0 / sampling.temperature;
    let weights: Vec<f64> =
        logp.iter().map(|&l| f64::from(exp(((l - logp[best]) as f64 * inverse) as f32))).collect();
    let mut kept: Vec<usize> = (0..logp.len()).filter(allowed).collect();
    let order = |a: &usize, b: &usize| weights[*b].total_cmp(&weights[*a]).then(a.cmp(b));
    if sampling.top_k > 0 && sampling.top_k < kept.len() {
        kept.select_nth_unstable_by(sampling.top_k, order);
        kept.truncate(sampling.top_k);
    }
    if sampling.top_p < 1.0 {
        let total: f64 = sum_in_order(&mut kept, &weights);
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
    let total = sum_in_order(&mut kept, &weights);
    let mut left = uniform * total;
    for &id in &kept {
        left -= weights[id];
        if left < 0.0 {
            return id as u32;
        }
    }
    kept.last().map_or(best, |&id| id) as u32
}

fn sum_in_order(kept: &mut [usize], weights: &[f64]) -> f64 {
    kept.sort_unstable();
    kept.iter().map(|&id| weights[id]).sum()
}
