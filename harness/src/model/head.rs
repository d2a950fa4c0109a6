//! Log-probabilities over the vocabulary, row by row in chunks: the logits of a whole batch never exist.

use super::attention::{lane_max, lane_sum};
use super::kernels::{exp, fill_zipped, tensor, view};
use super::matmul::{Strips, transposed_product};
use anyhow::{Result, ensure};
use candle_core::Tensor;
use rayon::prelude::*;

/// Rows whose logits one task holds.
const ROWS: usize = 48;
/// Rows whose logits' gradients exist at a time.
const CHUNK: usize = 1024;

/// Log-probabilities of a row of logits, in place.
pub(crate) fn log_softmax(logits: &mut [f32]) {
    let shift = Normaliser::of(logits).log;
    logits.iter_mut().for_each(|x| *x -= shift);
}

/// What turns logits into log-probabilities, and the entropy of the distribution: one pass, fixed order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Normaliser {
    /// Log of the sum of exponentials: `log-probability = logit - log`.
    pub log: f32,
    /// Entropy in nats.
    pub entropy: f32,
}

impl Normaliser {
    /// Of a row of logits.
    pub fn of(logits: &[f32]) -> Self {
        let max = lane_max(logits);
        let (chunks, tail) = logits.as_chunks::<8>();
        let (mut sums, mut weighted) = ([0f32; 8], [0f32; 8]);
        for chunk in chunks {
            for lane in 0..8 {
                let x = chunk[lane] - max;
                let e = exp(x);
                sums[lane] += e;
                weighted[lane] = e.mul_add(x, weighted[lane]);
            }
        }
        let (mut sum, mut mean) = (lane_sum(&sums), lane_sum(&weighted));
        for x in tail {
            let e = exp(x - max);
            sum += e;
            mean = e.mul_add(x - max, mean);
        }
        let log = libm::logf(sum);
        Self { log: max + log, entropy: log - mean / sum }
    }
}

/// Refuses rows of logits that are not finite, told by their entropies (or divergences), which then are not finite either.
///
/// # Errors
/// If a value is not finite.
pub(crate) fn check_finite(of_rows: &[f32]) -> Result<()> {
    ensure!(
        of_rows.iter().all(|x| x.is_finite()),
        "the model's logits are not finite: the run has diverged (lower the learning rate), or the weights are damaged"
    );
    Ok(())
}

/// Entropy in nats of a row of log-probabilities (V), summed in a fixed order.
pub fn entropy(logp: &[f32]) -> f32 {
    let (chunks, tail) = logp.as_chunks::<8>();
    let mut lanes = [0f32; 8];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, &l)| *lane -= l * exp(l));
    }
    lane_sum(&lanes) - tail.iter().map(|&l| l * exp(l)).sum::<f32>()
}

/// What one pass over the vocabulary gives per row.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenScores {
    /// Log-probability of the target.
    pub logp: Vec<f32>,
    /// Entropy of the distribution.
    pub entropy: Vec<f32>,
}

/// Visits the rows of logits of hidden (M, D) under the head w (V, D), in parallel; results are in order.
/// `f` maps (row index, logits) to a value.
pub(crate) fn map_logits<T: Send>(
    hidden: &Tensor,
    w: &Tensor,
    f: impl Fn(usize, &mut [f32]) -> T + Sync,
) -> Result<Vec<T>> {
    let (vocab, d) = w.dims2()?;
    let strips = Strips::of_transposed(&view(w)?, d);
    let parts: Vec<Vec<T>> = view(hidden)?
        .par_chunks(d * ROWS)
        .enumerate()
        .map(|(part, hidden)| {
            let mut logits = vec![0f32; hidden.len() / d * vocab];
            strips.multiply(hidden, &mut logits);
            logits.chunks_exact_mut(vocab).enumerate().map(|(i, row)| f(part * ROWS + i, row)).collect()
        })
        .collect();
    Ok(parts.into_iter().flatten().collect())
}

/// As [`map_logits`], for rows of log-probabilities.
pub(crate) fn map_rows<T: Send>(
    hidden: &Tensor,
    w: &Tensor,
    f: impl Fn(usize, &mut [f32]) -> T + Sync,
) -> Result<Vec<T>> {
    map_logits(hidden, w, |i, row| {
        log_softmax(row);
        f(i, row)
    })
}

/// Visits the log-probability rows of two hidden (M, D) under one head w (V, D) side by side, in parallel; results are
/// in order. Both sides go through the same arithmetic: equal hidden states give equal rows, bit for bit.
pub(crate) fn map_row_pairs<T: Send>(
    left: &Tensor,
    right: &Tensor,
    w: &Tensor,
    f: impl Fn(usize, &[f32], &[f32]) -> T + Sync,
) -> Result<Vec<T>> {
    let (vocab, d) = w.dims2()?;
    let strips = Strips::of_transposed(&view(w)?, d);
    let rows = |hidden: &[f32]| {
        let mut logits = vec![0f32; hidden.len() / d * vocab];
        strips.multiply(hidden, &mut logits);
        logits.chunks_exact_mut(vocab).for_each(log_softmax);
        logits
    };
    let (left, right) = (view(left)?, view(right)?);
    let parts: Vec<Vec<T>> = (left.par_chunks(d * ROWS).zip(right.par_chunks(d * ROWS)).enumerate())
        .map(|(part, (left, right))| {
            let (left, right) = (rows(left), rows(right));
            let pairs = left.chunks_exact(vocab).zip(right.chunks_exact(vocab)).enumerate();
            pairs.map(|(i, (l, r))| f(part * ROWS + i, l, r)).collect()
        })
        .collect();
    Ok(parts.into_iter().flatten().collect())
}

/// Log-probability of each row's target and the entropy: hidden (M, D), w (V, D), targets (M).
pub(crate) fn score(hidden: &Tensor, w: &Tensor, targets: &[u32]) -> Result<TokenScores> {
    let rows = map_logits(hidden, w, |i, logits| {
        let normaliser = Normaliser::of(logits);
        (logits[targets[i] as usize] - normaliser.log, normaliser.entropy)
    })?;
    let (logp, entropy): (_, Vec<f32>) = rows.into_iter().unzip();
    check_finite(&entropy)?;
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
    let (hs, ws) = (view(hidden)?, view(w)?);
    let (forward, back) = (Strips::of_transposed(&ws, d), Strips::of_rows(&ws, d));
    let (mut dhidden, mut dw) = (vec![0f32; rows * d], vec![0f32; vocab * d]);
    let chunks = hs.chunks(d * CHUNK).zip(dhidden.chunks_mut(d * CHUNK));
    for ((h, dh), (targets, dlogp)) in chunks.zip(targets.chunks(CHUNK).zip(dlogp.chunks(CHUNK))) {
        let parts = (h.par_chunks(d * ROWS).zip(dh.par_chunks_mut(d * ROWS)))
            .zip(targets.par_chunks(ROWS).zip(dlogp.par_chunks(ROWS)));
        let dlogits =
            fill_zipped(targets.len() * vocab, ROWS * vocab, parts, |_, out, ((h, dh), (targets, dlogp))| {
                forward.multiply(h, out);
                let rows = out.chunks_exact_mut(vocab).zip(targets.iter().zip(dlogp));
                rows.for_each(|(row, (&target, &g))| differentiate(row, target as usize, g));
                back.multiply(out, dh);
            });
        let part = transposed_product(&dlogits, h, vocab, d);
        dw.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
    }
    Ok((tensor(dhidden, &[rows, d])?, tensor(dw, &[vocab, d])?))
}

/// Turns logits into the gradient of `g * log-probability of the target`, in place.
fn differentiate(logits: &mut [f32], target: usize, g: f32) {
    let max = lane_max(logits);
    logits.iter_mut().for_each(|x| *x = exp(*x - max));
    let c = -g / lane_sum(logits);
    logits.iter_mut().for_each(|x| *x *= c);
    logits[target] += g;
}

#[cfg(test)]
mod tests {
    use super::super::kernels::tests::{check_gradient, draw, values};
    use super::*;

    #[test]
    fn log_probabilities_and_entropies_are_those_of_f64() {
        let logits = values(&draw("logits", &[45]));
        let total: f64 = logits.iter().map(|&x| libm::exp(x.into())).sum();
        let p: Vec<f64> = logits.iter().map(|&x| libm::exp(x.into()) / total).collect();
        let want: f64 = p.iter().map(|p| -p * libm::log(*p)).sum();
        let normaliser = Normaliser::of(&logits);
        assert!((f64::from(normaliser.log) - libm::log(total)).abs() < 1e-6);
        let mut rows = logits.clone();
        log_softmax(&mut rows);
        for entropy in [normaliser.entropy, entropy(&rows)] {
            assert!((f64::from(entropy) - want).abs() < 2e-6, "{entropy} {want}");
        }
    }

    #[test]
    fn a_certain_token_has_no_entropy() {
        let mut logits = vec![0f32; 20];
        logits[7] = 90.0;
        let normaliser = Normaliser::of(&logits);
        assert_eq!(normaliser.log, 90.0);
        assert!((0.0..1e-30).contains(&normaliser.entropy), "{}", normaliser.entropy);
    }

    #[test]
    fn hidden_states_and_the_head_have_their_gradients() {
        let (rows, d, vocab) = (CHUNK + 70, 12, 21);
        let (hidden, w, dlogp) = (draw("hidden", &[rows, d]), draw("w", &[vocab, d]), draw("dlogp", &[rows]));
        let targets: Vec<u32> = (0..rows as u32).map(|i| i * 7 % vocab as u32).collect();
        let (dhidden, dw) = score_backward(&hidden, &w, &targets, &values(&dlogp)).unwrap();
        let logp = |hidden: &Tensor, w: &Tensor| tensor(score(hidden, w, &targets)?.logp, &[rows]);
        check_gradient("hidden", &hidden, &dlogp, &dhidden, |hidden| logp(hidden, &w));
        check_gradient("w", &w, &dlogp, &dw, |w| logp(&hidden, w));
    }
}
