//! Reinforcement-learning algorithms as values, and what they do as pure functions on plain slices.
//!
//! An [`Algorithm`] is data: GRPO, DAPO, VPPO and every row of the paper's ablations differ in its fields alone.
//! Its effect is two functions:
//!
//! 1. [`assign_credit`] sees a whole rollout batch once and settles everything that crosses sequences:
//!    advantages, shaping, token weights, normalisers.
//! 2. [`objective`] sees one sequence. Summed over the sequences of a mini-batch its loss is that update's loss.
//!
//! The losses depend on the network only through the log-probabilities of the sampled tokens, so [`objective`]
//! returns the derivative itself. Nothing here knows a tensor library, a model, a file or a benchmark.
//! Inputs are finite numbers of the right lengths ([`Batch::check`], [`Algorithm::check`] say so once,
//! up front); then nothing here can fail, and no result is NaN or infinite.
//!
//! # Source
//!
//! The paper (arXiv 2510.09285 v2) section 3 and appendices B, E, I; where the authors' program does something
//! else, or more, "the reference" is github huaixuheqing/VPPO-RL a23c54b, files
//! `verl/workers/actor/dp_actor.py` (`update_policy`) and `verl/trainer/core_algos.py`. Both readings are settings.
//!
//! # Deviations from the reference
//!
//! - Token means divide by the number of tokens; the reference adds 1e-8 to that number once per micro-batch
//!   (relative difference below 1e-8 over its token count). Hence no token mean depends on how a batch is cut.
//! - The KL term stays in `f64`; the reference rounds it through `f32` (relative difference about 1e-7).
//! - The number of kept tokens is the ceiling of an `f64` product; the reference multiplies in `f32`. For the
//!   fractions 0.2, 0.4 and 0.8 both give the same number up to 4,096 tokens; for 0.6 the `f32` product
//!   rounds up past a whole number for 336 of those lengths and keeps one token more.
//! - Tokens of equal score: the earlier one is kept. The reference's sort leaves this open.
//! - A group whose rewards are all equal has advantage exactly 0, whatever the epsilon.
//! - The reference can join the entropy and the perception mask by "or"; no table uses it, and it is left out.
//!
//! The paper writes eq. 3 with the policy being trained, its Algorithm 1 and the reference use the sampling
//! policy, once per rollout batch. Only the latter is offered.

mod advantage;
mod algorithm;
mod comparison;
mod credit;
pub mod dependency;
mod differences;
mod objective;
mod presets;
mod shaping;
mod token_filter;

pub use advantage::keep_group;
pub use algorithm::{
    Advantage, Aggregation, Algorithm, Ceiling, Clip, Denominator, EntropyPenalty, Estimator, GroupFilter,
    Guide, KlPenalty, Mask, OverlongPenalty, Perception, PolicyVersion, Scope, Shaping, ShapingTarget,
    TokenFilter, recorded_corruption,
};
pub use comparison::{Comparison, Effect, compare};
pub use credit::{Batch, Corrupted, Credit, Response, Scales, TokenWeights, assign_credit};
pub use differences::Difference;
pub use objective::{Current, MetricMeans, Metrics, Objective, objective};
pub use presets::PRESETS;
