//! Log-probabilities over the vocabulary, row by row in chunks: the logits of a whole batch never exist.

use super::attention::lane_sum;
use super::kernels::{exp, matmul_rows, tensor, view};
use anyhow::Result;
use candle_core::Tensor;
use rayon::prelude::*;

/// Rows whose logits exist at a time.
const CHUNK: usize = 1024;

/// Log-probabilities of a row of logits, in place; returns nothing else, so that samplers and scorers share it.
pub(crate) fn log_softmax(logits: &mut [f32]) {
    let max = logits.iter().fold(f32::MIN, |m, &x| m.max(x));
    let exps: Vec<f32> = logits.iter().map(|&x| exp(x - max)).collect();
    let shift = max + libm::logf(lane_sum(&exps));
    logits.iter_mut().for_each(|x| *x -= shift);
}

/// Entropy in nats of a row of log-probabilities (V), summed in a fixed order.
pub fn entropy(logp: &[f32]) -> f32 {
    let terms: Vec<f32> = logp.iter().map(|&l| -l * exp(l)).collect();
    lane_sum(&terms)
}

/// What one pass over the vocabulary gives per row.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenScores {
    /// Log-probability of the target.
    pub logp: Vec<f32>,
    /// Entropy of the distribution.
    pub entropy: Vec<f32>,
}

/// Visits the log-probability rows of hidden (M, D) under the head w (V, D), in order, in parallel within a chunk.
/// `f` maps (row index, log-probabilities) to a value.
pub(crate) fn map_rows<T: Send>(
    hidden: &Tensor,
    w: &Tensor,
    f: impl Fn(usize, &mut [f32]) -> T + Sync,
) -> Result<Vec<T>> {
    let (rows, vocab) = (hidden.dim(0)?, w.dim(0)?);
    let mut out = Vec::with_capacity(rows);
    for start in (0..rows).step_by(CHUNK) {
        let len = CHUNK.min(rows - start);
        let logits = matmul_rows(&hidden.narrow(0, start, len)?.contiguous()?, w)?;
        out.extend(map_logits(start, &view(&logits)?, vocab, &f));
    }
    Ok(out)
}

/// Maps rows of logits, of which the first has the index `start`.
pub(crate) fn map_logits<T: Send>(
    start: usize,
    logits: &[f32],
    vocab: usize,
    f: impl Fn(usize, &mut [f32]) -> T + Sync,
) -> Vec<T> {
    let rows = logits.par_chunks(vocab).enumerate();
    rows.map(|(i, logits)| {
        let mut row = logits.to_vec();
        log_softmax(&mut row);
        f(start + i, &mut row)
    })
    .collect()
}

/// Visits the log-probability rows of two hidden (M, D) under one head w (V, D) side by side, in order, in parallel
/// within a chunk. Both sides go through the same arithmetic: equal hidden states give equal rows, bit for bit.
pub(crate) fn map_row_pairs<T: Send>(
    left: &Tensor,
    right: &Tensor,
    w: &Tensor,
    f: impl Fn(usize, &[f32], &[f32]) -> T + Sync,
) -> Result<Vec<T>> {
    let (rows, vocab) = (left.dim(0)?, w.dim(0)?);
    let mut out = Vec::with_capacity(rows);
    for start in (0..rows).step_by(CHUNK / 2) {
        let len = (CHUNK / 2).min(rows - start);
        let logits = |hidden: &Tensor| matmul_rows(&hidden.narrow(0, start, len)?.contiguous()?, w);
        let (left, right) = (logits(left)?, logits(right)?);
        out.extend(map_logit_pairs(start, &view(&left)?, &view(&right)?, vocab, &f));
    }
    Ok(out)
}

/// Maps pairs of rows of logits, of which the first has the index `start`.
pub(crate) fn map_logit_pairs<T: Send>(
    start: usize,
    left: &[f32],
    right: &[f32],
    vocab: usize,
    f: impl Fn(usize, &[f32], &[f32]) -> T + Sync,
) -> Vec<T> {
    let log_probabilities = |logits: &[f32]| {
        let mut row = logits.to_vec();
        log_softmax(&mut row);
        row
    };
    let pairs = left.par_chunks(vocab).zip(right.par_chunks(vocab)).enumerate();
    pairs.map(|(i, (l, r))| f(start + i, &log_probabilities(l), &log_probabilities(r))).collect()
}

/// Log-probability of each row's target and the entropy: hidden (M, D), w (V, D), targets (M).
pub(crate) fn score(hidden: &Tensor, w: &Tensor, targets: &[u32]) -> Result<TokenScores> {
    let rows = map_rows(hidden, w, |i, logp| (logp[targets[i] as usize], entropy(logp)))?;
    let (logp, entropy) = rows.into_iter().unzip();
    Ok(TokenScores { logp, entropy })
}

/// Backward of the targets' log-probabilities: dlogp (M) -> gradients of hidden (M, D) and of w (V, D).
pub(crate) fn score_backward(
    hidden: &Tensor,
    w: &Tensor,
    targets: &[u32],
    dlogp: &[f32],
) -> Result<(Tensor, Tensor)> {
    let (rows, d) = hidden.dims2()?;
    let vocab = w.dim(0)?;
    let wt = w.t()?;
    let (mut dhidden, mut dw) = (vec![], None::<Tensor>);
    for start in (0..rows).step_by(CHUNK) {
        let len = CHUNK.min(rows - start);
        let h = hidden.narrow(0, start, len)?.contiguous()?;
        let logits = h.matmul(&wt)?;
        let mut dlogits = vec![0f32; len * vocab];
        dlogits.par_chunks_mut(vocab).zip(view(&logits)?.par_chunks(vocab)).enumerate().for_each(
            |(i, (out, row))| {
                let (g, target) = (dlogp[start + i], targets[start + i] as usize);
                let max = row.iter().fold(f32::MIN, |m, &x| m.max(x));
                out.iter_mut().zip(row).for_each(|(o, &x)| *o = exp(x - max));
                let c = -g / lane_sum(out);
                out.iter_mut().for_each(|o| *o *= c);
                out[target] += g;
            },
        );
        let dlogits = tensor(dlogits, &[len, vocab])?;
        dhidden.push(dlogits.matmul(w)?);
        let part = dlogits.t()?.matmul(&h)?;
        match &dw {
            Some(sum) => super::kernels::add_assign(sum, &part)?,
            None => dw = Some(part),
        }
    }
    let dw = match dw {
        Some(dw) => dw,
        None => tensor(vec![0f32; vocab * d], &[vocab, d])?,
    };
    let dhidden = if dhidden.is_empty() { hidden.clone() } else { Tensor::cat(&dhidden, 0)? };
    Ok((dhidden, dw))
}
