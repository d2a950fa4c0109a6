//! Matrix products on the CPU.
//!
//! Every value of a product is one chain of fused multiply-adds in the order of the inner index. So it does not depend
//! on the thread count, on the sizes of caches, on the width of the vector unit, nor on the other rows of the batch:
//! a row multiplied alone gives the same bits as in a batch of thousands. (The `gemm` crate below candle's `matmul` cuts
//! the inner index by the caches it finds, and sums small products in another order than large ones.)
//! Only [`transposed_product`], the gradient of weights, sums over rows; it does so in parts of [`PART`] rows.
//!
//! Tiles of 6 x 16 values stay in registers: 12 vectors of AVX2. The right operand is packed into strips of
//! 16 columns, so that the inner loop reads both operands in order.

use super::kernels::fill;
use rayon::prelude::*;

/// Columns of a tile.
pub(crate) const WIDTH: usize = 16;
/// Rows of a tile.
pub(crate) const HEIGHT: usize = 6;
/// Inner index handled before the next tile: a strip of this depth stays in the first-level cache.
const DEPTH: usize = 256;
/// Rows of the left operand handled by one task.
const TASK: usize = 8 * HEIGHT;
/// Rows summed into one part of a gradient of weights.
const PART: usize = 512;
/// Rows of a part that are packed at a time; a part reads them in order.
const BLOCK: usize = 64;
/// Products with fewer multiply-adds run on the calling thread.
const SERIAL: usize = 1 << 16;

/// A tile of sums.
pub(crate) type Tile<const R: usize> = [[f32; WIDTH]; R];

/// `sums[r][c] += sum_i a[r][i] * b[i][c]` where `b` holds rows of [`WIDTH`] values.
#[inline(always)]
pub(crate) fn rows_by_strip<const R: usize>(sums: &mut Tile<R>, a: [&[f32]; R], b: &[f32]) {
    /// Steps between two checks of bounds: what the compiler then proves keeps the loop at full speed.
    const STEPS: usize = 2;
    let (b, _) = b.as_chunks::<WIDTH>();
    let (blocks, b_tail) = b.as_chunks::<STEPS>();
    let a_blocks = a.map(|row| row[..b.len()].as_chunks::<STEPS>());
    let mut tile = *sums;
    for (i, b) in blocks.iter().enumerate() {
        let a: [&[f32; STEPS]; R] = std::array::from_fn(|r| &a_blocks[r].0[i]);
        for (step, b) in b.iter().enumerate() {
            add_step(&mut tile, |r| a[r][step], b);
        }
    }
    for (i, b) in b_tail.iter().enumerate() {
        add_step(&mut tile, |r| a_blocks[r].1[i], b);
    }
    *sums = tile;
}

#[inline(always)]
fn add_step<const R: usize>(tile: &mut Tile<R>, a: impl Fn(usize) -> f32, b: &[f32; WIDTH]) {
    for (r, tile) in tile.iter_mut().enumerate() {
        let a = a(r);
        tile.iter_mut().zip(b).for_each(|(sum, b)| *sum = a.mul_add(*b, *sum));
    }
}

/// `sums[r][c] += sum_i a[i][r] * b[i][c]`: `a` and `b` give one row of at least R and [`WIDTH`] values per i.
#[inline(always)]
pub(crate) fn columns_by_rows<'a, const R: usize>(
    sums: &mut Tile<R>,
    a: impl Iterator<Item = &'a [f32]>,
    b: impl Iterator<Item = &'a [f32]>,
) {
    let mut tile = *sums;
    for (a, b) in a.zip(b) {
        let (a, b) = (&a[..R], &b[..WIDTH]);
        for r in 0..R {
            for c in 0..WIDTH {
                tile[r][c] = a[r].mul_add(b[c], tile[r][c]);
            }
        }
    }
    *sums = tile;
}

/// Calls `$f::<R>($args)` with R = `$rows`, 1 to [`HEIGHT`].
macro_rules! by_height {
    ($rows:expr, $f:ident, $($arg:expr),*) => {
        match $rows {
            1 => $f::<1>($($arg),*),
            2 => $f::<2>($($arg),*),
            3 => $f::<3>($($arg),*),
            4 => $f::<4>($($arg),*),
            5 => $f::<5>($($arg),*),
            _ => $f::<6>($($arg),*),
        }
    };
}
pub(crate) use by_height;

/// A right operand (inner, columns) in strips of [`WIDTH`] columns.
#[derive(Default)]
pub(crate) struct Strips {
    values: Vec<f32>,
    inner: usize,
    columns: usize,
}

impl Strips {
    /// From rows (inner, columns).
    pub fn of_rows(x: &[f32], columns: usize) -> Self {
        let mut strips = Self::default();
        strips.load(x, columns);
        strips
    }

    /// Takes other rows (inner, columns) into the same memory. What then stands in missing columns does not matter:
    /// it meets no column that is kept.
    fn load(&mut self, x: &[f32], columns: usize) {
        let inner = x.len() / columns.max(1);
        self.values.resize(columns.div_ceil(WIDTH) * WIDTH * inner, 0.0);
        for (i, row) in x.chunks_exact(columns.max(1)).enumerate() {
            let (full, rest) = row.as_chunks::<WIDTH>();
            for (strip, part) in full.iter().enumerate() {
                self.values[(strip * inner + i) * WIDTH..][..WIDTH].copy_from_slice(part);
            }
            if !rest.is_empty() {
                self.values[(full.len() * inner + i) * WIDTH..][..rest.len()].copy_from_slice(rest);
            }
        }
        (self.inner, self.columns) = (inner, columns);
    }

    /// From the transpose of rows (columns, inner).
    pub fn of_transposed(x: &[f32], inner: usize) -> Self {
        Self::of_columns(x.chunks_exact(inner.max(1)), inner, x.len() / inner.max(1))
    }

    /// From its columns, each of length `inner`.
    pub fn of_columns<'a>(x: impl Iterator<Item = &'a [f32]>, inner: usize, columns: usize) -> Self {
        let mut values = vec![0f32; columns.div_ceil(WIDTH) * WIDTH * inner];
        for (column, x) in x.take(columns).enumerate() {
            let out = &mut values[column / WIDTH * WIDTH * inner + column % WIDTH..];
            out.iter_mut().step_by(WIDTH).zip(x).for_each(|(out, &x)| *out = x);
        }
        Self { values, inner, columns }
    }

    /// Columns `strip * WIDTH` and on: (inner, WIDTH).
    pub fn strip(&self, strip: usize) -> &[f32] {
        &self.values[strip * self.inner * WIDTH..(strip + 1) * self.inner * WIDTH]
    }

    /// `out += a self`: a (rows, inner), out (rows, columns), on the calling thread.
    pub fn multiply(&self, a: &[f32], out: &mut [f32]) {
        let (k, n) = (self.inner, self.columns);
        for start in (0..k).step_by(DEPTH) {
            let depth = start..(start + DEPTH).min(k);
            for strip in 0..n.div_ceil(WIDTH) {
                let b = &self.strip(strip)[depth.start * WIDTH..depth.end * WIDTH];
                for (a, out) in a.chunks(HEIGHT * k).zip(out.chunks_mut(HEIGHT * n)) {
                    let out = &mut out[strip * WIDTH..];
                    by_height!(a.len() / k, multiply_tile, a, k, depth.clone(), b, out, n);
                }
            }
        }
    }

    /// `out += a^T self`: a (inner, p), out (p, columns).
    fn add_transposed_product(&self, a: &[f32], p: usize, out: &mut [f32]) {
        let q = self.columns;
        for strip in 0..q.div_ceil(WIDTH) {
            let b = self.strip(strip);
            for (at, out) in (0..p).step_by(HEIGHT).zip(out.chunks_mut(HEIGHT * q)) {
                let out = &mut out[strip * WIDTH..];
                by_height!(HEIGHT.min(p - at), transposed_tile, &a[at..], b, p, q, out);
            }
        }
    }
}

/// One tile of [`Strips::multiply`]: `out` starts at the tile's first column.
#[inline(always)]
fn multiply_tile<const R: usize>(
    a: &[f32],
    k: usize,
    depth: std::ops::Range<usize>,
    b: &[f32],
    out: &mut [f32],
    n: usize,
) {
    let rows = std::array::from_fn(|r| &a[r * k..][depth.clone()]);
    update_tile::<R>(out, n, |sums| rows_by_strip(sums, rows, b));
}

/// Lets `f` change the tile at the start of `out`, rows of which are `n` apart; columns past the end are left out.
#[inline(always)]
pub(crate) fn update_tile<const R: usize>(out: &mut [f32], n: usize, f: impl FnOnce(&mut Tile<R>)) {
    let mut sums = [[0f32; WIDTH]; R];
    let width = (out.len() - (R - 1) * n).min(WIDTH);
    if width == WIDTH {
        for (r, sums) in sums.iter_mut().enumerate() {
            sums.copy_from_slice(&out[r * n..][..WIDTH]);
        }
    } else {
        for (r, sums) in sums.iter_mut().enumerate() {
            sums[..width].copy_from_slice(&out[r * n..][..width]);
        }
    }
    f(&mut sums);
    if width == WIDTH {
        for (r, sums) in sums.iter().enumerate() {
            out[r * n..][..WIDTH].copy_from_slice(sums);
        }
    } else {
        for (r, sums) in sums.iter().enumerate() {
            out[r * n..][..width].copy_from_slice(&sums[..width]);
        }
    }
}

/// `a b` for every row of a (rows, inner) -> (rows, columns). Rows start as `start` gives them (zeros or a bias).
pub(crate) fn product(a: &[f32], b: &Strips, bias: Option<&[f32]>) -> Vec<f32> {
    let (k, n) = (b.inner, b.columns);
    let rows = a.len() / k.max(1);
    let task = if rows * n * k <= SERIAL { rows.max(1) } else { TASK };
    fill(rows * n, task * n, |i, out| {
        if let Some(bias) = bias {
            out.chunks_exact_mut(n).for_each(|row| row.copy_from_slice(bias));
        }
        let from = i * task * k;
        b.multiply(&a[from..from + out.len() / n * k], out);
    })
}

/// `a^T b`: a (rows, p), b (rows, q) -> (p, q), summed in parts of [`PART`] rows.
pub(crate) fn transposed_product(a: &[f32], b: &[f32], p: usize, q: usize) -> Vec<f32> {
    let parts: Vec<Vec<f32>> = a
        .par_chunks((PART * p).max(1))
        .zip(b.par_chunks((PART * q).max(1)))
        .map(|(a, b)| {
            let (mut out, mut strips) = (vec![0f32; p * q], Strips::default());
            for (a, b) in a.chunks(BLOCK * p).zip(b.chunks(BLOCK * q)) {
                strips.load(b, q);
                strips.add_transposed_product(a, p, &mut out);
            }
            out
        })
        .collect();
    let mut parts = parts.into_iter();
    let mut sum = parts.next().unwrap_or_else(|| vec![0f32; p * q]);
    parts.for_each(|part| sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x));
    sum
}

/// One tile of [`Strips::add_transposed_product`]: `a` starts at the tile's first row of `out`, `out` at the tile.
#[inline(always)]
fn transposed_tile<const R: usize>(a: &[f32], b: &[f32], p: usize, q: usize, out: &mut [f32]) {
    update_tile::<R>(out, q, |sums| columns_by_rows(sums, a.chunks(p), b.chunks_exact(WIDTH)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};

    fn draw(what: &str, n: usize) -> Vec<f32> {
        let mut draws = stream(1, Purpose::World, &[what.into()]);
        (0..n).map(|_| draws.normal() as f32).collect()
    }

    /// Inner sizes around the depth of a strip, columns around its width, rows around the height of a tile.
    const SIZES: [(usize, usize, usize); 7] =
        [(1, 1, 1), (5, 7, 3), (6, 16, 16), (49, 33, 17), (13, 256, 40), (100, 300, 64), (7, 515, 8)];

    #[test]
    fn products_are_those_of_f64() {
        for (m, k, n) in SIZES {
            let (a, b, bias) = (draw("a", m * k), draw("b", k * n), draw("bias", n));
            let got = product(&a, &Strips::of_rows(&b, n), Some(&bias));
            let transposed: Vec<f32> = (0..n * k).map(|i| b[i % k * n + i / k]).collect();
            assert_eq!(got, product(&a, &Strips::of_transposed(&transposed, k), Some(&bias)));
            for (i, got) in got.iter().enumerate() {
                let terms = (0..k).map(|x| f64::from(a[i / n * k + x]) * f64::from(b[x * n + i % n]));
                let want = f64::from(bias[i % n]) + terms.sum::<f64>();
                assert!((f64::from(*got) - want).abs() < 1e-4, "{m} {k} {n}: {got} {want}");
            }
        }
    }

    #[test]
    fn transposed_products_are_those_of_f64() {
        for (p, m, q) in SIZES.into_iter().chain([(9, 1300, 20)]) {
            let (a, b) = (draw("a", m * p), draw("b", m * q));
            for (i, got) in transposed_product(&a, &b, p, q).iter().enumerate() {
                let terms = (0..m).map(|x| f64::from(a[x * p + i / q]) * f64::from(b[x * q + i % q]));
                let want: f64 = terms.sum();
                assert!((f64::from(*got) - want).abs() < 3e-4, "{p} {m} {q}: {got} {want}");
            }
        }
    }

    #[test]
    fn a_row_alone_gives_the_bits_it_gives_in_a_batch() {
        let (m, k, n) = (101, 300, 40);
        let (a, b) = (draw("a", m * k), Strips::of_rows(&draw("b", k * n), n));
        let all = product(&a, &b, None);
        for rows in [0..1, 3..5, 40..101] {
            let part = product(&a[rows.start * k..rows.end * k], &b, None);
            assert_eq!(part, all[rows.start * n..rows.end * n]);
        }
    }
}
