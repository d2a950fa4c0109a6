//! Attention over packed sequences, with a backward that keeps no score matrix.
//!
//! Tokens of many sequences lie one after another without padding. A [`Block`] is a run of rows that attend only
//! among themselves: one prompt with all its responses, or one window of a picture. In it a [`Segment`] is a run of
//! queries: its keys are the block's shared prefix (the prompt, for a response) and its own rows. So the prompt of a
//! group is computed once for all its responses, and the gradients of all responses meet in the prompt's keys and
//! values.
//!
//! Segments run in parallel. Within one, tiles of queries meet strips of packed keys in registers (`matmul`); the query
//! heads that share a key head form one run of queries. The backward computes probabilities again, a few queries at a
//! time. The gradients that the segments of a block send to the shared prefix are added in the order of the segments.
//! So nothing depends on the thread count, and a response gives the same bits whatever else is in its batch.

use super::kernels::{dot, exp, tensor, view};
use super::matmul::{HEIGHT, Strips, Tile, WIDTH, by_height, columns_by_rows, rows_by_strip, update_tile};
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
    let (chunks, tail) = x.as_chunks::<8>();
    let mut lanes = [0f32; 8];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane += x);
    }
    fold_lanes(lanes, |a, b| a + b) + tail.iter().sum::<f32>()
}

/// Largest value, in eight interleaved lanes.
pub(crate) fn lane_max(x: &[f32]) -> f32 {
    let (chunks, tail) = x.as_chunks::<8>();
    let mut lanes = [f32::MIN; 8];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane = lane.max(*x));
    }
    tail.iter().fold(fold_lanes(lanes, f32::max), |m, x| m.max(*x))
}

fn fold_lanes(x: [f32; 8], f: impl Fn(f32, f32) -> f32) -> f32 {
    f(f(f(x[0], x[4]), f(x[2], x[6])), f(f(x[1], x[5]), f(x[3], x[7])))
}

/// All segments with their blocks' first rows.
fn tasks(blocks: &[Block]) -> Vec<(&Block, &Segment, usize)> {
    let starts = blocks.iter().scan(0, |at, block| Some(std::mem::replace(at, *at + block.len)));
    blocks.iter().zip(starts).flat_map(|(b, at)| b.segments.iter().map(move |s| (b, s, at))).collect()
}

/// The rows of each segment, `width` values a row.
fn split_rows<'a>(
    mut x: &'a mut [f32],
    tasks: &[(&Block, &Segment, usize)],
    width: usize,
) -> Vec<&'a mut [f32]> {
    let mut take = |rows: usize| {
        let (head, tail) = std::mem::take(&mut x).split_at_mut(rows * width);
        x = tail;
        head
    };
    tasks.iter().map(|(_, segment, _)| take(segment.len)).collect()
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
    let (n, qw) = (q.dim(0)?, heads.query * heads.size);
    let (qs, ks, vs) = (view(q)?, view(k)?, view(v)?);
    let (mut out, mut lse) = (vec![0f32; n * qw], vec![0f32; n * heads.query]);
    let tasks = tasks(blocks);
    let (outs, lses) = (split_rows(&mut out, &tasks, qw), split_rows(&mut lse, &tasks, heads.query));
    tasks.par_iter().zip(outs).zip(lses).for_each(|((&(block, segment, first), out), lse)| {
        for kv in 0..heads.kv {
            let head = HeadOf { segment, causal: block.causal, heads, kv, first };
            let (keys, values) = (head.pack_transposed(&ks), Strips::of_rows(&head.pack(&vs), head.padded()));
            head.forward(&qs, &keys, &values, out, lse);
        }
    });
    Ok((tensor(out, &[n, qw])?, lse))
}

/// One segment under one key head. The queries of the heads that share it are one run: row by row, head by head.
struct HeadOf<'a> {
    segment: &'a Segment,
    causal: bool,
    heads: Heads,
    kv: usize,
    /// First row of the block.
    first: usize,
}

impl HeadOf<'_> {
    fn group(&self) -> usize {
        self.heads.query / self.heads.kv
    }

    /// Queries of the run.
    fn queries(&self) -> usize {
        self.segment.len * self.group()
    }

    fn keys(&self) -> usize {
        self.segment.prefix + self.segment.len
    }

    /// Head size with zeros up to a multiple of [`WIDTH`].
    fn padded(&self) -> usize {
        self.heads.size.next_multiple_of(WIDTH)
    }

    /// Keys seen by a query of the run.
    fn visible(&self, query: usize) -> usize {
        self.segment.visible(query / self.group(), self.causal)
    }

    /// Place of a query in the segment's rows of q.
    fn at(&self, query: usize) -> usize {
        let head = self.kv * self.group() + query % self.group();
        (query / self.group() * self.heads.query + head) * self.heads.size
    }

    /// Place of a query in the whole of q.
    fn at_all(&self, query: usize) -> usize {
        (self.first + self.segment.start) * self.heads.query * self.heads.size + self.at(query)
    }

    /// Rows of the keys in k and v.
    fn key_rows<'x>(&self, x: &'x [f32]) -> impl Iterator<Item = &'x [f32]> {
        let (width, size, kv, first) =
            (self.heads.kv * self.heads.size, self.heads.size, self.kv, self.first);
        self.segment.key_rows().map(move |row| &x[(first + row) * width + kv * size..][..size])
    }

    /// Keys or values as rows (keys, padded size).
    fn pack(&self, x: &[f32]) -> Vec<f32> {
        let mut rows = vec![0f32; self.keys() * self.padded()];
        rows.chunks_exact_mut(self.padded())
            .zip(self.key_rows(x))
            .for_each(|(out, row)| out[..row.len()].copy_from_slice(row));
        rows
    }

    /// Keys or values as strips of the transpose (size, keys).
    fn pack_transposed(&self, x: &[f32]) -> Strips {
        Strips::of_columns(self.key_rows(x), self.heads.size, self.keys())
    }

    fn forward(&self, q: &[f32], keys: &Strips, values: &Strips, out: &mut [f32], lse: &mut [f32]) {
        let mut scores = vec![0f32; HEIGHT * self.keys().next_multiple_of(WIDTH)];
        for first in (0..self.queries()).step_by(HEIGHT) {
            let height = HEIGHT.min(self.queries() - first);
            by_height!(height, forward_tile, self, first, q, keys, values, &mut scores, out, lse);
        }
    }
}

/// A tile of R queries from `first` on; `scores` holds R rows of all keys.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
fn forward_tile<const R: usize>(
    head: &HeadOf<'_>,
    first: usize,
    q: &[f32],
    keys: &Strips,
    values: &Strips,
    scores: &mut [f32],
    out: &mut [f32],
    lse: &mut [f32],
) {
    let (size, scale) = (head.heads.size, head.heads.scale());
    let seen = head.visible(first + R - 1);
    let stride = seen.next_multiple_of(WIDTH);
    let queries: [&[f32]; R] = std::array::from_fn(|r| &q[head.at_all(first + r)..][..size]);
    for strip in 0..stride / WIDTH {
        let mut sums: Tile<R> = [[0f32; WIDTH]; R];
        rows_by_strip(&mut sums, queries, keys.strip(strip));
        for (r, sums) in sums.iter().enumerate() {
            scores[r * stride + strip * WIDTH..][..WIDTH].copy_from_slice(sums);
        }
    }
    let mut inverse = [0f32; R];
    for (r, scores) in scores.chunks_exact_mut(stride).take(R).enumerate() {
        let (normaliser, sum) = exponentials(scores, head.visible(first + r), scale);
        lse[head.at(first + r) / size] = normaliser;
        inverse[r] = 1.0 / sum;
    }
    let p: [&[f32]; R] = std::array::from_fn(|r| &scores[r * stride..][..seen]);
    for (strip, at) in (0..size).step_by(WIDTH).enumerate() {
        let mut sums: Tile<R> = [[0f32; WIDTH]; R];
        rows_by_strip(&mut sums, p, &values.strip(strip)[..seen * WIDTH]);
        for (r, sums) in sums.iter().enumerate() {
            let out = &mut out[head.at(first + r)..][at..size.min(at + WIDTH)];
            out.iter_mut().zip(sums).for_each(|(out, x)| *out = x * inverse[r]);
        }
    }
}

/// Turns the first `visible` scores into `e^(scale * (score - max))` and the rest into zeros; returns the log of the
/// normaliser and the sum.
#[inline(always)]
fn exponentials(scores: &mut [f32], visible: usize, scale: f32) -> (f32, f32) {
    scores[visible..].fill(f32::MIN);
    let max = lane_max(scores);
    scores.iter_mut().for_each(|s| *s = exp((*s - max) * scale));
    scores[visible..].fill(0.0);
    let sum = lane_sum(scores);
    (max * scale + libm::logf(sum), sum)
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
    let (q, k, v) = (view(saved.q)?, view(saved.k)?, view(saved.v)?);
    let (out, dout) = (view(saved.out)?, view(dout)?);
    let x = Slices { q: &q, k: &k, v: &v, out: &out, dout: &dout, lse: saved.lse };
    let (mut dq, mut dk, mut dv) = (vec![0f32; n * qw], vec![0f32; n * kw], vec![0f32; n * kw]);
    let tasks = tasks(blocks);
    let dqs = split_rows(&mut dq, &tasks, qw);
    let (dks, dvs) = (split_rows(&mut dk, &tasks, kw), split_rows(&mut dv, &tasks, kw));
    let shared: Vec<[Vec<f32>; 2]> = (tasks.par_iter().zip(dqs).zip(dks).zip(dvs))
        .map(|(((&(block, segment, first), dq), dk), dv)| {
            let mut shared = [vec![0f32; segment.prefix * kw], vec![0f32; segment.prefix * kw]];
            for kv in 0..heads.kv {
                let head = HeadOf { segment, causal: block.causal, heads, kv, first };
                let [keys, values] = head.backward(&x, dq);
                let [shared_k, shared_v] = &mut shared;
                head.scatter(&keys, shared_k, dk);
                head.scatter(&values, shared_v, dv);
            }
            shared
        })
        .collect();
    for (&(_, segment, first), [k, v]) in tasks.iter().zip(&shared) {
        for (sum, part) in [(&mut dk, k), (&mut dv, v)] {
            let prefix = &mut sum[first * kw..][..segment.prefix * kw];
            prefix.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
        }
    }
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

/// Queries whose probabilities exist at a time in the backward.
const QUERIES: usize = 4 * HEIGHT;

/// Keys and values of one head as its backward needs them.
struct Packed {
    /// Strips of the transposes (size, keys).
    keys_t: Strips,
    values_t: Strips,
    /// Strips of the rows (keys, padded size).
    keys: Strips,
}

/// A run of queries in the backward: their rows with zeros up to the padded size, and their probabilities.
struct Run {
    first: usize,
    len: usize,
    q: Vec<f32>,
    dout: Vec<f32>,
    /// (queries, keys up to a multiple of [`WIDTH`]): probabilities, and the gradients of scores.
    p: Vec<f32>,
    ds: Vec<f32>,
    stride: usize,
}

impl HeadOf<'_> {
    /// Writes dq; returns the gradients of keys and values (keys, padded size).
    fn backward(&self, x: &Slices<'_>, dq: &mut [f32]) -> [Vec<f32>; 2] {
        let (keys, padded) = (self.keys(), self.padded());
        let packed = Packed {
            keys_t: self.pack_transposed(x.k),
            values_t: self.pack_transposed(x.v),
            keys: Strips::of_rows(&self.pack(x.k), padded),
        };
        let (mut dkeys, mut dvalues) = (vec![0f32; keys * padded], vec![0f32; keys * padded]);
        let (stride, rows) = (keys.next_multiple_of(WIDTH), || vec![0f32; QUERIES * padded]);
        let scores = || vec![0f32; QUERIES * stride];
        let mut run = Run { first: 0, len: 0, q: rows(), dout: rows(), p: scores(), ds: scores(), stride };
        for first in (0..self.queries()).step_by(QUERIES) {
            (run.first, run.len) = (first, QUERIES.min(self.queries() - first));
            self.load(x, &mut run);
            for tile in (0..run.len).step_by(HEIGHT) {
                by_height!(HEIGHT.min(run.len - tile), backward_tile, self, x, &packed, &mut run, tile, dq);
            }
            let seen = self.visible(first + run.len - 1);
            add_outer(&run.ds, &run.q, &run, seen, padded, &mut dkeys);
            add_outer(&run.p, &run.dout, &run, seen, padded, &mut dvalues);
        }
        [dkeys, dvalues]
    }

    fn load(&self, x: &Slices<'_>, run: &mut Run) {
        let (size, padded) = (self.heads.size, self.padded());
        for i in 0..run.len {
            let at = self.at_all(run.first + i);
            run.q[i * padded..][..size].copy_from_slice(&x.q[at..][..size]);
            run.dout[i * padded..][..size].copy_from_slice(&x.dout[at..][..size]);
        }
    }

    /// Adds gradients of keys (keys, padded size) to the shared prefix's rows and to the segment's own.
    fn scatter(&self, keys: &[f32], prefix: &mut [f32], own: &mut [f32]) {
        let (size, width) = (self.heads.size, self.heads.kv * self.heads.size);
        let rows = prefix.chunks_exact_mut(width).chain(own.chunks_exact_mut(width));
        for (row, x) in rows.zip(keys.chunks_exact(self.padded())) {
            row[self.kv * size..][..size].copy_from_slice(&x[..size]);
        }
    }
}

/// Probabilities, gradients of scores and of queries for R queries from `tile` of the run on.
#[inline(always)]
fn backward_tile<const R: usize>(
    head: &HeadOf<'_>,
    x: &Slices<'_>,
    packed: &Packed,
    run: &mut Run,
    tile: usize,
    dq: &mut [f32],
) {
    let (size, padded, scale, stride) = (head.heads.size, head.padded(), head.heads.scale(), run.stride);
    let query = |r: usize| run.first + tile + r;
    let lse: [f32; R] = std::array::from_fn(|r| x.lse[head.at_all(query(r)) / size]);
    let delta: [f32; R] = std::array::from_fn(|r| {
        let at = head.at_all(query(r));
        dot(&x.dout[at..][..size], &x.out[at..][..size])
    });
    let visible: [usize; R] = std::array::from_fn(|r| head.visible(query(r)));
    // The last query of the run sees most; up to there the sums over queries read.
    let seen = head.visible(run.first + run.len - 1);
    let rows = |x: &'_ [f32]| -> [std::ops::Range<usize>; R] {
        debug_assert!(x.len() >= (tile + R) * padded);
        std::array::from_fn(|r| (tile + r) * padded..(tile + r) * padded + size)
    };
    for strip in 0..seen.div_ceil(WIDTH) {
        let (mut s, mut dp): (Tile<R>, Tile<R>) = ([[0f32; WIDTH]; R], [[0f32; WIDTH]; R]);
        rows_by_strip(&mut s, rows(&run.q).map(|at| &run.q[at]), packed.keys_t.strip(strip));
        rows_by_strip(&mut dp, rows(&run.dout).map(|at| &run.dout[at]), packed.values_t.strip(strip));
        for r in 0..R {
            for c in 0..WIDTH {
                s[r][c] = exp(s[r][c] * scale - lse[r]);
                dp[r][c] = s[r][c] * (dp[r][c] - delta[r]) * scale;
            }
            let hidden = visible[r].saturating_sub(strip * WIDTH).min(WIDTH);
            s[r][hidden..].fill(0.0);
            dp[r][hidden..].fill(0.0);
            let at = (tile + r) * stride + strip * WIDTH;
            run.p[at..][..WIDTH].copy_from_slice(&s[r]);
            run.ds[at..][..WIDTH].copy_from_slice(&dp[r]);
        }
    }
    let ds: [&[f32]; R] = std::array::from_fn(|r| &run.ds[(tile + r) * stride..][..visible[R - 1]]);
    for (strip, at) in (0..size).step_by(WIDTH).enumerate() {
        let mut sums: Tile<R> = [[0f32; WIDTH]; R];
        rows_by_strip(&mut sums, ds, &packed.keys.strip(strip)[..visible[R - 1] * WIDTH]);
        for (r, sums) in sums.iter().enumerate() {
            let n = WIDTH.min(size - at);
            dq[head.at(query(r)) + at..][..n].copy_from_slice(&sums[..n]);
        }
    }
}

/// `sums[key] += sum over the run's queries of weights[query][key] * rows[query]`, for the first `seen` keys.
fn add_outer(weights: &[f32], rows: &[f32], run: &Run, seen: usize, padded: usize, sums: &mut [f32]) {
    let (weights, rows) = (&weights[..run.len * run.stride], &rows[..run.len * padded]);
    for (key, sums) in (0..seen).step_by(HEIGHT).zip(sums.chunks_mut(HEIGHT * padded)) {
        for at in (0..padded).step_by(WIDTH) {
            let sums = &mut sums[at..];
            by_height!(HEIGHT.min(seen - key), outer_tile, weights, rows, run.stride, padded, key, at, sums);
        }
    }
}

#[inline(always)]
fn outer_tile<const R: usize>(
    weights: &[f32],
    rows: &[f32],
    stride: usize,
    padded: usize,
    key: usize,
    at: usize,
    sums: &mut [f32],
) {
    let weights = weights.chunks_exact(stride).map(|row| &row[key..]);
    let rows = rows.chunks_exact(padded).map(|row| &row[at..]);
    update_tile::<R>(sums, padded, |sums| columns_by_rows(sums, weights, rows));
}

#[cfg(test)]
mod tests {
    use super::super::kernels::tests::{check_gradient, draw, values};
    use super::*;

    /// Blocks of one test and their heads: a tree with empty and long responses, and two pictures.
    fn cases() -> Vec<(Vec<Block>, Heads)> {
        let tree = vec![Block::tree(19, [7, 0, 40, 1]), Block::tree(3, [])];
        let pictures = vec![Block::full(16), Block::full(35)];
        let heads = |query, kv, size| Heads { query, kv, size };
        vec![
            (tree.clone(), heads(4, 2, 16)),
            (tree.clone(), heads(6, 2, 8)),
            (tree, heads(2, 2, 20)),
            (pictures, heads(3, 3, 16)),
        ]
    }

    fn inputs(blocks: &[Block], heads: Heads) -> [Tensor; 4] {
        let n: usize = blocks.iter().map(|b| b.len).sum();
        let (qw, kw) = (heads.query * heads.size, heads.kv * heads.size);
        [draw("q", &[n, qw]), draw("k", &[n, kw]), draw("v", &[n, kw]), draw("dout", &[n, qw])]
    }

    /// One output row by the definition, in f64.
    fn reference(x: &[Tensor; 4], keys: &[usize], row: usize, head: usize, heads: Heads) -> Vec<f64> {
        let (size, kv) = (heads.size, head / (heads.query / heads.kv));
        let at = |t: &Tensor, row: usize, head: usize, heads: usize| -> Vec<f64> {
            let start = (row * heads + head) * size;
            values(t)[start..start + size].iter().map(|&x| f64::from(x)).collect()
        };
        let q = at(&x[0], row, head, heads.query);
        let scores = keys.iter().map(|&key| {
            let k = at(&x[1], key, kv, heads.kv);
            let product: f64 = q.iter().zip(&k).map(|(q, k)| q * k).sum();
            libm::exp(product / (size as f64).sqrt())
        });
        let scores: Vec<f64> = scores.collect();
        let total: f64 = scores.iter().sum();
        let mut out = vec![0f64; size];
        for (p, &key) in scores.iter().zip(keys) {
            let v = at(&x[2], key, kv, heads.kv);
            out.iter_mut().zip(v).for_each(|(out, v)| *out += p / total * v);
        }
        out
    }

    #[test]
    fn outputs_are_those_of_the_definition() {
        for (blocks, heads) in cases() {
            let x = inputs(&blocks, heads);
            let out = values(&attention(&x[0], &x[1], &x[2], &blocks, heads).unwrap().0);
            for (block, segment, first) in tasks(&blocks) {
                for i in 0..segment.len {
                    let keys: Vec<usize> = segment
                        .key_rows()
                        .take(segment.visible(i, block.causal))
                        .map(|k| first + k)
                        .collect();
                    let row = first + segment.start + i;
                    for head in 0..heads.query {
                        let want = reference(&x, &keys, row, head, heads);
                        let got = &out[(row * heads.query + head) * heads.size..];
                        for (got, want) in got.iter().zip(want) {
                            assert!((f64::from(*got) - want).abs() < 3e-6, "row {row}: {got} {want}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn queries_keys_and_values_have_their_gradients() {
        for (blocks, heads) in cases() {
            let [q, k, v, dout] = inputs(&blocks, heads);
            let (out, lse) = attention(&q, &k, &v, &blocks, heads).unwrap();
            let saved = AttentionSaved { q: &q, k: &k, v: &v, out: &out, lse: &lse };
            let (dq, dk, dv) = attention_backward(&saved, &blocks, heads, &dout).unwrap();
            let forward = |q: &Tensor, k: &Tensor, v: &Tensor| Ok(attention(q, k, v, &blocks, heads)?.0);
            check_gradient("q", &q, &dout, &dq, |q| forward(q, &k, &v));
            check_gradient("k", &k, &dout, &dk, |k| forward(&q, k, &v));
            check_gradient("v", &v, &dout, &dv, |v| forward(&q, &k, v));
        }
    }

    #[test]
    fn other_segments_and_blocks_change_no_bit_of_a_response() {
        let heads = Heads { query: 4, kv: 2, size: 16 };
        let alone = vec![Block::tree(19, [40])];
        let together = vec![Block::tree(19, [40, 7, 12]), Block::tree(5, [3])];
        let [q, k, v, _] = inputs(&together, heads);
        let first = |t: &Tensor| t.narrow(0, 0, 59).unwrap();
        let all = values(&attention(&q, &k, &v, &together, heads).unwrap().0);
        let part = attention(&first(&q), &first(&k), &first(&v), &alone, heads).unwrap().0;
        assert_eq!(values(&part), all[..59 * 64]);
    }
}
