//! Log-probabilities over the vocabulary as kernels: the counterpart of `head.rs`. Logits are f32 and exist for one chunk of
//! rows at a time.

use super::gemm::{Factor, product};
use super::ops::{compare_rows, logits, sample_rows, score_rows, score_rows_backward};
use crate::model::head::{TokenScores, check_finite, log_softmax};
use crate::model::ops::{Head, values};
use crate::model::params::{Grads, Id};
use crate::settings::Sampling;
use anyhow::Result;
use candle_core::Tensor;
use rayon::prelude::*;
use std::ops::Range;

/// The rows of `hidden` in runs of which the logits exist at a time.
fn chunks(hidden: &Tensor, head: Head<'_>) -> Result<impl Iterator<Item = Range<usize>>> {
    let (rows, size) = (hidden.dim(0)?, head.rows);
    Ok((0..rows).step_by(size).map(move |start| start..(start + size).min(rows)))
}

fn part(x: &Tensor, rows: &Range<usize>) -> Result<Tensor> {
    Ok(x.narrow(0, rows.start, rows.len())?)
}

/// See [`head::score`](crate::model::head::score).
pub(crate) fn score(hidden: &Tensor, head: Head<'_>, targets: &[u32]) -> Result<TokenScores> {
    let mut scores = TokenScores::default();
    for rows in chunks(hidden, head)? {
        let logits = logits(&part(hidden, &rows)?, head.weight)?;
        let (logp, entropy) = score_rows(&logits, &targets[rows], hidden.dtype())?;
        scores.logp.extend(values(&logp)?);
        scores.entropy.extend(values(&entropy)?);
    }
    check_finite(&scores.entropy)?;
    Ok(scores)
}

/// Backward of [`score`]: adds the gradient of the head `id` and returns that of hidden.
pub(crate) fn score_backward(
    hidden: &Tensor,
    (id, head): (Id, Head<'_>),
    targets: &[u32],
    dlogp: &[f32],
    grads: &mut Grads,
) -> Result<Tensor> {
    let w = head.weight;
    let mut parts = vec![];
    for rows in chunks(hidden, head)? {
        let h = part(hidden, &rows)?;
        let dlogits = score_rows_backward(&logits(&h, w)?, &targets[rows.clone()], &dlogp[rows], h.dtype())?;
        grads.add_product(id, &dlogits, &h)?;
        parts.push(product(Factor::Plain(&dlogits), Factor::Plain(w), h.dtype())?);
    }
    Ok(if parts.is_empty() { hidden.clone() } else { Tensor::cat(&parts, 0)? })
}

/// See [`sampler::draw`](crate::model::sampler::draw): the same uniforms give the same tokens, up to the rounding of
/// logits.
pub(crate) fn draw(
    hidden: &Tensor,
    head: Head<'_>,
    uniforms: &[f64],
    sampling: &Sampling,
    forbidden: &[u32],
) -> Result<Vec<(u32, f32, f32)>> {
    let mut drawn = Vec::with_capacity(uniforms.len());
    for rows in chunks(hidden, head)? {
        let logits = logits(&part(hidden, &rows)?, head.weight)?;
        let (tokens, logp, entropy) =
            sample_rows(&logits, &uniforms[rows], sampling, forbidden, hidden.dtype())?;
        check_finite(&entropy)?;
        drawn.extend(tokens.into_iter().zip(logp).zip(entropy).map(|((token, logp), h)| (token, logp, h)));
    }
    Ok(drawn)
}

/// Copies rows of log-probabilities to the processor, chunk by chunk: `f` gets the rows' indices and, for each of the
/// `hidden`, the rows (chunk, V).
pub(crate) fn for_rows(
    hidden: &[&Tensor],
    head: Head<'_>,
    mut f: impl FnMut(Range<usize>, &mut [Vec<f32>]),
) -> Result<()> {
    let w = head.weight;
    for rows in chunks(hidden[0], head)? {
        let mut copies = hidden
            .iter()
            .map(|hidden| {
                let mut copy = values(&logits(&part(hidden, &rows)?, w)?)?;
                copy.par_chunks_mut(w.dim(0)?).for_each(log_softmax);
                Ok(copy)
            })
            .collect::<Result<Vec<_>>>()?;
        f(rows, &mut copies);
    }
    Ok(())
}

/// See [`Model::divergences`](crate::model::Model::divergences): log-probability under the second, KL, Jensen-Shannon.
pub(crate) fn divergences(
    clean: &Tensor,
    corrupted: &Tensor,
    head: Head<'_>,
    targets: &[u32],
) -> Result<Vec<[f32; 3]>> {
    let w = head.weight;
    let mut found = Vec::with_capacity(targets.len());
    for rows in chunks(clean, head)? {
        let (p, q) = (logits(&part(clean, &rows)?, w)?, logits(&part(corrupted, &rows)?, w)?);
        let [logq, kl, js] = compare_rows(&p, &q, &targets[rows], clean.dtype())?;
        check_finite(&kl)?;
        found.extend(logq.into_iter().zip(kl).zip(js).map(|((logq, kl), js)| [logq, kl, js]));
    }
    Ok(found)
}
