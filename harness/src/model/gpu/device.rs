//! Opens a card as one thread drives it, and tells its name and its memory.
//!
//! Three things differ from candle's `Device::new_cuda`, each for speed and each read in the sources of candle 0.11.1
//! and cudarc 0.19.10:
//! - a stream of its own instead of the thread's default one, on which work from two threads is not ordered;
//! - no events around every allocation: they order streams, and there is one;
//! - freed memory stays with the process. The pool's release threshold is 0 by default, so that every synchronisation
//!   gives all free memory back to the driver and the next allocation asks for it again.
//!
//! So one thread drives a device ([`Compute::open`](crate::model::Compute::open) sees to it), and a process opens a card
//! once.

#![expect(unsafe_code, reason = "calls of the CUDA driver")]

use crate::model::compute::NoCard;
use anyhow::{Context, Result, bail, ensure};
use candle_core::Device;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, DriverError, result, sys};
use std::sync::Arc;
use sys::CUmemPool_attribute as PoolAttribute;

/// The compute capability that this binary was built for: 90 is 9.0.
const BUILT_FOR: &str = env!("HARNESS_COMPUTE_CAP");

/// Opens card number `ordinal` (0 is the first that `CUDA_VISIBLE_DEVICES` shows).
pub fn open(ordinal: usize) -> Result<Device> {
    result::init().map_err(not_started)?;
    let count = result::device::get_count().map_err(not_started)?;
    if count == 0 {
        bail!(NoCard { reason: "the driver shows none".into() });
    }
    ensure!(
        usize::try_from(count).is_ok_and(|count| ordinal < count),
        "there is no CUDA card {ordinal}: the driver shows {count}, counted from 0 (CUDA_VISIBLE_DEVICES hides cards)"
    );
    let device = Device::new_cuda_with_stream(ordinal).with_context(|| {
        format!("CUDA card {ordinal} cannot be opened; is another process using it exclusively?")
    })?;
    // SAFETY: the device has one stream, so nothing relies on events between streams.
    unsafe { device.as_cuda_device()?.disable_event_tracking() };
    let context = context(&device)?;
    check_built_for(&context)?;
    keep_freed_memory(&context)?;
    Ok(device)
}

/// As the driver calls the card: `NVIDIA H200`.
pub fn name(device: &Device) -> Result<String> {
    context(device)?.name().map_err(failed)
}

/// Memory of the card that nobody holds now, bytes. What this process freed it still holds.
pub fn free_bytes(device: &Device) -> Result<u64> {
    Ok(context(device)?.mem_get_info().map_err(failed)?.0 as u64)
}

/// Most memory that live tensors held at a time, bytes: the driver's context, the kernels and cuBLAS's own workspace come on
/// top.
pub fn peak_bytes(device: &Device) -> Result<u64> {
    let mut bytes = 0_u64;
    let context = context(device)?;
    let pool = pool(&context)?;
    // SAFETY: this attribute is a 64-bit integer.
    unsafe {
        let attribute = PoolAttribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        result::mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast())
    }
    .map_err(failed)?;
    Ok(bytes)
}

fn context(device: &Device) -> Result<Arc<CudaContext>> {
    Ok(device.as_cuda_device()?.cuda_stream().context().clone())
}

fn check_built_for(context: &CudaContext) -> Result<()> {
    let (major, minor) = context.compute_capability().map_err(failed)?;
    let card = major * 10 + minor;
    let built = BUILT_FOR.parse().context("HARNESS_COMPUTE_CAP of the build")?;
    if !runs_on(built, card) {
        bail!(
            "this binary is built for compute capability {}.{}, the card has {major}.{minor}: build it again with \
             CUDA_COMPUTE_CAP={card}",
            built / 10,
            built % 10
        );
    }
    Ok(())
}

/// Candle compiles its kernels from 9.0 on for exactly one capability (`sm_90a`), before that for all newer ones too.
fn runs_on(built: i32, card: i32) -> bool {
    if built < 90 { built <= card } else { built == card }
}

/// The pool that every tensor of the device comes from.
fn pool(context: &CudaContext) -> Result<sys::CUmemoryPool> {
    // SAFETY: the device number is that of an open context.
    unsafe { result::device::get_mem_pool(context.cu_device()) }
        .map_err(failed)
        .context("the card has no memory pool")
}

/// Freed memory stays in the pool.
fn keep_freed_memory(context: &CudaContext) -> Result<()> {
    let mut bytes = u64::MAX;
    let attribute = PoolAttribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: this attribute is a 64-bit integer.
    unsafe { result::mem_pool::set_attribute(pool(context)?, attribute, (&raw mut bytes).cast()) }
        .map_err(failed)
}

/// No card, or a driver that does not come up: that is a card which cannot be used.
fn not_started(error: DriverError) -> anyhow::Error {
    use sys::CUresult::{CUDA_ERROR_NO_DEVICE, CUDA_ERROR_STUB_LIBRARY};
    match error.0 {
        CUDA_ERROR_NO_DEVICE | CUDA_ERROR_STUB_LIBRARY => {
            NoCard { reason: format!("the driver says {:?}", error.0) }.into()
        }
        _ => failed(error).context("the CUDA driver does not start; `nvidia-smi` may tell why"),
    }
}

fn failed(error: DriverError) -> anyhow::Error {
    anyhow::anyhow!("the CUDA driver says {:?}", error.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With a card it opens and is described; without one the message says so.
    #[test]
    fn a_card_opens_or_the_message_says_why_not() {
        match open(0) {
            Ok(device) => {
                assert!(!name(&device).unwrap().is_empty() && free_bytes(&device).unwrap() > 0);
                let tensor = candle_core::Tensor::zeros(1 << 20, candle_core::DType::F32, &device).unwrap();
                device.synchronize().unwrap();
                assert!(peak_bytes(&device).unwrap() >= 4 << 20);
                drop(tensor);
                assert!(open(4096).unwrap_err().to_string().contains("no CUDA card 4096"));
            }
            Err(error) => assert!(error.is::<NoCard>(), "{error:#}"),
        }
    }

    #[test]
    fn code_for_hopper_runs_on_hopper_alone_and_older_code_on_newer_cards() {
        assert!(runs_on(90, 90) && runs_on(80, 80) && runs_on(80, 90) && runs_on(89, 100));
        assert!(!runs_on(90, 80) && !runs_on(90, 100) && !runs_on(86, 80));
    }
}
