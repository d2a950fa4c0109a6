//! Attention over packed sequences, with a backward that keeps no score matrix.
//!
//! Tokens of many sequences lie one after another without padding. A [`Block`] is a run of rows that attend only
//! among themselves: one prompt with all its responses, or one window of a picture. In it a [`Segment`] is a run of
//! queries: its keys are the block's shared prefix (the prompt, for a response) and its own rows. So the prompt of a
//! group is computed once for all its responses, and the gradients of all responses meet in the prompt's keys and
//! values. Blocks are independent, hence parallel; sums within a block have a fixed order.

use super::kernels::{axpy, dot, exp, tensor, view};
use anyhow::Result;
use candle_core::Tensor;
use rayon::prelude::*;

/// A run of query rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// First row, counted from the block's first row.
    pub start: usize,
    /// Number of rows.
    pub len: usize,
    /// The first `prefix` rows of the block are keys of every row of this segment.
    pub prefix: usize,
}

/// A run of rows that attend among themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Number of rows.
    pub len: usize,
    /// Segments in order; together they cover all rows.
    pub segments: Vec<Segment>,
    /// Rows see only earlier rows of their segment (text), or all of them (pictures).
    pub causal: bool,
}

impl Block {
    /// A block whose rows all see each other.
    pub fn full(len: usize) -> Self {
        Self { len, segments: vec![Segment { start: 0, len, prefix: 0 }], causal: false }
    }

    /// A causal prompt followed by causal continuations that all see the prompt and nothing of each other.
    pub fn tree(prompt: usize, continuations: impl IntoIterator<Item = usize>) -> Self {
        let mut segments = vec![Segment { start: 0, len: prompt, prefix: 0 }];
        let mut start = prompt;
        for len in continuations {
            segments.push(Segment { start, len, prefix: prompt });
            start += len;
        }
        Self { len: start, segments, causal: true }
    }
}

/// Head counts and size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub query: usize,
    pub kv: usize,
    pub size: usize,
}

impl Heads {
    /// Factor of the scores before the softmax.
    pub fn scale(self) -> f32 {
        1.0 / (self.size as f32).sqrt()
    }
}

/// Keys of one head of one segment, transposed to (head size, keys) so that scores of all keys are one vector.
struct Transposed {
    values: Vec<f32>,
    keys: usize,
}

impl Transposed {
    /// `x` are the block's rows (len, width); `at` is the head's first column.
    fn gather(x: &[f32], width: usize, at: usize, size: usize, segment: &Segment) -> Self {
        let keys = segment.prefix + segment.len;
        let mut values = vec![0f32; size * keys];
        for (key, row) in segment.key_rows().enumerate() {
            for (d, &v) in x[row * width + at..][..size].iter().enumerate() {
                values[d * keys + key] = v;
            }
        }
        Self { values, keys }
    }

    fn zeros(size: usize, segment: &Segment) -> Self {
        let keys = segment.prefix + segment.len;
        Self { values: vec![0f32; size * keys], keys }
    }

    /// Adds back into the block's rows.
    fn scatter_add(&self, x: &mut [f32], width: usize, at: usize, size: usize, segment: &Segment) {
        for (key, row) in segment.key_rows().enumerate() {
            for (d, v) in x[row * width + at..][..size].iter_mut().enumerate() {
                *v += self.values[d * self.keys + key];
            }
        }
    }

    /// `out[key] = sum_d a[d] * self[d][key]` over the first `out.len()` keys.
    fn multiply(&self, a: &[f32], out: &mut [f32]) {
        out.fill(0.0);
        let n = out.len();
        for (d, &a) in a.iter().enumerate() {
            axpy(out, a, &self.values[d * self.keys..][..n]);
        }
    }

    /// `self[d][key] += a[d] * b[key]`.
    fn add_outer(&mut self, a: &[f32], b: &[f32]) {
        for (d, &a) in a.iter().enumerate() {
            axpy(&mut self.values[d * self.keys..][..b.len()], a, b);
        }
    }
}

impl Segment {
    fn key_rows(&self) -> impl Iterator<Item = usize> {
        (0..self.prefix).chain(self.start..self.start + self.len)
    }

    /// Keys seen by the segment's i-th row.
    fn visible(&self, i: usize, causal: bool) -> usize {
        self.prefix + if causal { i + 1 } else { self.len }
    }
}

/// Turns scores into probabilities in place; returns the log of their normaliser.
pub(crate) fn softmax(scores: &mut [f32], scale: f32) -> f32 {
    let max = scores.iter().fold(f32::MIN, |m, &s| m.max(s));
    for s in scores.iter_mut() {
        *s = exp((*s - max) * scale);
    }
    let sum = lane_sum(scores);
    let inverse = 1.0 / sum;
    scores.iter_mut().for_each(|s| *s *= inverse);
    max * scale + libm::logf(sum)
}

/// Sum in eight interleaved lanes.
pub(crate) fn lane_sum(x: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    let mut chunks = x.chunks_exact(8);
    for chunk in &mut chunks {
        for lane in 0..8 {
            lanes[lane] += chunk[lane];
        }
    }
    let tail: f32 = chunks.remainder().iter().sum();
    ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7])) + tail
}

fn split_rows<'a>(mut x: &'a mut [f32], blocks: &[Block], width: usize) -> Vec<&'a mut [f32]> {
    blocks
        .iter()
        .map(|block| {
            let (head, tail) = std::mem::take(&mut x).split_at_mut(block.len * width);
            x = tail;
            head
        })
        .collect()
}

fn starts(blocks: &[Block]) -> Vec<usize> {
    blocks.iter().scan(0, |at, b| Some(std::mem::replace(at, *at + b.len))).collect()
}

/// Attention: q (N, query heads * size), k and v (N, kv heads * size) -> output like q, and the log-normalisers
/// (N, query heads) that the backward needs.
pub(crate) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    blocks: &[Block],
    heads: Heads,
) -> Result<(Tensor, Vec<f32>)> {
    let (n, qw, kw) = (q.dim(0)?, heads.query * heads.size, heads.kv * heads.size);
    let (qs, ks, vs) = (view(q)?, view(k)?, view(v)?);
    let (mut out, mut lse) = (vec![0f32; n * qw], vec![0f32; n * heads.query]);
    let tasks: Vec<_> = blocks
        .iter()
        .zip(starts(blocks))
        .zip(split_rows(&mut out, blocks, qw))
        .zip(split_rows(&mut lse, blocks, heads.query))
        .collect();
    tasks.into_par_iter().for_each(|(((block, at), out), lse)| {
        let (q, k) = (&qs[at * qw..][..block.len * qw], &ks[at * kw..][..block.len * kw]);
        let v = &vs[at * kw..][..block.len * kw];
        block.segments.iter().for_each(|s| forward_segment(s, block.causal, q, k, v, heads, out, lse));
    });
    Ok((tensor(out, &[n, qw])?, lse))
}

#[allow(clippy::too_many_arguments)]
fn forward_segment(
    segment: &Segment,
    causal: bool,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    heads: Heads,
    out: &mut [f32],
    lse: &mut [f32],
) {
    let (qw, kw, size) = (heads.query * heads.size, heads.kv * heads.size, heads.size);
    let group = heads.query / heads.kv;
    let mut scores = vec![0f32; segment.prefix + segment.len];
    for kv in 0..heads.kv {
        let keys = Transposed::gather(k, kw, kv * size, size, segment);
        for head in kv * group..(kv + 1) * group {
            for i in 0..segment.len {
                let row = segment.start + i;
                let scores = &mut scores[..segment.visible(i, causal)];
                keys.multiply(&q[row * qw + head * size..][..size], scores);
                lse[row * heads.query + head] = softmax(scores, heads.scale());
                let out = &mut out[row * qw + head * size..][..size];
                for (&p, key_row) in scores.iter().zip(segment.key_rows()) {
                    axpy(out, p, &v[key_row * kw + kv * size..][..size]);
                }
            }
        }
    }
}

/// What the backward of attention takes.
pub(crate) struct AttentionSaved<'a> {
    pub q: &'a Tensor,
    pub k: &'a Tensor,
    pub v: &'a Tensor,
    pub out: &'a Tensor,
    pub lse: &'a [f32],
}

/// Backward of [`attention`]: gradients of q, k, v. Probabilities are computed again from the log-normalisers.
pub(crate) fn attention_backward(
    saved: &AttentionSaved<'_>,
    blocks: &[Block],
    heads: Heads,
    dout: &Tensor,
) -> Result<(Tensor, Tensor, Tensor)> {
    let (n, qw, kw) = (saved.q.dim(0)?, heads.query * heads.size, heads.kv * heads.size);
    let (qs, ks, vs) = (view(saved.q)?, view(saved.k)?, view(saved.v)?);
    let (os, gs) = (view(saved.out)?, view(dout)?);
    let (mut dq, mut dk, mut dv) = (vec![0f32; n * qw], vec![0f32; n * kw], vec![0f32; n * kw]);
    let tasks: Vec<_> = blocks
        .iter()
        .zip(starts(blocks))
        .zip(split_rows(&mut dq, blocks, qw))
        .zip(split_rows(&mut dk, blocks, kw).into_iter().zip(split_rows(&mut dv, blocks, kw)))
        .collect();
    tasks.into_par_iter().for_each(|(((block, at), dq), (dk, dv))| {
        let rows = |x: &'_ [f32], width: usize| -> std::ops::Range<usize> {
            debug_assert!(x.len() >= (at + block.len) * width);
            at * width..(at + block.len) * width
        };
        let slices = Slices {
            q: &qs[rows(&qs, qw)],
            k: &ks[rows(&ks, kw)],
            v: &vs[rows(&vs, kw)],
            out: &os[rows(&os, qw)],
            dout: &gs[rows(&gs, qw)],
            lse: &saved.lse[at * heads.query..][..block.len * heads.query],
        };
        block.segments.iter().for_each(|s| backward_segment(s, block.causal, &slices, heads, dq, dk, dv));
    });
    Ok((tensor(dq, &[n, qw])?, tensor(dk, &[n, kw])?, tensor(dv, &[n, kw])?))
}

struct Slices<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    out: &'a [f32],
    dout: &'a [f32],
    lse: &'a [f32],
}

fn backward_segment(
    segment: &Segment,
    causal: bool,
    x: &Slices<'_>,
    heads: Heads,
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let (qw, kw, size, scale) = (heads.query * heads.size, heads.kv * heads.size, heads.size, heads.scale());
    let group = heads.query / heads.kv;
    let mut p = vec![0f32; segment.prefix + segment.len];
    let mut ds = p.clone();
    for kv in 0..heads.kv {
        let keys = Transposed::gather(x.k, kw, kv * size, size, segment);
        let values = Transposed::gather(x.v, kw, kv * size, size, segment);
        let (mut dkeys, mut dvalues) = (Transposed::zeros(size, segment), Transposed::zeros(size, segment));
        for head in kv * group..(kv + 1) * group {
            for i in 0..segment.len {
                let row = segment.start + i;
                let at = row * qw + head * size;
                let (q, dout, out) = (&x.q[at..][..size], &x.dout[at..][..size], &x.out[at..][..size]);
                let visible = segment.visible(i, causal);
                let (p, ds) = (&mut p[..visible], &mut ds[..visible]);
                keys.multiply(q, p);
                let lse = x.lse[row * heads.query + head];
                p.iter_mut().for_each(|s| *s = exp(*s * scale - lse));
                dvalues.add_outer(dout, p);
                values.multiply(dout, ds);
                let delta = dot(dout, out);
                ds.iter_mut().zip(p.iter()).for_each(|(ds, p)| *ds = p * (*ds - delta) * scale);
                dkeys.add_outer(q, ds);
                let dq = &mut dq[at..][..size];
                for (&ds, key_row) in ds.iter().zip(segment.key_rows()) {
                    axpy(dq, ds, &x.k[key_row * kw + kv * size..][..size]);
                }
            }
        }
        dkeys.scatter_add(dk, kw, kv * size, size, segment);
        dvalues.scatter_add(dv, kw, kv * size, size, segment);
    }
}
