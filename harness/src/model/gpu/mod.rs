//! The model on one NVIDIA card (feature `cuda`), or the same kernels on the processor (feature `cuda-emulation`).
//!
//! `kernels.cu` holds the kernels, of which `build/cuda.rs` makes PTX; `launch` starts them; `ops`, `gemm`, `head`, `pages`
//! and `attention` are the operations that `model::ops` chooses for tensors on a card.
//!
//! - `device` (feature `cuda`): opens the card, tells what it is and how much memory was used.
//! - `flash` (feature `flash-attn`): FlashAttention-2; `varlen` and `flash_tree` make the attention of trees of it.

pub(crate) mod attention;
#[cfg(feature = "cuda")]
pub mod device;
#[cfg(feature = "flash-attn")]
pub mod flash;
#[cfg(any(feature = "flash-attn", feature = "cuda-emulation"))]
pub(crate) mod flash_tree;
pub(crate) mod gemm;
pub(crate) mod head;
pub(crate) mod launch;
pub(crate) mod ops;
pub(crate) mod pages;
#[cfg(any(feature = "flash-attn", feature = "cuda-emulation"))]
pub(crate) mod varlen;
