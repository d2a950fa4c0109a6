//! The arithmetic between the matrix products: each function has an exact backward beside it.
//!
//! The model does not use candle's automatic differentiation: several of its fused operations cut gradients
//! without an error. Forward and backward are both written here and checked by finite differences
//! (below, and `tests/model.rs`). Everything is f32 on the CPU with a fixed order of every sum, so that neither the thread
//! count nor the vector width of the machine can change a bit; exponentials are our own polynomial for the
//! same reason.

use super::matmul::{Strips, product, transposed_product};
use super::ops::Rule;
use super::optimizer::State;
use anyhow::{Result, bail};
use candle_core::{CpuStorage, DType, Device, InplaceOp2, InplaceOp3, Layout, Storage, StorageRef, Tensor};
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::ops::Deref;

/// Rows handled by one task; fixed, so that partial sums do not depend on the number of threads.
const ROWS: usize = 128;

/// A borrowed f32 slice of a contiguous CPU tensor.
pub(crate) struct View<'a> {
    storage: StorageRef<'a>,
    start: usize,
    len: usize,
}

impl Deref for View<'_> {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.start..self.start + self.len],
            _ => &[],
        }
    }
}

/// Borrows the values of a contiguous f32 CPU tensor.
pub(crate) fn view(t: &Tensor) -> Result<View<'_>> {
    let (storage, layout) = t.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("tensor {:?} is not contiguous", t.shape())
    };
    if t.dtype() != DType::F32 || !t.device().is_cpu() {
        bail!("expected an f32 tensor on the CPU, found {:?} on {:?}", t.dtype(), t.device());
    }
    Ok(View { storage, start, len: end - start })
}

/// A tensor that owns `values`.
pub(crate) fn tensor(values: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// `len` values that `f(index of the chunk, chunk of zeros)` writes, `chunk` values at a time, in parallel.
pub(crate) fn fill(len: usize, chunk: usize, f: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    fill_zipped(len, chunk, rayon::iter::repeat_n((), len.div_ceil(chunk.max(1))), |i, out, ()| f(i, out))
}

/// As [`fill`], and chunk i also gets the i-th item of `with`, which has as many items as there are chunks.
#[expect(unsafe_code, reason = "large results are not zeroed twice over, and not by one thread")]
pub(crate) fn fill_zipped<T: Send>(
    len: usize,
    chunk: usize,
    with: impl IndexedParallelIterator<Item = T>,
    f: impl Fn(usize, &mut [f32], T) + Sync,
) -> Vec<f32> {
    let mut values: Vec<f32> = Vec::with_capacity(len);
    let parts = values.spare_capacity_mut()[..len].par_chunks_mut(chunk.max(1));
    assert_eq!(parts.len(), with.len(), "one item per chunk");
    parts.zip(with).enumerate().for_each(|(i, (part, item))| {
        part.iter_mut().for_each(|x| *x = MaybeUninit::new(0.0));
        // SAFETY: every value of the part has just been written.
        f(i, unsafe { part.assume_init_mut() }, item);
    });
    // SAFETY: the parts cover the first `len` values and all of them were written.
    unsafe { values.set_len(len) };
    values
}

/// `e^x` by range reduction and a polynomial: relative error below 2e-7, exactly the same on every machine.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding and subtracting it rounds to an integer
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND; // its low bits hold the integer
    let n = shifted - ROUND;
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = r.mul_add(1.987_569_1e-4, 1.398_2e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    let p = p.mul_add(r * r, r) + 1.0;
    p * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Sum of products in eight interleaved lanes: vectorised, and the same order everywhere.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    let (mut a8, mut b8) = (a.chunks_exact(8), b.chunks_exact(8));
    for (a, b) in (&mut a8).zip(&mut b8) {
        for lane in 0..8 {
            lanes[lane] = a[lane].mul_add(b[lane], lanes[lane]);
        }
    }
    let tail: f32 = a8.remainder().iter().zip(b8.remainder()).map(|(a, b)| a * b).sum();
    ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7])) + tail
}

/// `y += a * x`.
#[inline(always)]
pub(crate) fn axpy(y: &mut [f32], a: f32, x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = a.mul_add(*x, *y);
    }
}

/// The values of an operand that is changed in place.
fn values_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> candle_core::Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        _ => candle_core::bail!("expected a contiguous f32 tensor, found dimensions {:?}", layout.dims()),
    }
}

/// The values of an operand that is only read.
fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => candle_core::bail!("expected a contiguous f32 tensor, found dimensions {:?}", layout.dims()),
    }
}

struct AddInPlace {
    /// Every row of the destination gets the whole source (a bias); otherwise shapes are equal.
    row: bool,
}

impl InplaceOp2 for AddInPlace {
    fn name(&self) -> &'static str {
        "add_in_place"
    }
    fn cpu_fwd(
        &self,
        dst: &mut CpuStorage,
        dst_layout: &Layout,
        src: &CpuStorage,
        src_layout: &Layout,
    ) -> candle_core::Result<()> {
        let (dst, src) = (values_mut(dst, dst_layout)?, values(src, src_layout)?);
        let width = if self.row { src.len() } else { dst.len().min(1 << 14) }.max(1);
        let task = if self.row { width * ROWS } else { width };
        dst.par_chunks_mut(task).enumerate().for_each(|(chunk, dst)| {
            if self.row {
                dst.chunks_mut(width).for_each(|row| row.iter_mut().zip(src).for_each(|(d, s)| *d += s));
            } else {
                let src = &src[chunk * task..chunk * task + dst.len()];
                dst.iter_mut().zip(src).for_each(|(d, s)| *d += s);
            }
        });
        Ok(())
    }
}

/// `dst += src`, in place; equal shapes. `dst` must not share its storage with a value still in use.
pub(crate) fn add_assign(dst: &Tensor, src: &Tensor) -> Result<()> {
    Ok(dst.inplace_op2(src, &AddInPlace { row: false })?)
}

/// `x w^T + b`: x (N, I), w (O, I), b (O) -> (N, O).
pub(crate) fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    let (o, i) = w.dims2()?;
    let bias = b.map(view).transpose()?;
    let w = Strips::of_transposed(&view(w)?, i);
    tensor(product(&view(x)?, &w, bias.as_deref()), &[x.dim(0)?, o])
}

/// Gradient of a linear map's input: dy (N, O), w (O, I) -> (N, I).
pub(crate) fn linear_backward_input(dy: &Tensor, w: &Tensor) -> Result<Tensor> {
    let i = w.dim(1)?;
    tensor(product(&view(dy)?, &Strips::of_rows(&view(w)?, i), None), &[dy.dim(0)?, i])
}

/// Adds the gradient of a linear map's weight: `sum (O, I) += dy^T x`, dy (N, O), x (N, I).
pub(crate) fn linear_backward_weight(dy: &Tensor, x: &Tensor, sum: &Tensor) -> Result<()> {
    let (o, i) = (dy.dim(1)?, x.dim(1)?);
    add_assign(sum, &tensor(transposed_product(&view(dy)?, &view(x)?, o, i), &[o, i])?)
}

/// One step of an update of AdamW over a tensor, elementwise and in place.
enum UpdatePart<'a> {
    First(&'a Rule),
    Second(&'a Rule),
    Weight(&'a Rule),
}

impl UpdatePart<'_> {
    fn run(&self, dst: &mut [f32], a: &[f32], b: &[f32]) {
        let all = dst.par_iter_mut().zip(a.par_iter().zip(b)).with_min_len(4096);
        match *self {
            UpdatePart::First(r) => all.for_each(|(m, (g, _))| *m += (1.0 - r.beta1) * (g * r.scale - *m)),
            UpdatePart::Second(r) => all.for_each(|(v, (g, _))| {
                let g = g * r.scale;
                *v += (1.0 - r.beta2) * (g * g - *v);
            }),
            UpdatePart::Weight(r) => all.for_each(|(x, (m, v))| {
                *x = *x * r.keep - r.step * m / ((v * r.root).sqrt() + r.epsilon);
            }),
        }
    }
}

impl InplaceOp3 for UpdatePart<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }
    fn cpu_fwd(
        &self,
        dst: &mut CpuStorage,
        dst_layout: &Layout,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> candle_core::Result<()> {
        self.run(values_mut(dst, dst_layout)?, values(a, a_layout)?, values(b, b_layout)?);
        Ok(())
    }
}

/// One update of AdamW, in place.
pub(crate) fn adamw(x: &Tensor, gradient: &Tensor, state: &State, rule: &Rule) -> Result<()> {
    let State { first, second, .. } = state;
    first.inplace_op3(gradient, gradient, &UpdatePart::First(rule))?;
    second.inplace_op3(gradient, gradient, &UpdatePart::Second(rule))?;
    Ok(x.inplace_op3(first, second, &UpdatePart::Weight(rule))?)
}

/// Sum of squares in f64, in order.
pub(crate) fn sum_squares(x: &Tensor) -> Result<f64> {
    Ok(view(x)?.iter().map(|&g| f64::from(g) * f64::from(g)).sum())
}

/// Sum over rows: (N, D) -> (D), in blocks of fixed size.
pub(crate) fn sum_rows(x: &Tensor) -> Result<Tensor> {
    let d = x.dim(1)?;
    let parts: Vec<Vec<f32>> = view(x)?.par_chunks(d * ROWS).map(|block| sum_block(block, d)).collect();
    tensor(sum_block(&parts.concat(), d), &[d])
}

fn sum_block(block: &[f32], d: usize) -> Vec<f32> {
    let mut sum = vec![0f32; d];
    block.chunks_exact(d).for_each(|row| axpy(&mut sum, 1.0, row));
    sum
}

/// Root mean square norm over the last axis: x (N, D), w (D) -> (N, D).
pub(crate) fn rms_norm(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    let d = w.dim(0)?;
    let (xs, ws) = (view(x)?, view(w)?);
    let y = fill_zipped(xs.len(), d * ROWS, xs.par_chunks(d * ROWS), |_, y, x| {
        for (y, x) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
            let r = inverse_rms(x, eps);
            y.iter_mut().zip(x).zip(ws.iter()).for_each(|((y, x), w)| *y = x * r * w);
        }
    });
    tensor(y, x.dims())
}

fn inverse_rms(x: &[f32], eps: f64) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps as f32).sqrt()
}

/// Backward of [`rms_norm`]: gradients of x (N, D) and of w (D).
pub(crate) fn rms_norm_backward(x: &Tensor, w: &Tensor, eps: f64, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    let d = w.dim(0)?;
    let (xs, ws, gs) = (view(x)?, view(w)?, view(dy)?);
    let mut parts = vec![0f32; xs.len().div_ceil(d * ROWS) * d];
    let rows = xs.par_chunks(d * ROWS).zip(gs.par_chunks(d * ROWS)).zip(parts.par_chunks_mut(d));
    let dx = fill_zipped(xs.len(), d * ROWS, rows, |_, dx, ((x, g), dw)| {
        let mut gw = vec![0f32; d];
        for (dx, (x, g)) in dx.chunks_exact_mut(d).zip(x.chunks_exact(d).zip(g.chunks_exact(d))) {
            let r = inverse_rms(x, eps);
            gw.iter_mut().zip(g).zip(ws.iter()).for_each(|((gw, g), w)| *gw = g * w);
            dw.iter_mut().zip(g).zip(x).for_each(|((dw, g), x)| *dw = (g * r).mul_add(*x, *dw));
            let c = dot(&gw, x) * r * r * r / d as f32;
            dx.iter_mut().zip(&gw).zip(x).for_each(|((dx, gw), x)| *dx = gw * r - x * c);
        }
    });
    Ok((tensor(dx, x.dims())?, tensor(sum_block(&parts, d), &[d])?))
}

/// Cosines and sines of rotary embeddings, one row per token: (N, head size / 2) each.
#[derive(Clone, Debug)]
pub(crate) struct Rotary {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
    pub half: usize,
}

impl Rotary {
    /// From angles (N, half).
    pub fn new(angles: &[f64], half: usize) -> Self {
        let each = |f: fn(f64) -> f64| angles.par_iter().with_min_len(1024).map(|&a| f(a) as f32).collect();
        let (cos, sin) = (each(libm::cos), each(libm::sin));
        Self { cos, sin, half }
    }
}

/// Rotates every head of x (N, heads * head size) by its row's angles (`sign` 1), or back (`sign` -1, which is
/// also the backward). Halves of a head are paired, as in transformers.
pub(crate) fn rotate(x: &Tensor, rotary: &Rotary, sign: f32) -> Result<Tensor> {
    let (width, half) = (x.dim(1)?, rotary.half);
    let xs = view(x)?;
    let angles = rotary.cos.par_chunks(half * ROWS).zip(rotary.sin.par_chunks(half * ROWS));
    let rows = xs.par_chunks(width * ROWS).zip(angles);
    let y = fill_zipped(xs.len(), width * ROWS, rows, |_, y, (x, (cos, sin))| {
        let angles = cos.chunks_exact(half).zip(sin.chunks_exact(half));
        for ((y, x), (cos, sin)) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(angles) {
            for (y, x) in y.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half)) {
                let ((ya, yb), (xa, xb)) = (y.split_at_mut(half), x.split_at(half));
                let pairs = xa.iter().zip(xb).zip(cos.iter().zip(sin));
                for ((ya, yb), ((xa, xb), (cos, sin))) in ya.iter_mut().zip(yb).zip(pairs) {
                    let s = sin * sign;
                    *ya = xa * cos - xb * s;
                    *yb = xb * cos + xa * s;
                }
            }
        }
    });
    tensor(y, x.dims())
}

const ELEMENTS: usize = 1 << 13;

/// `silu(gate) * up`, elementwise.
pub(crate) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let (gs, us) = (view(gate)?, view(up)?);
    let inputs = gs.par_chunks(ELEMENTS).zip(us.par_chunks(ELEMENTS));
    let y = fill_zipped(gs.len(), ELEMENTS, inputs, |_, y, (g, u)| {
        y.iter_mut().zip(g).zip(u).for_each(|((y, g), u)| *y = g * sigmoid(*g) * u);
    });
    tensor(y, gate.dims())
}

/// Backward of [`swiglu`]: gradients of gate and up.
pub(crate) fn swiglu_backward(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    let (gs, us, ds) = (view(gate)?, view(up)?, view(dy)?);
    let mut du = vec![0f32; us.len()];
    let inputs = gs.par_chunks(ELEMENTS).zip(us.par_chunks(ELEMENTS)).zip(ds.par_chunks(ELEMENTS));
    let inputs = inputs.zip(du.par_chunks_mut(ELEMENTS));
    let dg = fill_zipped(gs.len(), ELEMENTS, inputs, |_, dg, (((g, u), d), du)| {
        for (((dg, du), (g, u)), d) in dg.iter_mut().zip(du).zip(g.iter().zip(u)).zip(d) {
            let s = sigmoid(*g);
            *du = d * g * s;
            *dg = d * u * s * (1.0 + g * (1.0 - s));
        }
    });
    Ok((tensor(dg, gate.dims())?, tensor(du, up.dims())?))
}

/// Gaussian error linear unit (exact, with the error function).
pub(crate) fn gelu(x: &Tensor) -> Result<Tensor> {
    let xs = view(x)?;
    let y = fill_zipped(xs.len(), ELEMENTS, xs.par_chunks(ELEMENTS), |_, y, x| {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = x * normal_cdf(x));
    });
    tensor(y, x.dims())
}

/// Backward of [`gelu`].
pub(crate) fn gelu_backward(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let (xs, gs) = (view(x)?, view(dy)?);
    let inputs = xs.par_chunks(ELEMENTS).zip(gs.par_chunks(ELEMENTS));
    let dx = fill_zipped(xs.len(), ELEMENTS, inputs, |_, dx, (x, g)| {
        for ((dx, &x), g) in dx.iter_mut().zip(x).zip(g) {
            *dx = g * (normal_cdf(x) + x * exp(-0.5 * x * x) * 0.398_942_3);
        }
    });
    tensor(dx, x.dims())
}

fn normal_cdf(x: f32) -> f32 {
    0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// The error function by a ratio of polynomials: absolute error below 4e-7.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let z = x * x;
    let p = z.mul_add(-2.726_142_3e-10, 2.770_681_4e-8);
    let p = p.mul_add(z, -2.101_024e-6);
    let p = p.mul_add(z, -5.692_506_5e-5);
    let p = p.mul_add(z, -7.349_906_3e-4);
    let p = p.mul_add(z, -2.954_6e-3);
    let p = p.mul_add(z, -1.609_603_3e-2);
    let q = z.mul_add(-1.456_607_2e-5, -2.133_740_6e-4);
    let q = q.mul_add(z, -1.682_827e-3);
    let q = q.mul_add(z, -7.373_329e-3);
    let q = q.mul_add(z, -1.426_473_9e-2);
    x * p / q
}

/// Rows of x (N, D) by index -> (M, D).
pub(crate) fn gather_rows(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let d = x.dim(1)?;
    let xs = view(x)?;
    let y = fill_zipped(rows.len() * d, d * ROWS, rows.par_chunks(ROWS), |_, y, rows| {
        for (y, &row) in y.chunks_exact_mut(d).zip(rows) {
            y.copy_from_slice(&xs[row as usize * d..(row as usize + 1) * d]);
        }
    });
    tensor(y, &[rows.len(), d])
}

/// The rows of all parts, each (n, width), one after another: (N, width).
pub(crate) fn concatenate(parts: &[&[f32]], width: usize) -> Result<Tensor> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let starts: Vec<usize> =
        parts.iter().scan(0, |at, x| Some(std::mem::replace(at, *at + x.len()))).collect();
    let values = fill(len, width * ROWS, |i, out| {
        let mut at = i * width * ROWS;
        let mut part = starts.partition_point(|&start| start <= at) - 1;
        for out in out.chunks_mut(width) {
            while at >= starts[part] + parts[part].len() {
                part += 1;
            }
            out.copy_from_slice(&parts[part][at - starts[part]..][..out.len()]);
            at += out.len();
        }
    });
    tensor(values, &[len / width, width])
}

/// Rows that are written into a tensor in place.
struct IntoRows<'a> {
    rows: &'a [u32],
    /// They are added to what is there, or else replace it.
    add: bool,
}

impl InplaceOp2 for IntoRows<'_> {
    fn name(&self) -> &'static str {
        "into_rows"
    }
    fn cpu_fwd(
        &self,
        dst: &mut CpuStorage,
        dst_layout: &Layout,
        src: &CpuStorage,
        src_layout: &Layout,
    ) -> candle_core::Result<()> {
        let (dst, src, d) = (values_mut(dst, dst_layout)?, values(src, src_layout)?, src_layout.dims()[1]);
        for (src, &row) in src.chunks(d.max(1)).zip(self.rows) {
            let Some(dst) = dst.get_mut(row as usize * d..(row as usize + 1) * d) else {
                candle_core::bail!("row {row} is beyond the end of the tensor")
            };
            if self.add {
                axpy(dst, 1.0, src);
            } else {
                dst.copy_from_slice(src);
            }
        }
        Ok(())
    }
}

/// Adds the rows of dy (M, d) to `rows` of sum (n, d), in place and in order: the backward of [`gather_rows`].
pub(crate) fn scatter_rows_into(sum: &Tensor, dy: &Tensor, rows: &[u32]) -> Result<()> {
    Ok(sum.inplace_op2(dy, &IntoRows { rows, add: true })?)
}

/// Writes y (M, d) over `rows` of x (N, d), in place.
pub(crate) fn put_rows(x: &Tensor, y: &Tensor, rows: &[u32]) -> Result<()> {
    Ok(x.inplace_op2(y, &IntoRows { rows, add: false })?)
}

/// Runs `f` on one of the worker threads, where the parallel parts start without waking another thread first.
pub(crate) fn on_a_worker<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| f())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};

    pub(crate) fn draw(what: &str, shape: &[usize]) -> Tensor {
        let mut draws = stream(1, Purpose::World, &[what.into()]);
        let values = (0..shape.iter().product()).map(|_| draws.normal() as f32).collect();
        tensor(values, shape).unwrap()
    }

    pub(crate) fn values(t: &Tensor) -> Vec<f32> {
        view(t).unwrap().to_vec()
    }

    /// Compares the gradient of `sum(weights * f(x))` with central differences of `f` along a random direction.
    pub(crate) fn check_gradient(
        what: &str,
        x: &Tensor,
        weights: &Tensor,
        gradient: &Tensor,
        f: impl Fn(&Tensor) -> Result<Tensor>,
    ) {
        const STEP: f32 = 5e-3;
        let loss = |at: f32| {
            let moved = values(x).into_iter().zip(values(&draw("direction", x.dims())));
            let moved = tensor(moved.map(|(x, d)| x + at * d).collect(), x.dims()).unwrap();
            let y = values(&f(&moved).unwrap());
            y.iter().zip(values(weights)).map(|(y, w)| f64::from(*y) * f64::from(w)).sum::<f64>()
        };
        let slope = |h: f32| (loss(h) - loss(-h)) / (2.0 * f64::from(h));
        // Two steps cancel the error that grows with the square of the step.
        let got = (4.0 * slope(STEP) - slope(2.0 * STEP)) / 3.0;
        let terms = values(gradient).into_iter().zip(values(&draw("direction", x.dims())));
        let (mut want, mut size) = (0f64, 0f64);
        for (g, d) in terms {
            want += f64::from(g) * f64::from(d);
            size += (f64::from(g) * f64::from(d)).powi(2);
        }
        assert!(size > 0.0, "{what}: no gradient");
        assert!((got - want).abs() < 3e-3 * size.sqrt().max(want.abs()), "{what}: {got} is not {want}");
    }

    #[test]
    fn linear_has_its_gradients() {
        let (x, w, b, dy) =
            (draw("x", &[37, 20]), draw("w", &[9, 20]), draw("b", &[9]), draw("dy", &[37, 9]));
        let dx = linear_backward_input(&dy, &w).unwrap();
        check_gradient("x", &x, &dy, &dx, |x| linear(x, &w, Some(&b)));
        let dw = tensor(vec![0.0; 9 * 20], &[9, 20]).unwrap();
        linear_backward_weight(&dy, &x, &dw).unwrap();
        check_gradient("w", &w, &dy, &dw, |w| linear(&x, w, Some(&b)));
        check_gradient("b", &b, &dy, &sum_rows(&dy).unwrap(), |b| linear(&x, &w, Some(b)));
    }

    #[test]
    fn the_norm_has_its_gradients() {
        let (x, w, dy) = (draw("x", &[300, 12]), draw("w", &[12]), draw("dy", &[300, 12]));
        let (dx, dw) = rms_norm_backward(&x, &w, 1e-6, &dy).unwrap();
        check_gradient("x", &x, &dy, &dx, |x| rms_norm(x, &w, 1e-6));
        check_gradient("w", &w, &dy, &dw, |w| rms_norm(&x, w, 1e-6));
    }

    #[test]
    fn rotation_back_is_the_gradient_and_the_inverse() {
        let angles: Vec<f64> = (0..7 * 4).map(|i| 0.3 * f64::from(i)).collect();
        let rotary = Rotary::new(&angles, 4);
        let (x, dy) = (draw("x", &[7, 24]), draw("dy", &[7, 24]));
        let dx = rotate(&dy, &rotary, -1.0).unwrap();
        check_gradient("x", &x, &dy, &dx, |x| rotate(x, &rotary, 1.0));
        let there_and_back = rotate(&rotate(&x, &rotary, 1.0).unwrap(), &rotary, -1.0).unwrap();
        for (a, b) in values(&there_and_back).iter().zip(values(&x)) {
            assert!((a - b).abs() < 1e-6, "{a} {b}");
        }
    }

    #[test]
    fn activations_have_their_gradients() {
        let (g, u, dy) = (draw("g", &[5, 31]), draw("u", &[5, 31]), draw("dy", &[5, 31]));
        let (dg, du) = swiglu_backward(&g, &u, &dy).unwrap();
        check_gradient("gate", &g, &dy, &dg, |g| swiglu(g, &u));
        check_gradient("up", &u, &dy, &du, |u| swiglu(&g, u));
        check_gradient("gelu", &g, &dy, &gelu_backward(&g, &dy).unwrap(), gelu);
    }

    #[test]
    fn scattering_is_the_gradient_of_gathering() {
        let rows = [3, 0, 3, 19, 7, 3, 18];
        let (x, dy) = (draw("x", &[20, 6]), draw("dy", &[7, 6]));
        let dx = tensor(vec![0.0; 20 * 6], &[20, 6]).unwrap();
        scatter_rows_into(&dx, &dy, &rows).unwrap();
        check_gradient("rows", &x, &dy, &dx, |x| gather_rows(x, &rows));
        assert_eq!(values(&dx)[6..18], [0.0; 12], "rows that no index names");
    }

    #[test]
    fn parts_are_concatenated_whatever_their_lengths() {
        let parts: Vec<Vec<f32>> = [0, 2, 300, 0, 1].map(|rows| values(&draw("part", &[rows, 3]))).into();
        let slices: Vec<&[f32]> = parts.iter().map(Vec::as_slice).collect();
        let all = concatenate(&slices, 3).unwrap();
        assert_eq!((all.dims(), values(&all)), (&[303, 3][..], parts.concat()));
    }

    #[test]
    fn the_error_function_is_accurate() {
        let worst = (-60_000..60_000).map(|i| {
            let x = i as f32 * 1e-4;
            (f64::from(erf(x)) - libm::erf(x.into())).abs()
        });
        assert!(worst.fold(0.0, f64::max) < 4e-7);
    }

    #[test]
    fn a_row_of_a_product_does_not_depend_on_the_rows_beside_it() {
        let draw = |name: &str, n: usize, width: usize| {
            let mut draws = crate::rng::stream(1, crate::rng::Purpose::World, &[name.into()]);
            tensor((0..n * width).map(|_| draws.normal() as f32).collect(), &[n, width]).unwrap()
        };
        for (inner, outer) in
            [(64, 64), (64, 32), (8, 3), (600, 3), (1176, 64), (1176, 20), (320, 128), (600, 300)]
        {
            let (x, w) = (draw("x", 300, inner), draw("w", outer, inner));
            let all = linear(&x, &w, None).unwrap();
            for rows in [1, 2, 3, 4, 7, 8, 9, 20, 63, 64, 65, 66, 85, 130, 299] {
                let part = linear(&x.narrow(0, 1, rows).unwrap(), &w, None).unwrap();
                let (all, part) = (view(&all).unwrap(), view(&part).unwrap());
                assert_eq!(&all[outer..][..rows * outer], &part[..], "{inner} {outer}: {rows} rows");
            }
        }
    }

    #[test]
    fn exp_is_accurate_over_the_whole_range() {
        let mut worst = 0f64;
        for i in -86_000..88_000 {
            let x = i as f32 * 1e-3;
            let want = libm::exp(x.into());
            worst = worst.max(((exp(x) as f64 - want) / want).abs());
        }
        assert!(worst < 3e-7, "{worst}");
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-200.0) < 1e-37 && exp(200.0).is_finite());
    }
}
