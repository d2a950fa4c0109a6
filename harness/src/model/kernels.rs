//! The arithmetic between the matrix products: each function has an exact backward beside it.
//!
//! The model does not use candle's automatic differentiation: several of its fused operations cut gradients
//! without an error. Forward and backward are both written here and checked by finite differences
//! (`tests/model.rs`). Everything is f32 on the CPU with a fixed order of every sum, so that neither the thread
//! count nor the vector width of the machine can change a bit; exponentials are our own polynomial for the
//! same reason.

use anyhow::{Result, bail};
use candle_core::{CpuStorage, DType, Device, InplaceOp2, Layout, Storage, StorageRef, Tensor};
use rayon::prelude::*;
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

/// `e^x` by range reduction and a polynomial: relative error below 2e-7, exactly the same on every machine.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding and subtracting it rounds to an integer
    let x = x.clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = r.mul_add(1.987_569_1e-4, 1.398_2e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    let p = p.mul_add(r * r, r) + 1.0;
    p * f32::from_bits((((n as i32) + 127) << 23) as u32)
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
        let (Some((d0, d1)), Some((s0, s1))) =
            (dst_layout.contiguous_offsets(), src_layout.contiguous_offsets())
        else {
            candle_core::bail!("add_in_place needs contiguous tensors")
        };
        let (CpuStorage::F32(dst), CpuStorage::F32(src)) = (dst, src) else {
            candle_core::bail!("add_in_place needs f32 tensors")
        };
        let (dst, src) = (&mut dst[d0..d1], &src[s0..s1]);
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
    let y = matmul_rows(x, w)?;
    if let Some(b) = b {
        y.inplace_op2(b, &AddInPlace { row: true })?;
    }
    Ok(y)
}

/// `x w^T`: x (N, I), w (O, I) -> (N, O), each row the same, bit for bit, whatever the number of rows.
///
/// The gemm crate adds in another order where a result has one row or at most 256 numbers, and cuts long sums
/// differently where both sides of the result are at most 64; few rows are therefore filled up with zeros.
pub(crate) fn matmul_rows(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let (rows, inner) = x.dims2()?;
    let outer = w.dim(0)?;
    let cut_alike = if outer <= 64 && inner > 512 { 65 } else { 2 };
    let least = cut_alike.max(256 / outer.max(1) + 1);
    if rows >= least {
        return Ok(x.matmul(&w.t()?)?);
    }
    let filled = x.pad_with_zeros(0, 0, least - rows)?.matmul(&w.t()?)?;
    Ok(filled.narrow(0, 0, rows)?.contiguous()?)
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
    let mut y = vec![0f32; xs.len()];
    y.par_chunks_mut(d * ROWS).zip(xs.par_chunks(d * ROWS)).for_each(|(y, x)| {
        for (y, x) in y.chunks_mut(d).zip(x.chunks(d)) {
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
    let mut dx = vec![0f32; xs.len()];
    let parts: Vec<Vec<f32>> = dx
        .par_chunks_mut(d * ROWS)
        .zip(xs.par_chunks(d * ROWS).zip(gs.par_chunks(d * ROWS)))
        .map(|(dx, (x, g))| {
            let (mut dw, mut gw) = (vec![0f32; d], vec![0f32; d]);
            for (dx, (x, g)) in dx.chunks_mut(d).zip(x.chunks(d).zip(g.chunks(d))) {
                let r = inverse_rms(x, eps);
                for i in 0..d {
                    gw[i] = g[i] * ws[i];
                    dw[i] = (g[i] * r).mul_add(x[i], dw[i]);
                }
                let c = dot(&gw, x) * r * r * r / d as f32;
                for i in 0..d {
                    dx[i] = gw[i] * r - x[i] * c;
                }
            }
            dw
        })
        .collect();
    Ok((tensor(dx, x.dims())?, tensor(sum_block(&parts.concat(), d), &[d])?))
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
        let (cos, sin) = angles.iter().map(|&a| (libm::cos(a) as f32, libm::sin(a) as f32)).unzip();
        Self { cos, sin, half }
    }
}

/// Rotates every head of x (N, heads * head size) by its row's angles (`sign` 1), or back (`sign` -1, which is
/// also the backward). Halves of a head are paired, as in transformers.
pub(crate) fn rotate(x: &Tensor, rotary: &Rotary, sign: f32) -> Result<Tensor> {
    let (width, half) = (x.dim(1)?, rotary.half);
    let xs = view(x)?;
    let mut y = vec![0f32; xs.len()];
    y.par_chunks_mut(width * ROWS).zip(xs.par_chunks(width * ROWS)).enumerate().for_each(
        |(block, (y, x))| {
            for (i, (y, x)) in y.chunks_mut(width).zip(x.chunks(width)).enumerate() {
                let at = (block * ROWS + i) * half;
                let (cos, sin) = (&rotary.cos[at..at + half], &rotary.sin[at..at + half]);
                for (y, x) in y.chunks_mut(2 * half).zip(x.chunks(2 * half)) {
                    let ((ya, yb), (xa, xb)) = (y.split_at_mut(half), x.split_at(half));
                    for j in 0..half {
                        let s = sin[j] * sign;
                        ya[j] = xa[j] * cos[j] - xb[j] * s;
                        yb[j] = xb[j] * cos[j] + xa[j] * s;
                    }
                }
            }
        },
    );
    tensor(y, x.dims())
}

const ELEMENTS: usize = 1 << 13;

/// `silu(gate) * up`, elementwise.
pub(crate) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let (gs, us) = (view(gate)?, view(up)?);
    let mut y = vec![0f32; gs.len()];
    y.par_chunks_mut(ELEMENTS).zip(gs.par_chunks(ELEMENTS).zip(us.par_chunks(ELEMENTS))).for_each(
        |(y, (g, u))| {
            for i in 0..y.len() {
                y[i] = g[i] * sigmoid(g[i]) * u[i];
            }
        },
    );
    tensor(y, gate.dims())
}

/// Backward of [`swiglu`]: gradients of gate and up.
pub(crate) fn swiglu_backward(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    let (gs, us, ds) = (view(gate)?, view(up)?, view(dy)?);
    let (mut dg, mut du) = (vec![0f32; gs.len()], vec![0f32; gs.len()]);
    dg.par_chunks_mut(ELEMENTS)
        .zip(du.par_chunks_mut(ELEMENTS))
        .zip(gs.par_chunks(ELEMENTS).zip(us.par_chunks(ELEMENTS)))
        .zip(ds.par_chunks(ELEMENTS))
        .for_each(|(((dg, du), (g, u)), d)| {
            for i in 0..d.len() {
                let s = sigmoid(g[i]);
                du[i] = d[i] * g[i] * s;
                dg[i] = d[i] * u[i] * s * (1.0 + g[i] * (1.0 - s));
            }
        });
    Ok((tensor(dg, gate.dims())?, tensor(du, up.dims())?))
}

/// Gaussian error linear unit (exact, with the error function).
pub(crate) fn gelu(x: &Tensor) -> Result<Tensor> {
    let y = view(x)?.par_iter().with_min_len(1024).map(|&x| x * normal_cdf(x)).collect();
    tensor(y, x.dims())
}

/// Backward of [`gelu`].
pub(crate) fn gelu_backward(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let (xs, gs) = (view(x)?, view(dy)?);
    let slope = |x: f32| normal_cdf(x) + x * exp(-0.5 * x * x) * 0.398_942_3;
    let dx = xs.par_iter().zip(gs.par_iter()).with_min_len(1024).map(|(&x, &g)| g * slope(x)).collect();
    tensor(dx, x.dims())
}

fn normal_cdf(x: f32) -> f32 {
    0.5 * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// Rows of x (N, D) by index -> (M, D).
pub(crate) fn gather_rows(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let d = x.dim(1)?;
    let xs = view(x)?;
    let mut y = vec![0f32; rows.len() * d];
    y.par_chunks_mut(d * ROWS).zip(rows.par_chunks(ROWS)).for_each(|(y, rows)| {
        for (y, &row) in y.chunks_mut(d).zip(rows) {
            y.copy_from_slice(&xs[row as usize * d..(row as usize + 1) * d]);
        }
    });
    tensor(y, &[rows.len(), d])
}

/// Backward of [`gather_rows`]: adds the rows of dy (M, D) into n rows, in order.
pub(crate) fn scatter_rows(dy: &Tensor, rows: &[u32], n: usize) -> Result<Tensor> {
    let d = dy.dim(1)?;
    let gs = view(dy)?;
    let mut dx = vec![0f32; n * d];
    for (g, &row) in gs.chunks(d).zip(rows) {
        axpy(&mut dx[row as usize * d..(row as usize + 1) * d], 1.0, g);
    }
    tensor(dx, &[n, d])
}

#[cfg(test)]
mod tests {
    use super::*;

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
