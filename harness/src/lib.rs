//! `harness` reproduces VPPO ("Spotlight on Token Perception for Multimodal Reinforcement Learning",
//! arXiv 2510.09285): it trains Qwen2.5-VL with GRPO, DAPO and VPPO under identical seeds, evaluates every arm with
//! avg@8, and tells with error bars which of the paper's claims hold.
//!
//! # One path of the data
//!
//! [`study`] turns a scale and a study into *cells* (one arm, one seed), each with complete, hashed settings
//! ([`config`]). [`mod@bench`] yields questions; [`image`] and [`prompt`] make them patches and tokens; [`rollout`] samples a
//! group of completions per prompt from the [`model`]; [`grade`] turns each into a verdict, hence a reward; where the
//! algorithm asks for it, [`perturb`] corrupts the picture and the policy scores the same tokens again; [`algo`] assigns
//! credit and gives the derivative of the loss with respect to every log-probability; [`train`] does the backward pass
//! and the update. [`eval`] samples k completions per item; [`store`] keeps one line for each; [`stats`] reads only those
//! lines; [`report`] draws the tables. Nothing stands in a table that cannot be computed again from the lines.
//!
//! # Levels
//!
//! A module uses only modules of its own level or below.
//!
//! | level | modules | |
//! |---|---|---|
//! | 5 | [`cli`] | prints and draws progress; the only place that does |
//! | 4 | [`config`] [`study`] [`report`] | settings to cells, lines to tables |
//! | 3 | [`train`] [`eval`] [`rollout`] [`score`] [`spotlight`] [`warm_start`] [`speed`] | the loops |
//! | 2 | [`model`] [`mod@bench`] [`hub`] [`store`] | tensors, questions, downloads, files |
//! | 1 | [`grade`] [`algo`] [`stats`] [`perturb`] [`image`] [`prompt`] [`cost`] | pure functions |
//! | 0 | [`types`] [`settings`] [`progress`] [`rng`] | plain data |
//!
//! What each may *not* do, tested by `tests/architecture.rs`: only [`model`] names the tensor library; only [`mod@bench`],
//! [`hub`], [`store`], [`config`] and the checkpoints of [`model`] touch the file system; only [`rng`] makes random numbers; only
//! [`cli`] prints; [`algo`], [`grade`] and [`stats`] do no I/O; [`train`] does not know which algorithm runs, [`eval`] not
//! which benchmark.
//!
//! # Randomness
//!
//! Every draw is a pure function of its coordinates ([`rng`]), so order, batches, threads, interruption and resume cannot
//! change one, and all arms share data order, rollout noise, picture masks and evaluation noise.
//!
//! Without the default feature `candle` the model and what needs it are left out, and the pure logic builds alone.
pub mod algo;
pub mod bench;
#[cfg(feature = "candle")]
pub mod cli;
pub mod config;
pub mod cost;
#[cfg(feature = "candle")]
pub mod eval;
pub mod grade;
pub mod hub;
pub mod image;
#[cfg(feature = "candle")]
pub mod model;
pub mod perturb;
pub mod progress;
pub mod prompt;
pub mod report;
pub mod rng;
#[cfg(feature = "candle")]
pub mod rollout;
#[cfg(feature = "candle")]
pub mod score;
pub mod settings;
#[cfg(feature = "candle")]
pub mod speed;
#[cfg(feature = "candle")]
pub mod spotlight;
pub mod stats;
pub mod store;
#[cfg(feature = "candle")]
pub mod study;
#[cfg(feature = "candle")]
pub mod train;
pub mod types;
#[cfg(feature = "candle")]
pub mod warm_start;
