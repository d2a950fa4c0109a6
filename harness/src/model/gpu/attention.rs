//! Attention over packed trees and windows as kernels: the counterpart of `attention.rs`.
//!
//! The rows of all blocks lie in one matrix; a table says for each row which keys it sees, so that one launch serves any
//! mixture of prompts, responses and windows. With the feature `flash-attn` the same attention is made of FlashAttention-2
//! calls: every segment over its own rows, then every block's responses over the shared prompt, merged by their
//! normalisers.

use super::launch::{Grid, empty, int, launch, pointer, upload};
use crate::model::attention::{Block, Heads};
use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};

/// Largest head size and most query heads per head of keys (`HEAD` and `GROUP` in `kernels.cu`).
const LIMITS: (usize, usize) = (128, 8);

/// Which keys every row sees: (N, 6), see `kernels.cu`.
pub(crate) fn row_table(blocks: &[Block], like: &Tensor) -> Result<Tensor> {
    let mut table = vec![];
    let mut first = 0;
    for block in blocks {
        let end = first + block.len;
        for segment in &block.segments {
            let (start, prefix) = (first + segment.start, segment.prefix);
            // Segments whose prefix is this one stand after it.
            let seen = block.segments.iter().any(|s| s.prefix > segment.start && s.start > segment.start);
            let (child, children) = if seen { (start + segment.len, end) } else { (0, 0) };
            let row = [first, prefix, start, start + segment.len, child, children];
            for _ in 0..segment.len {
                table.extend(row.map(|x| x as u32));
            }
        }
        first = end;
    }
    upload(&table, &[table.len() / 6, 6], like)
}

pub(crate) fn check(heads: Heads) -> Result<()> {
    let (size, group) = LIMITS;
    ensure!(
        heads.size <= size && heads.query / heads.kv <= group && heads.query.is_multiple_of(heads.kv),
        "the GPU kernels take heads of at most {size} values and at most {group} query heads for one head of keys; this \
         model has {heads:?}"
    );
    Ok(())
}

/// Output (N, query heads * size) and normalisers (query heads, N).
pub(crate) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    rows: &Tensor,
    causal: bool,
    heads: Heads,
) -> Result<(Tensor, Tensor)> {
    check(heads)?;
    let n = q.dim(0)?;
    let out = empty(q.dims(), q.dtype(), q)?;
    let lse = empty(&[heads.query, n], DType::F32, q)?;
    let args = [
        pointer(q)?,
        pointer(k)?,
        pointer(v)?,
        pointer(rows)?,
        pointer(&out)?,
        pointer(&lse)?,
        int(n)?,
        int(heads.query)?,
        int(heads.kv)?,
        int(heads.size)?,
        heads.scale().into(),
        i32::from(causal).into(),
    ];
    launch("attention", q.dtype(), q, Grid::warps(n * heads.query), &args)?;
    Ok((out, lse))
}

/// What the backward takes.
pub(crate) struct Saved<'a> {
    pub q: &'a Tensor,
    pub k: &'a Tensor,
    pub v: &'a Tensor,
    pub out: &'a Tensor,
    pub lse: &'a Tensor,
}

/// Gradients of q, k, v.
pub(crate) fn attention_backward(
    saved: &Saved<'_>,
    rows: &Tensor,
    causal: bool,
    heads: Heads,
    dout: &Tensor,
) -> Result<(Tensor, Tensor, Tensor)> {
    let Saved { q, k, v, out, lse } = *saved;
    let n = q.dim(0)?;
    let (dq, dk, dv) =
        (empty(q.dims(), q.dtype(), q)?, empty(k.dims(), k.dtype(), k)?, empty(v.dims(), v.dtype(), v)?);
    let delta = empty(&[heads.query, n], DType::F32, q)?;
    let sizes = [
        int(n)?,
        int(heads.query)?,
        int(heads.kv)?,
        int(heads.size)?,
        heads.scale().into(),
        i32::from(causal).into(),
    ];
    let mut args = vec![
        pointer(q)?,
        pointer(k)?,
        pointer(v)?,
        pointer(out)?,
        pointer(dout)?,
        pointer(lse)?,
        pointer(rows)?,
        pointer(&dq)?,
        pointer(&delta)?,
    ];
    args.extend(sizes);
    launch("attention_backward_queries", q.dtype(), q, Grid::warps(n * heads.query), &args)?;
    let mut args = vec![
        pointer(q)?,
        pointer(k)?,
        pointer(v)?,
        pointer(dout)?,
        pointer(lse)?,
        pointer(&delta)?,
        pointer(rows)?,
        pointer(&dk)?,
        pointer(&dv)?,
    ];
    args.extend(sizes);
    launch("attention_backward_keys", q.dtype(), q, Grid::warps(n * heads.kv), &args)?;
    Ok((dq, dk, dv))
}
