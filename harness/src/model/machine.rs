//! What this build can compute on, and how fast that multiplies matrices.

use super::kernels::tensor;
use crate::settings::{ComputeSettings, Device, Dtype};
use anyhow::{Result, ensure};
use std::time::Instant;

/// Side of the square matrices whose product is timed.
const SIDE: usize = 1024;
/// Products that are timed; the fastest counts.
const PRODUCTS: usize = 8;

/// Refuses what this build does not compute.
///
/// # Errors
/// Names the way out.
pub fn ensure_supported(compute: &ComputeSettings) -> Result<()> {
    ensure!(
        compute.device == Device::Cpu,
        "this build has no CUDA: build with --features cuda, or compute on the processor"
    );
    ensure!(compute.dtype == Dtype::F32, "the processor computes in f32 only: bf16 needs CUDA");
    ensure!(!compute.recompute, "layers are not computed again on the processor: leave recomputation off");
    Ok(())
}

/// Floating-point operations per second of the processor: the fastest of a few products of square f32 matrices, on as
/// many threads as the model uses. Measured on the spot, so it is lower on a busy machine.
pub fn measured_peak() -> Result<f64> {
    let square =
        |scale: f32| tensor((0..SIDE * SIDE).map(|i| (i % 97) as f32 * scale).collect(), &[SIDE, SIDE]);
    let (a, b) = (square(0.01)?, square(0.02)?);
    let mut fastest = f64::INFINITY;
    for _ in 0..PRODUCTS {
        let start = Instant::now();
        std::hint::black_box(a.matmul(&b)?);
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    Ok(2.0 * (SIDE as f64).powi(3) / fastest)
}
