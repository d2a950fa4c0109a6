//! Opens a card as one thread drives it, and tells what it is and what memory was used.
//!
//! Three things differ from candle's `Device::new_cuda`, each for speed and each read in the sources of candle 0.11.1
//! and cudarc 0.19.10:
//! - a stream of its own instead of the thread's default one, on which work from two threads is not ordered;
//! - no events around every allocation: they order streams, and there is one;
//! - freed memory stays with the process. The pool's release threshold is 0 by default, so that every synchronisation
//!   gives all free memory back to the driver and the next allocation asks for it again.
//!
//! So a device belongs to one thread at a time, and one process opens a card once.

#![expect(unsafe_code, reason = "calls of the CUDA driver")]

use anyhow::{Context, Result, bail, ensure};
use candle_core::Device;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, DriverError, result, sys};
use std::sync::Arc;
use sys::CUmemPool_attribute as PoolAttribute;

/// The compute capability that this binary was built for: 90 is 9.0.
const BUILT_FOR: &str = env!("HARNESS_COMPUTE_CAP");

/// What a card is.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    /// As the driver calls it: `NVIDIA H200`.
    pub name: String,
    /// Major and minor: `(9, 0)`.
    pub compute_capability: (i32, i32),
    /// The newest CUDA that the driver runs, major and minor: `(13, 0)`.
    pub driver_cuda: (i32, i32),
    /// Memory of the card, bytes.
    pub total_bytes: usize,
    /// Memory that nobody holds now, bytes. What this process freed it still holds.
    pub free_bytes: usize,
}

/// Highest memory since [`open`] or [`reset_peak`], bytes. Only what is allocated as tensors: the driver's context, the
/// kernels and cuBLAS's own workspace come on top.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// Held by live tensors.
    pub used_bytes: u64,
    /// Held by the pool they come from: with what was freed and not yet used again.
    pub reserved_bytes: u64,
}

/// Opens card number `ordinal` (0 is the first that `CUDA_VISIBLE_DEVICES` shows).
pub fn open(ordinal: usize) -> Result<Device> {
    result::init().map_err(no_card)?;
    let count = result::device::get_count().map_err(no_card)?;
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
    set_pool(&context, PoolAttribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, u64::MAX)?;
    Ok(device)
}

/// What the card of `device` is, and its free memory now.
pub fn card(device: &Device) -> Result<Card> {
    let context = context(device)?;
    let (free_bytes, total_bytes) = context.mem_get_info().map_err(failed)?;
    Ok(Card {
        name: context.name().map_err(failed)?,
        compute_capability: context.compute_capability().map_err(failed)?,
        driver_cuda: driver_cuda()?,
        total_bytes,
        free_bytes,
    })
}

/// The highest memory use so far.
pub fn peak(device: &Device) -> Result<Peak> {
    let context = context(device)?;
    Ok(Peak {
        used_bytes: pool_value(&context, PoolAttribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)?,
        reserved_bytes: pool_value(&context, PoolAttribute::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH)?,
    })
}

/// Makes [`peak`] count from now.
pub fn reset_peak(device: &Device) -> Result<()> {
    let context = context(device)?;
    set_pool(&context, PoolAttribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH, 0)?;
    set_pool(&context, PoolAttribute::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH, 0)
}

/// Waits until the card has done everything asked of it; a kernel that failed is reported here.
pub fn synchronize(device: &Device) -> Result<()> {
    device.synchronize().context("the card stopped with an error")
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

fn driver_cuda() -> Result<(i32, i32)> {
    let mut version = 0;
    // SAFETY: writes one integer.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(failed)?;
    Ok((version / 1000, version % 1000 / 10))
}

/// The pool that every tensor of the device comes from.
fn pool(context: &CudaContext) -> Result<sys::CUmemoryPool> {
    // SAFETY: the device number is that of an open context.
    unsafe { result::device::get_mem_pool(context.cu_device()) }
        .map_err(failed)
        .context("the card has no memory pool")
}

fn pool_value(context: &CudaContext, attribute: PoolAttribute) -> Result<u64> {
    let mut value = 0_u64;
    // SAFETY: the attributes asked for here are 64-bit integers.
    unsafe { result::mem_pool::get_attribute(pool(context)?, attribute, (&raw mut value).cast()) }
        .map_err(failed)?;
    Ok(value)
}

fn set_pool(context: &CudaContext, attribute: PoolAttribute, mut value: u64) -> Result<()> {
    // SAFETY: the attributes set here are 64-bit integers.
    unsafe { result::mem_pool::set_attribute(pool(context)?, attribute, (&raw mut value).cast()) }
        .map_err(failed)
}

fn no_card(error: DriverError) -> anyhow::Error {
    anyhow::anyhow!(
        "no CUDA card can be used: the driver says {:?}. `nvidia-smi` shows what it sees; without a card the model runs \
         on the processor",
        error.0
    )
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
                let card = card(&device).unwrap();
                assert!(!card.name.is_empty() && card.free_bytes <= card.total_bytes, "{card:?}");
                reset_peak(&device).unwrap();
                let tensor = candle_core::Tensor::zeros(1 << 20, candle_core::DType::F32, &device).unwrap();
                synchronize(&device).unwrap();
                assert!(peak(&device).unwrap().used_bytes >= 4 << 20);
                drop(tensor);
                assert!(open(4096).unwrap_err().to_string().contains("no CUDA card 4096"));
            }
            Err(error) => assert!(error.to_string().starts_with("no CUDA card can be used"), "{error:#}"),
        }
    }

    #[test]
    fn code_for_hopper_runs_on_hopper_alone_and_older_code_on_newer_cards() {
        assert!(runs_on(90, 90) && runs_on(80, 80) && runs_on(80, 90) && runs_on(89, 100));
        assert!(!runs_on(90, 80) && !runs_on(90, 100) && !runs_on(86, 80));
    }
}
