//! The model's operations as kernels: the counterparts of `kernels.rs` and `head.rs`.
//!
//! Types: activations and weights are f32 or bf16, all alike; statistics (norms, normalisers, angles, sums over rows) and
//! logits are f32. Deviation from transformers in bf16: logits, and sums inside one kernel, are not rounded to bf16.

use super::gemm::{Factor, accumulate_product, product};
use super::launch::{Arg, Grid, empty, half, int, launch, long, pointer, upload};
use crate::model::ops::Rule;
use crate::model::optimizer::State;
use crate::settings::Sampling;
use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};

/// Rows that one block adds up (`ROWS` in `kernels.cu`).
const ROWS: usize = 128;
/// Threads of a block that has a row of the vocabulary (`WIDE`).
pub(crate) const WIDE: u32 = 256;
/// Threads of a block that has a row.
const ROW_THREADS: u32 = 128;

fn elementwise(kernel: &str, tensors: &[&Tensor], pack: usize) -> Result<()> {
    let first = tensors[0];
    let n = first.elem_count();
    let mut args = tensors.iter().map(|t| pointer(t)).collect::<Result<Vec<Arg>>>()?;
    args.push(long(n));
    launch(kernel, first.dtype(), first, Grid::threads(n.div_ceil(pack)), &args)
}

/// Elements that one thread moves at a time.
fn pack(t: &Tensor) -> usize {
    16 / t.dtype().size_in_bytes()
}

fn like(t: &Tensor) -> Result<Tensor> {
    empty(t.dims(), t.dtype(), t)
}

/// See [`kernels::add_assign`](crate::model::kernels::add_assign); the two may differ in type.
pub(crate) fn add_assign(dst: &Tensor, src: &Tensor) -> Result<()> {
    ensure!(dst.elem_count() == src.elem_count(), "{:?} += {:?}", dst.shape(), src.shape());
    if dst.dtype() == src.dtype() {
        return elementwise("add", &[dst, src], pack(dst));
    }
    let n = dst.elem_count();
    let args = [pointer(dst)?, pointer(src)?, long(n), half(dst)?, half(src)?];
    launch("accumulate", DType::F32, dst, Grid::threads(n), &args)
}

/// See [`kernels::linear`](crate::model::kernels::linear).
pub(crate) fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    let y = product(Factor::Plain(x), Factor::Transposed(w), x.dtype())?;
    if let Some(b) = b {
        let (n, d) = y.dims2()?;
        let args = [pointer(&y)?, pointer(b)?, long(n), int(d)?];
        launch("add_rows", y.dtype(), &y, Grid::threads(n * d), &args)?;
    }
    Ok(y)
}

/// dy (N, O), w (O, I) -> (N, I).
pub(crate) fn linear_backward_input(dy: &Tensor, w: &Tensor) -> Result<Tensor> {
    product(Factor::Plain(dy), Factor::Plain(w), dy.dtype())
}

/// `sum (O, I) += dy^T x`, dy (N, O), x (N, I).
pub(crate) fn linear_backward_weight(dy: &Tensor, x: &Tensor, sum: &Tensor) -> Result<()> {
    accumulate_product(Factor::Transposed(dy), Factor::Plain(x), sum)
}

/// See [`kernels::sum_rows`](crate::model::kernels::sum_rows); the sum is f32.
pub(crate) fn sum_rows(x: &Tensor) -> Result<Tensor> {
    column_sums(x, None)
}

fn column_sums(x: &Tensor, weighted: Option<(&Tensor, &Tensor)>) -> Result<Tensor> {
    let (n, d) = x.dims2()?;
    let parts = n.div_ceil(ROWS);
    let part = empty(&[parts, d], DType::F32, x)?;
    let (dy, inverse) = match weighted {
        Some((dy, inverse)) => (pointer(dy)?, pointer(inverse)?),
        None => (Arg::Pointer(0), Arg::Pointer(0)),
    };
    let args = [pointer(x)?, dy, inverse, pointer(&part)?, int(n)?, int(d)?];
    launch("column_sums", x.dtype(), x, Grid::plane(d.div_ceil(128), parts, 128), &args)?;
    let sum = empty(&[d], DType::F32, x)?;
    let args = [pointer(&part)?, pointer(&sum)?, int(parts)?, int(d)?];
    launch("sum_parts", x.dtype(), x, Grid::threads(d), &args)?;
    Ok(sum)
}

/// See [`kernels::rms_norm`](crate::model::kernels::rms_norm).
pub(crate) fn rms_norm(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    let (n, d) = x.dims2()?;
    let y = like(x)?;
    let args = [pointer(x)?, pointer(w)?, pointer(&y)?, int(n)?, int(d)?, (eps as f32).into()];
    launch("rms_norm", x.dtype(), x, Grid::warps(n), &args)?;
    Ok(y)
}

/// See [`kernels::rms_norm_backward`](crate::model::kernels::rms_norm_backward); the weight's gradient is f32.
pub(crate) fn rms_norm_backward(x: &Tensor, w: &Tensor, eps: f64, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    let (n, d) = x.dims2()?;
    let (dx, inverse) = (like(x)?, empty(&[n], DType::F32, x)?);
    let args = [
        pointer(x)?,
        pointer(w)?,
        pointer(dy)?,
        pointer(&dx)?,
        pointer(&inverse)?,
        int(n)?,
        int(d)?,
        (eps as f32).into(),
    ];
    launch("rms_norm_backward", x.dtype(), x, Grid::warps(n), &args)?;
    let dw = column_sums(x, Some((dy, &inverse)))?;
    Ok((dx, dw))
}

/// See [`kernels::rotate`](crate::model::kernels::rotate); cosines and sines are (N, half) in f32.
pub(crate) fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor, sign: f32) -> Result<Tensor> {
    let (n, width) = x.dims2()?;
    let half = cos.dim(1)?;
    let y = like(x)?;
    let args = [
        pointer(x)?,
        pointer(cos)?,
        pointer(sin)?,
        pointer(&y)?,
        long(n),
        int(width)?,
        int(half)?,
        sign.into(),
    ];
    launch("rotate", x.dtype(), x, Grid::threads(n * width / 2), &args)?;
    Ok(y)
}

/// See [`kernels::swiglu`](crate::model::kernels::swiglu).
pub(crate) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let y = like(gate)?;
    elementwise("swiglu", &[gate, up, &y], pack(gate))?;
    Ok(y)
}

/// See [`kernels::swiglu_backward`](crate::model::kernels::swiglu_backward).
pub(crate) fn swiglu_backward(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    let (dgate, dup) = (like(gate)?, like(gate)?);
    elementwise("swiglu_backward", &[gate, up, dy, &dgate, &dup], pack(gate))?;
    Ok((dgate, dup))
}

/// See [`kernels::gelu`](crate::model::kernels::gelu).
pub(crate) fn gelu(x: &Tensor) -> Result<Tensor> {
    let y = like(x)?;
    elementwise("gelu", &[x, &y], 1)?;
    Ok(y)
}

/// See [`kernels::gelu_backward`](crate::model::kernels::gelu_backward).
pub(crate) fn gelu_backward(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let dx = like(x)?;
    elementwise("gelu_backward", &[x, dy, &dx], 1)?;
    Ok(dx)
}

/// See [`kernels::gather_rows`](crate::model::kernels::gather_rows).
pub(crate) fn gather_rows(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let (n, d) = x.dims2()?;
    ensure!(rows.iter().all(|&row| (row as usize) < n), "a row beyond the {n} of a tensor is asked for");
    let y = empty(&[rows.len(), d], x.dtype(), x)?;
    if rows.is_empty() {
        return Ok(y);
    }
    let index = upload(rows, &[rows.len()], x)?;
    let args = [pointer(x)?, pointer(&index)?, pointer(&y)?, int(d)?];
    launch("gather_rows", x.dtype(), x, Grid::blocks(rows.len(), ROW_THREADS), &args)?;
    Ok(y)
}

/// Writes y (M, d) over the rows of x, in place; indices are distinct.
pub(crate) fn put_rows(x: &Tensor, y: &Tensor, rows: &[u32]) -> Result<()> {
    let (n, d) = x.dims2()?;
    ensure!(rows.iter().all(|&row| (row as usize) < n) && y.dims() == [rows.len(), d], "rows do not fit");
    if rows.is_empty() {
        return Ok(());
    }
    let index = upload(rows, &[rows.len()], x)?;
    let args = [pointer(x)?, pointer(y)?, pointer(&index)?, int(d)?];
    launch("put_rows", x.dtype(), x, Grid::blocks(rows.len(), ROW_THREADS), &args)
}

/// Adds the rows of dy (M, d) to `rows` of sum (n, d; f32 or bf16), in place; equal indices in the order they have.
pub(crate) fn scatter_rows_into(sum: &Tensor, dy: &Tensor, rows: &[u32]) -> Result<()> {
    let (n, d) = sum.dims2()?;
    ensure!(rows.iter().all(|&row| (row as usize) < n) && dy.dims() == [rows.len(), d], "rows do not fit");
    if rows.is_empty() {
        return Ok(());
    }
    let mut order: Vec<u32> = (0..rows.len() as u32).collect();
    order.sort_by_key(|&i| rows[i as usize]);
    let (mut distinct, mut starts) = (vec![], vec![]);
    for (at, &i) in order.iter().enumerate() {
        if distinct.last() != Some(&rows[i as usize]) {
            distinct.push(rows[i as usize]);
            starts.push(at as u32);
        }
    }
    starts.push(rows.len() as u32);
    let (order, starts) = (upload(&order, &[order.len()], dy)?, upload(&starts, &[starts.len()], dy)?);
    let index = upload(&distinct, &[distinct.len()], dy)?;
    let args = [
        pointer(sum)?,
        pointer(dy)?,
        pointer(&index)?,
        pointer(&starts)?,
        pointer(&order)?,
        int(d)?,
        half(sum)?,
    ];
    launch("scatter_rows", dy.dtype(), dy, Grid::blocks(distinct.len(), ROW_THREADS), &args)
}

/// Logits (M, V) in f32 of hidden (M, D) under the head w (V, D).
pub(crate) fn logits(hidden: &Tensor, w: &Tensor) -> Result<Tensor> {
    product(Factor::Plain(hidden), Factor::Transposed(w), DType::F32)
}

/// Log-probabilities of targets and entropies of rows of logits (M, V).
pub(crate) fn score_rows(logits: &Tensor, targets: &[u32], dtype: DType) -> Result<(Tensor, Tensor)> {
    let (m, vocab) = logits.dims2()?;
    let index = upload(targets, &[m], logits)?;
    let column = || empty(&[m], DType::F32, logits);
    let (logp, entropy) = (column()?, column()?);
    let args = [pointer(logits)?, pointer(&index)?, pointer(&logp)?, pointer(&entropy)?, int(vocab)?];
    launch("score_rows", dtype, logits, Grid::blocks(m, WIDE), &args)?;
    Ok((logp, entropy))
}

/// Gradient of rows of logits (M, V), in the activations' type.
pub(crate) fn score_rows_backward(
    logits: &Tensor,
    targets: &[u32],
    dlogp: &[f32],
    dtype: DType,
) -> Result<Tensor> {
    let (m, vocab) = logits.dims2()?;
    let (index, slope) = (upload(targets, &[m], logits)?, upload(dlogp, &[m], logits)?);
    let dlogits = empty(&[m, vocab], dtype, logits)?;
    let args = [pointer(logits)?, pointer(&index)?, pointer(&slope)?, pointer(&dlogits)?, int(vocab)?];
    launch("score_rows_backward", dtype, logits, Grid::blocks(m, WIDE), &args)?;
    Ok(dlogits)
}

/// Of each pair of rows of logits: log-probability of the target in the second, KL divergence of the second from the
/// first, Jensen-Shannon divergence.
pub(crate) fn compare_rows(
    clean: &Tensor,
    corrupted: &Tensor,
    targets: &[u32],
    dtype: DType,
) -> Result<[Vec<f32>; 3]> {
    let (m, vocab) = clean.dims2()?;
    let index = upload(targets, &[m], clean)?;
    let column = || empty(&[m], DType::F32, clean);
    let (logq, kl, js) = (column()?, column()?, column()?);
    let args = [
        pointer(clean)?,
        pointer(corrupted)?,
        pointer(&index)?,
        pointer(&logq)?,
        pointer(&kl)?,
        pointer(&js)?,
        int(vocab)?,
    ];
    launch("compare_rows", dtype, clean, Grid::blocks(m, WIDE), &args)?;
    Ok([logq.to_vec1()?, kl.to_vec1()?, js.to_vec1()?])
}

/// Tokens, log-probabilities and entropies drawn from rows of logits (M, V), one uniform number for each.
pub(crate) fn sample_rows(
    logits: &Tensor,
    uniforms: &[f64],
    sampling: &Sampling,
    forbidden: &[u32],
    dtype: DType,
) -> Result<(Vec<u32>, Vec<f32>, Vec<f32>)> {
    let (m, vocab) = logits.dims2()?;
    let uniforms = upload(uniforms, &[m], logits)?;
    // An empty tensor has no address: the list always has an id that no token has.
    let banned: Vec<u32> = forbidden.iter().copied().chain([u32::MAX]).collect();
    let banned = upload(&banned, &[banned.len()], logits)?;
    let tokens = empty(&[m], DType::U32, logits)?;
    let column = || empty(&[m], DType::F32, logits);
    let (logp, entropy) = (column()?, column()?);
    let args = [
        pointer(logits)?,
        pointer(&uniforms)?,
        pointer(&banned)?,
        int(banned.elem_count())?,
        pointer(&tokens)?,
        pointer(&logp)?,
        pointer(&entropy)?,
        int(vocab)?,
        Arg::Double(sampling.temperature),
        int(sampling.top_k)?,
        Arg::Double(sampling.top_p),
    ];
    launch("sample_rows", dtype, logits, Grid::blocks(m, WIDE), &args)?;
    Ok((tokens.to_vec1()?, logp.to_vec1()?, entropy.to_vec1()?))
}

/// Elements that one block of [`sum_squares`] adds up.
const RUN: usize = 1 << 16;

/// See [`kernels::sum_squares`](crate::model::kernels::sum_squares).
pub(crate) fn sum_squares(x: &Tensor) -> Result<f64> {
    let n = x.elem_count();
    let parts = n.div_ceil(RUN);
    let part = empty(&[parts], DType::F64, x)?;
    let args = [pointer(x)?, half(x)?, pointer(&part)?, long(n), int(RUN)?];
    launch("sum_squares", DType::F32, x, Grid::blocks(parts, WIDE), &args)?;
    Ok(part.to_vec1::<f64>()?.into_iter().sum())
}

/// See [`ops::adamw`](crate::model::ops::adamw).
pub(crate) fn adamw(x: &Tensor, gradient: &Tensor, state: &State, rule: &Rule) -> Result<()> {
    let n = x.elem_count();
    let mut args = vec![pointer(x)?, pointer(gradient)?, half(gradient)?];
    for (_, tensor) in state.tensors() {
        args.push(pointer(tensor)?);
    }
    args.push(long(n));
    let Rule { scale, beta1, beta2, step, root, epsilon, keep } = *rule;
    args.extend([scale, beta1, beta2, step, root, epsilon, keep].map(Arg::from));
    let kernel = if state.lost.is_some() { "adamw_kahan" } else { "adamw" };
    launch(kernel, x.dtype(), x, Grid::threads(n), &args)
}
