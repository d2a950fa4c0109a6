//! The model on one NVIDIA card (feature `cuda`), or the same kernels on the processor (feature `cuda-emulation`).
//!
//! `kernels.cu` holds the kernels; [`launch`] starts them; [`ops`], [`gemm`] and [`attention`] are the operations that
//! `model::ops` chooses for tensors on a card.

pub(crate) mod attention;
#[cfg(any(feature = "flash-attn", feature = "cuda-emulation"))]
pub(crate) mod flash_tree;
pub(crate) mod gemm;
pub(crate) mod head;
pub(crate) mod launch;
pub(crate) mod ops;
pub(crate) mod pages;
#[cfg(any(feature = "flash-attn", feature = "cuda-emulation"))]
pub(crate) mod varlen;
