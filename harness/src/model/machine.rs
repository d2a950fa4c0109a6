//! How fast a device multiplies matrices, and when it is done.

use super::kernels::tensor;
use super::network::Model;
use anyhow::Result;
use std::time::Instant;

/// Side of the square matrices whose product is timed.
const SIDE: usize = 1024;
/// Products that are timed; the fastest counts.
const PRODUCTS: usize = 8;

/// Waits until the model's device has done everything that it was asked for. On the processor that is at once.
pub fn wait_for(model: &Model) -> Result<()> {
    Ok(model.params.get(model.embedding).device().synchronize()?)
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
