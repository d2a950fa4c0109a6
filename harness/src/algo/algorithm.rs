//! The settings of an algorithm: one plain struct of independent parts.
//!
//! Optional parts are `Option`; `None` switches a part off. Every field that the paper's tables vary, and every
//! point where paper and reference differ, is a field here.

use crate::settings::{Corruption, CorruptionKind, CorruptionScope};
use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// A policy-gradient algorithm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Algorithm {
    /// How rewards become advantages.
    pub advantage: Advantage,
    /// Limits of the probability ratio.
    pub clip: Clip,
    /// How token losses become one number.
    pub aggregation: Aggregation,
    /// Dynamic sampling: which groups are kept for training.
    pub group_filter: Option<GroupFilter>,
    /// Soft punishment of long responses.
    pub overlong_penalty: Option<OverlongPenalty>,
    /// KL term to a frozen reference model.
    pub kl: Option<KlPenalty>,
    /// Penalty on the negative log-likelihood of the sampled tokens.
    pub entropy_penalty: Option<EntropyPenalty>,
    /// The parts of VPPO: which tokens learn, and how strongly each response does.
    pub perception: Option<Perception>,
}

/// Group-relative advantage (paper eq. 1): reward minus group mean, perhaps over the standard deviation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Advantage {
    /// Divide by the group's standard deviation.
    pub normalise_std: bool,
    /// Divide the sum of squares by n - 1 (the reference) or by n.
    pub unbiased_std: bool,
    /// Added to the standard deviation (1e-6 in the reference).
    pub epsilon: f64,
}

/// Clipping of the ratio r of new to old token probability.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clip {
    /// r is held above `1 - low` where the advantage is negative.
    pub low: f64,
    /// r is held below `1 + high` where the advantage is positive.
    pub high: f64,
    /// Where the advantage is negative, the loss is at most `-advantage * dual` (3.0 in the reference).
    pub dual: Option<f64>,
}

/// How the losses of the tokens of a mini-batch become its loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// Mean over all tokens of the mini-batch (paper Table 9, the reference's default).
    Token,
    /// Mean over responses of the mean over a response's tokens (paper eq. 2 and 6).
    Sequence,
    /// The reference's `seq`: that mean within a micro-batch, micro-batches weighted by their tokens.
    SequencePerMicroBatch,
}

/// Keeps groups with `low < mean accuracy < high`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupFilter {
    /// Exclusive lower bound of the group's mean accuracy.
    pub low: f64,
    /// Exclusive upper bound.
    pub high: f64,
}

/// DAPO's soft punishment: 0 up to `max - buffer` tokens, falling to -1 at the maximum, times `factor`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverlongPenalty {
    /// Length of the ramp in tokens.
    pub buffer_tokens: usize,
    /// Weight of the punishment in the reward.
    pub factor: f64,
}

/// `coef` times the k3 estimate of KL(policy || reference model), per token, with gradient.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KlPenalty {
    /// Weight in the loss (0.01 in EasyR1's examples).
    pub coef: f64,
}

/// `coef` times the mean negative log-likelihood of the sampled tokens, over ALL response tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntropyPenalty {
    /// Weight in the loss (0.06 in the paper, section 4).
    pub coef: f64,
}

/// Token perception: how dependency on the picture is measured and what it decides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Perception {
    /// How the picture is corrupted for the second scoring (paper App. F, Table 11).
    pub corruption: Corruption,
    /// What compares the two scorings (paper Table 12).
    pub estimator: Estimator,
    /// TGF: only some tokens carry the policy gradient.
    pub token_filter: Option<TokenFilter>,
    /// TAS: responses that depend more on the picture weigh more.
    pub shaping: Option<Shaping>,
}

/// Visual dependency of one token: a comparison of p (true picture) with p' (corrupted picture), both of the
/// sampling policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum Estimator {
    /// One-sample estimate of KL(p || p') from the sampled token: `exp(d) - d - 1`, `d = log p' - log p`.
    SampledK3 {
        /// d is held within plus and minus this (20 in the reference).
        log_ratio_clamp: f64,
        /// Largest value (10 in the reference; `None` for no limit).
        value_clamp: Option<f64>,
    },
    /// KL(p || p') over the whole vocabulary (paper eq. 3).
    FullKl,
    /// One-sample estimate of the Jensen-Shannon divergence (paper Table 12, "same estimation technique").
    SampledJensenShannon {
        /// d is held within plus and minus this.
        log_ratio_clamp: f64,
        /// Largest value.
        value_clamp: Option<f64>,
    },
    /// Jensen-Shannon divergence over the whole vocabulary.
    JensenShannon,
    /// Drop of the sampled token's probability, p - p' (paper Table 12 and App. G).
    Top1Drop,
}

/// TGF: the part of a response's tokens that carries the policy gradient.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenFilter {
    /// What ranks the tokens.
    pub guide: Guide,
    /// Whose entropy the guide [`Guide::Entropy`] reads; other guides ignore it.
    pub entropy_of: PolicyVersion,
    /// Part of each response's tokens that is kept, 0 < fraction <= 1 (0.4 in the paper).
    pub fraction: f64,
    /// Hard or soft selection.
    pub mask: Mask,
    /// What the policy term is divided by.
    pub denominator: Denominator,
}

/// What ranks the tokens of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guide {
    /// Visual dependency.
    Perception,
    /// Entropy of the next-token distribution (paper Table 4).
    Entropy,
    /// Nothing: random tokens (paper Table 4), drawn by step, item and sample.
    Random,
}

/// Which weights of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyVersion {
    /// Those that sampled: the choice is fixed for all updates of a rollout batch.
    Old,
    /// Those at the time of the update (the reference's entropy guide): the choice moves with each update.
    Current,
}

/// How a score becomes token weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mask {
    /// Weight 1 for the highest `ceil(fraction * tokens)` scores, else 0; of equal scores the earlier token.
    Binary,
    /// A sigmoid of the standardised score, shifted so that the weights' mean is the fraction (paper App. I).
    Soft,
}

/// What the policy term of a filtered response is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Denominator {
    /// All response tokens (paper eq. 6 and the reference).
    AllTokens,
    /// The sum of the token weights.
    KeptTokens,
}

/// TAS (paper eq. 5): a factor that grows with the response's mean dependency.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shaping {
    /// Factor of the least dependent response (0.9 in the paper).
    pub floor: f64,
    /// Factor of the most dependent response.
    pub ceiling: Ceiling,
    /// What is multiplied.
    pub applies_to: ShapingTarget,
    /// Responses over which smallest and largest dependency are taken.
    pub range_scope: Scope,
    /// Responses over which a dynamic ceiling makes the mean factor 1; a fixed one ignores it.
    pub ceiling_scope: Scope,
}

/// Factor of the most dependent response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum Ceiling {
    /// This number (paper Table 3: 1.1, 1.2).
    Fixed {
        /// The factor.
        value: f64,
    },
    /// The number that makes the mean factor 1 (the reference; "dynamic" in the paper, without a formula).
    Dynamic {},
}

/// What shaping multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShapingTarget {
    /// The advantage.
    Advantage,
    /// The reward, before advantages are computed (paper Table 7).
    Reward,
}

/// A set of responses of a rollout batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The responses of one forward and backward pass.
    MicroBatch,
    /// The responses of one optimiser update.
    MiniBatch,
    /// The whole rollout batch.
    Batch,
}

impl Estimator {
    /// Whether the whole next-token distributions are needed, not only the sampled tokens.
    pub fn needs_full_distribution(&self) -> bool {
        matches!(self, Estimator::FullKl | Estimator::JensenShannon)
    }
}

impl Algorithm {
    fn token_filter(&self) -> Option<&TokenFilter> {
        self.perception.as_ref()?.token_filter.as_ref()
    }

    fn entropy_guide(&self) -> Option<PolicyVersion> {
        self.token_filter().filter(|f| f.guide == Guide::Entropy).map(|f| f.entropy_of)
    }

    /// Whether responses must be scored again under a corrupted picture.
    pub fn needs_corruption(&self) -> bool {
        let guided = self.token_filter().is_some_and(|f| f.guide == Guide::Perception);
        guided || self.perception.as_ref().is_some_and(|p| p.shaping.is_some())
    }

    /// Whether a frozen reference model must score the responses.
    pub fn needs_reference(&self) -> bool {
        self.kl.is_some()
    }

    /// Whether the sampling policy's entropy per token is needed ([`Response::entropy_t`](super::Response)).
    pub fn needs_old_entropy(&self) -> bool {
        self.entropy_guide() == Some(PolicyVersion::Old)
    }

    /// Whether the current policy's entropy per token is needed at each update.
    pub fn needs_current_entropy(&self) -> bool {
        self.entropy_guide() == Some(PolicyVersion::Current)
    }

    /// Says which field, if any, has a value that makes no sense, and which values do.
    pub fn check(&self) -> Result<()> {
        let at_least_zero = |key: &str, value: f64| -> Result<()> {
            ensure!(value >= 0.0 && value.is_finite(), "{key} = {value}: give a number of at least 0");
            Ok(())
        };
        at_least_zero("advantage.epsilon", self.advantage.epsilon)?;
        at_least_zero("clip.high", self.clip.high)?;
        let low = self.clip.low;
        ensure!((0.0..=1.0).contains(&low), "clip.low = {low}: give a number from 0 to 1");
        if let Some(dual) = self.clip.dual {
            ensure!(dual >= 1.0 && dual.is_finite(), "clip.dual = {dual}: give a number of at least 1");
        }
        if let Some(GroupFilter { low, high }) = &self.group_filter {
            ensure!(
                low < high,
                "group_filter: low = {low} must be below high = {high}, else no group is kept"
            );
        }
        if let Some(overlong) = &self.overlong_penalty {
            at_least_zero("overlong_penalty.factor", overlong.factor)?;
        }
        if let Some(kl) = &self.kl {
            at_least_zero("kl.coef", kl.coef)?;
        }
        if let Some(penalty) = &self.entropy_penalty {
            let coef = penalty.coef;
            ensure!(coef.is_finite(), "entropy_penalty.coef = {coef}: give a finite number");
        }
        self.perception.as_ref().map_or(Ok(()), Perception::check)
    }

    /// An algorithm with every optional part filled, so that its keys are all the keys there are.
    /// It is valid but of no use for training.
    pub fn complete_example() -> Algorithm {
        Algorithm {
            group_filter: Some(GroupFilter { low: 0.01, high: 0.99 }),
            overlong_penalty: Some(OverlongPenalty { buffer_tokens: 512, factor: 1.0 }),
            kl: Some(KlPenalty { coef: 0.01 }),
            perception: Some(Perception {
                corruption: Corruption {
                    kind: CorruptionKind::Patches { patch_pixels: 14, probability: 0.5 },
                    scope: CorruptionScope::Response,
                },
                shaping: Some(Shaping {
                    floor: 0.9,
                    ceiling: Ceiling::Fixed { value: 1.1 },
                    applies_to: ShapingTarget::Advantage,
                    range_scope: Scope::MiniBatch,
                    ceiling_scope: Scope::MicroBatch,
                }),
                ..Perception::vppo()
            }),
            ..Algorithm::vppo()
        }
    }
}

impl Perception {
    fn check(&self) -> Result<()> {
        if let Estimator::SampledK3 { log_ratio_clamp, value_clamp }
        | Estimator::SampledJensenShannon { log_ratio_clamp, value_clamp } = &self.estimator
        {
            let (key, clamp) = ("perception.estimator.log_ratio_clamp", log_ratio_clamp);
            ensure!((0.0..=100.0).contains(clamp), "{key} = {clamp}: give a number from 0 to 100");
            let (key, largest) = ("perception.estimator.value_clamp", value_clamp.unwrap_or(0.0));
            ensure!(largest >= 0.0, "{key} = {largest}: give a number of at least 0");
        }
        if let Some(TokenFilter { fraction, .. }) = &self.token_filter {
            let key = "perception.token_filter.fraction";
            ensure!(
                *fraction > 0.0 && *fraction <= 1.0,
                "{key} = {fraction}: give a number above 0, at most 1"
            );
        }
        if let Some(Shaping { floor, ceiling, .. }) = &self.shaping {
            let key = "perception.shaping.floor";
            ensure!(*floor >= 0.0 && floor.is_finite(), "{key} = {floor}: give a number of at least 0");
            if let Ceiling::Fixed { value } = ceiling {
                let key = "perception.shaping.ceiling.value";
                ensure!(
                    value >= floor && value.is_finite(),
                    "{key} = {value}: give a number of at least the floor"
                );
            }
        }
        Ok(())
    }
}

/// The corruption under which recorded responses are scored: that of the algorithm, or the paper's where it has none.
pub fn recorded_corruption(algorithm: Option<&Algorithm>) -> Corruption {
    let perception = algorithm.and_then(|algorithm| algorithm.perception.clone());
    perception.unwrap_or_else(Perception::vppo).corruption
}
