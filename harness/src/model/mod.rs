//! Qwen2.5-VL, trainable, written once for every size: the only module that names the tensor library.
//!
//! It knows tokens, patches and weights; it knows nothing of questions, rewards or algorithms. Source: the
//! Qwen2.5-VL report (arXiv 2502.13923) and transformers' `modeling_qwen2_5_vl.py`, with which it agrees
//! (`tests/model.rs`). It has no automatic differentiation: every part has its exact backward beside its forward.
//!
//! - [`network`]: the whole model over packed groups; the prompt of a group is computed once.
//! - [`decode`]: sampling with a static cache. [`optimizer`]: AdamW. [`checkpoint`]: the hub's layout.
//! - `gpu`: the feature `cuda`.
//! - `layer`, `vision`, `attention`, `head`, `kernels`, `positions`: the parts.

mod attention;
pub mod checkpoint;
pub mod config;
pub mod decode;
#[cfg(feature = "cuda")]
pub mod gpu;
mod head;
mod kernels;
mod layer;
pub mod network;
pub mod optimizer;
pub mod params;
mod positions;
mod vision;

pub use decode::Completion;
pub use head::entropy;
pub use network::{Forward, Model, Prompt, Scores, Tree};
pub use optimizer::AdamW;
pub use params::{Grads, Params};
