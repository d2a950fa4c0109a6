//! Qwen2.5-VL, trainable, written once for every size: the only module that names the tensor library.
//!
//! It knows tokens, patches and weights; it knows nothing of questions, rewards or algorithms. Source: the
//! Qwen2.5-VL report (arXiv 2502.13923) and transformers' `modeling_qwen2_5_vl.py`, with which it agrees
//! (`tests/model.rs`). It has no automatic differentiation: every part has its exact backward beside its forward.
//!
//! - [`network`]: the whole model over packed groups; the prompt of a group is computed once.
//! - [`decode`]: sampling with a paged cache (`pages`, `schedule`). [`optimizer`]: AdamW. [`checkpoint`]: the hub's layout.
//! - `compute`: the device; `ops`: the operations on it, by `kernels`, `matmul`, `attention`, `head`, `sampler` on the
//!   processor and by `gpu` on a card. [`machine`]: how fast a device is and when it is done.
//! - `layer`, `vision`, `positions`: the parts.

mod attention;
pub mod checkpoint;
mod compute;
pub mod config;
pub mod decode;
#[cfg(feature = "gpu")]
pub mod gpu;
mod head;
mod kernels;
mod layer;
pub mod machine;
mod matmul;
pub mod network;
mod ops;
pub mod optimizer;
mod pages;
pub mod params;
mod positions;
mod sampler;
mod schedule;
mod vision;

pub use compute::{Compute, NoCard, RowLimits};
pub use decode::{Completion, DecodeClient, DecodeGroup, DecodeRules, DecodeStats};
pub use head::entropy;
pub use network::{Forward, Model, Prompt, Scores, Tree};
pub use optimizer::AdamW;
pub use params::{Grads, Params};
