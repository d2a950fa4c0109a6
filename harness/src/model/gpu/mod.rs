//! The model on one NVIDIA card (feature `cuda`), or the same kernels on the processor (feature `cuda-emulation`).
//!
//! `kernels.cu` holds the kernels, of which `build/cuda.rs` makes PTX; `launch` starts them; `ops`, `gemm`, `head`, `pages`
//! and `attention` are the operations that `model::ops` chooses for tensors on a card.
//!
//! - `device` (feature `cuda`): opens the card, tells its name and its memory.
//! - `flash` (feature `flash-attn`): FlashAttention-2; `varlen` and `flash_tree` make the attention of trees of it, or in
//!   the emulation of a plain reference.

pub(crate) mod attention;
#[cfg(feature = "cuda")]
pub mod device;
#[cfg(feature = "flash-attn")]
pub mod flash;
#[cfg(feature = "merged-attention")]
pub(crate) mod flash_tree;
pub(crate) mod gemm;
pub(crate) mod head;
pub(crate) mod launch;
pub(crate) mod ops;
pub(crate) mod pages;
#[cfg(feature = "merged-attention")]
pub(crate) mod varlen;
