//! The model on one NVIDIA card, behind the feature `cuda`. `kernels.cu` is compiled to PTX by `build/cuda.rs`.
//!
//! - [`device`]: opens the card, tells what it is and how much memory was used.
//! - `flash` (feature `flash-attn`): FlashAttention-2.

pub mod device;
#[cfg(feature = "flash-attn")]
pub mod flash;
