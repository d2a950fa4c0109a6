//! Where and in which numbers a model computes.

use super::kernels::on_a_worker;
use crate::cost::memory;
use crate::settings::{Attention, ComputeSettings, DecodeLimits, Device as Kind, Dtype, OptimizerState};
use anyhow::Result;
use candle_core::{DType, Device, Tensor};

/// A device that was opened, and the choices of [`ComputeSettings`] that the model needs.
#[derive(Clone, Debug)]
pub struct Compute {
    settings: ComputeSettings,
    device: Device,
    emulated: bool,
    rows: RowLimits,
}

/// How many rows are computed at a time. It bounds memory, and changes results by rounding at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLimits {
    /// Rows whose logits exist at a time on a card.
    pub logits: usize,
    /// Rows of one pass through the layers while sampling; a longer prompt is one pass.
    pub sampling: usize,
}

impl Default for RowLimits {
    fn default() -> Self {
        Self { logits: memory::LOGIT_ROWS as usize, sampling: memory::SAMPLING_ROWS as usize }
    }
}

/// The error of [`Compute::open`] where this machine has no card at all.
#[derive(Debug)]
pub struct NoCard {
    /// What the driver says.
    pub reason: String,
}

impl std::error::Error for NoCard {}

impl std::fmt::Display for NoCard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "no CUDA card can be used: {}. `nvidia-smi` shows what the driver sees; without a card the model runs on the \
             processor",
            self.reason
        )
    }
}

impl Compute {
    /// The processor in f32, with all activations kept.
    pub fn cpu() -> Self {
        Self::new(ComputeSettings::CPU, Device::Cpu, false)
    }

    fn new(settings: ComputeSettings, device: Device, emulated: bool) -> Self {
        Self { settings, device, emulated, rows: RowLimits::default() }
    }

    /// Opens the device that the settings name. A card belongs to the thread that opened it first: all work on it has
    /// one stream and one handle of cuBLAS, with no events that would order what another thread does.
    ///
    /// # Errors
    /// If this build does not have it, this machine has no card ([`NoCard`]), or another thread has opened it.
    pub fn open(settings: &ComputeSettings) -> Result<Self> {
        if settings.attention == Attention::Flash {
            flash_is_built()?;
        }
        let device = match settings.device {
            Kind::Cpu => Device::Cpu,
            Kind::Cuda => open_card()?,
        };
        Ok(Self::new(*settings, device, false))
    }

    /// The card's kernels on the processor: slow, for tests.
    #[cfg(feature = "cuda-emulation")]
    pub fn emulated(settings: &ComputeSettings) -> Self {
        Self::new(*settings, Device::Cpu, true)
    }

    /// The same with other limits, each at least 1.
    pub fn with_row_limits(self, RowLimits { logits, sampling }: RowLimits) -> Self {
        Self { rows: RowLimits { logits: logits.max(1), sampling: sampling.max(1) }, ..self }
    }

    /// How many rows are computed at a time.
    pub(crate) fn row_limits(&self) -> RowLimits {
        self.rows
    }

    /// The settings it was opened with.
    pub fn settings(&self) -> &ComputeSettings {
        &self.settings
    }

    /// Memory of the card that can still be had, bytes; `None` on the processor.
    pub fn free_bytes(&self) -> Option<u64> {
        #[cfg(feature = "cuda")]
        if self.device.is_cuda() {
            return super::gpu::device::free_bytes(&self.device).ok();
        }
        None
    }

    /// Most memory of the card that tensors held at a time, bytes; `None` on the processor.
    pub fn peak_bytes(&self) -> Option<u64> {
        #[cfg(feature = "cuda")]
        if self.device.is_cuda() {
            return super::gpu::device::peak_bytes(&self.device).ok();
        }
        None
    }

    /// Name of the card; `None` on the processor.
    pub fn card_name(&self) -> Option<String> {
        #[cfg(feature = "cuda")]
        if self.device.is_cuda() {
            return super::gpu::device::name(&self.device).ok();
        }
        None
    }

    /// Whether layers are computed again in the backward pass.
    pub(crate) fn recompute(&self) -> bool {
        self.settings.recompute
    }

    /// How much is decoded at the same time.
    pub fn limits(&self) -> DecodeLimits {
        let ComputeSettings { kv_tokens, max_sequences, .. } = self.settings;
        DecodeLimits { kv_tokens, max_sequences }
    }

    /// How the optimiser keeps its state.
    pub(crate) fn optimizer_state(&self) -> OptimizerState {
        self.settings.optimizer_state
    }

    /// Type of sums of gradients.
    pub(crate) fn gradient_dtype(&self) -> DType {
        dtype(self.settings.gradient_dtype)
    }

    /// A tensor in the type and on the device of the model's weights.
    pub(crate) fn place(&self, t: &Tensor) -> Result<Tensor> {
        Ok(t.to_dtype(dtype(self.settings.dtype))?.to_device(&self.device)?)
    }

    /// Zeros of this shape on the device.
    pub(crate) fn zeros(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        Ok(Tensor::zeros(shape, dtype, &self.device)?)
    }

    /// Runs work whose operations are those of this device: on a worker of the processor, or on this thread for a card,
    /// which one thread drives.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let here = || {
            let _emulation = Emulation::begin(self.emulated);
            work()
        };
        if self.emulated || self.device.is_cuda() { here() } else { on_a_worker(here) }
    }
}

fn dtype(kind: Dtype) -> DType {
    match kind {
        Dtype::F32 => DType::F32,
        Dtype::Bf16 => DType::BF16,
    }
}

/// The card, opened once for the process, and the thread that drives it. Callers that have no one thread, as the tests of
/// libtest (each has a thread of its own, also with `--test-threads=1`), need one that works for them all.
#[cfg(feature = "cuda")]
fn open_card() -> Result<Device> {
    use std::sync::{Mutex, PoisonError};
    use std::thread::{ThreadId, current};
    static CARD: Mutex<Option<(ThreadId, Device)>> = Mutex::new(None);
    let mut card = CARD.lock().unwrap_or_else(PoisonError::into_inner);
    let (driver, device) = match &mut *card {
        Some(card) => card,
        none => none.insert((current().id(), super::gpu::device::open(0)?)),
    };
    anyhow::ensure!(
        *driver == current().id(),
        "the CUDA card is driven by another thread of this process ({driver:?}); open and use it from that one"
    );
    Ok(device.clone())
}

#[cfg(not(feature = "cuda"))]
fn open_card() -> Result<Device> {
    anyhow::bail!(
        "compute.device = \"cuda\": this build of harness runs on the processor only; build it with `--features cuda` \
         (README, \"CUDA\")"
    )
}

fn flash_is_built() -> Result<()> {
    if cfg!(feature = "flash-attn") {
        return Ok(());
    }
    anyhow::bail!(
        "compute.attention = \"flash\": this build has no FlashAttention-2; build it with `--features flash-attn` (README, \
         \"CUDA\"), or set compute.attention=own"
    )
}

#[cfg(feature = "cuda-emulation")]
thread_local! {
    static EMULATED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Restores what was before [`Compute::run`].
pub(crate) struct Emulation {
    #[cfg(feature = "cuda-emulation")]
    before: bool,
}

impl Emulation {
    #[cfg(feature = "cuda-emulation")]
    fn begin(emulated: bool) -> Self {
        Self { before: EMULATED.replace(emulated) }
    }

    #[cfg(not(feature = "cuda-emulation"))]
    fn begin(_: bool) -> Self {
        Self {}
    }
}

#[cfg(feature = "cuda-emulation")]
impl Drop for Emulation {
    fn drop(&mut self) {
        EMULATED.set(self.before);
    }
}

/// Whether the card's operations are for this tensor.
#[cfg(feature = "gpu")]
pub(crate) fn on_card(t: &Tensor) -> bool {
    #[cfg(feature = "cuda-emulation")]
    if EMULATED.get() {
        return true;
    }
    t.device().is_cuda()
}
