//! The named algorithms. Each line cites where its value comes from.

use super::algorithm::*;
use crate::settings::{Corruption, CorruptionKind, CorruptionScope};

/// Names that [`Algorithm::preset`] knows, in the order in which they are explained.
pub const PRESETS: &[&str] = &[
    "grpo",
    "grpo_easyr1",
    "grpo_vppo",
    "dapo",
    "dapo_no_entropy_penalty",
    "vppo",
    "vppo_paper",
    "reweight_only",
    "mask_only",
];

impl Algorithm {
    /// The algorithm of that name, or `None`; the names are [`PRESETS`].
    pub fn preset(name: &str) -> Option<Algorithm> {
        Some(match name {
            "grpo" => Algorithm::grpo(),
            "grpo_easyr1" => Algorithm::grpo_easyr1(),
            "grpo_vppo" => Algorithm::grpo_vppo(),
            "dapo" => Algorithm::dapo(),
            "dapo_no_entropy_penalty" => Algorithm::dapo_no_entropy_penalty(),
            "vppo" => Algorithm::vppo(),
            "vppo_paper" => Algorithm::vppo_paper(),
            "reweight_only" => Algorithm::reweight_only(),
            "mask_only" => Algorithm::mask_only(),
            _ => return None,
        })
    }

    /// GRPO as the paper writes it. The configuration behind the paper's GRPO rows is not stated; nor is
    /// whether they had the entropy penalty, so there is none here.
    pub fn grpo() -> Algorithm {
        Algorithm {
            advantage: Advantage {
                normalise_std: true, // paper eq. 1
                unbiased_std: true,  // not stated in the paper; as the reference, core_algos.py
                epsilon: 0.0,        // paper eq. 1 has none
            },
            clip: Clip {
                low: 0.2,   // paper eq. 2 (symmetric; the value is not stated: Table 9's low bound)
                high: 0.2,  // paper eq. 2
                dual: None, // paper eq. 2 has none
            },
            aggregation: Aggregation::Sequence, // paper eq. 2
            group_filter: None,                 // paper section 3 has none
            overlong_penalty: None,             // paper section 3 has none
            kl: None,                           // paper eq. 2 has none
            entropy_penalty: None,              // paper section 4 names DAPO and VPPO only
            perception: None,
        }
    }

    /// GRPO as EasyR1 runs it, the framework of the reference.
    pub fn grpo_easyr1() -> Algorithm {
        Algorithm {
            advantage: reference_advantage(),
            clip: Clip {
                low: 0.2,        // EasyR1 verl/workers/actor/config.py, default
                high: 0.3,       // the same
                dual: Some(3.0), // the same
            },
            aggregation: Aggregation::Token, // the same, loss_avg_mode "token"
            group_filter: None,              // EasyR1 examples/config.yaml, online_filtering false
            overlong_penalty: None,          // EasyR1 examples/config.yaml
            kl: Some(KlPenalty { coef: 0.01 }), // EasyR1 examples/config.yaml, low_var_kl
            entropy_penalty: None,           // not in EasyR1
            perception: None,
        }
    }

    /// VPPO's parts on GRPO (paper Table 5; that run's configuration is not stated, so this is [`Self::grpo`]).
    pub fn grpo_vppo() -> Algorithm {
        Algorithm { perception: Some(Perception::vppo()), ..Algorithm::grpo() }
    }

    /// The paper's baseline: the reference with both perception flags off.
    pub fn dapo() -> Algorithm {
        Algorithm {
            advantage: reference_advantage(),
            clip: Clip {
                low: 0.2,        // paper Table 9; train_vppo_7b.sh
                high: 0.28,      // paper Table 9; train_vppo_7b.sh
                dual: Some(3.0), // reference default, not in the paper
            },
            aggregation: Aggregation::Token, // paper Table 9; loss_avg_mode "token"
            group_filter: Some(GroupFilter {
                low: 0.01,  // reference config.yaml, filter_low
                high: 0.99, // reference config.yaml, filter_high
            }),
            overlong_penalty: None, // not in the paper's recipe (App. B), nor in the reference's path
            kl: None,               // paper Table 9; disable_kl true
            entropy_penalty: Some(EntropyPenalty { coef: 0.06 }), // paper section 4, App. E: on DAPO and VPPO
            perception: None,
        }
    }

    /// DAPO without the entropy penalty (paper Table 10, lambda = 0: the run that collapses).
    pub fn dapo_no_entropy_penalty() -> Algorithm {
        Algorithm { entropy_penalty: None, ..Algorithm::dapo() }
    }

    /// VPPO as the reference runs it (train_vppo_7b.sh).
    pub fn vppo() -> Algorithm {
        Algorithm { perception: Some(Perception::vppo()), ..Algorithm::dapo() }
    }

    /// VPPO as the paper states it. Where its equations and its table of settings disagree (mean over
    /// sequences or tokens, symmetric clipping or not), the table counts.
    pub fn vppo_paper() -> Algorithm {
        let mut algorithm = Algorithm::vppo();
        algorithm.advantage.epsilon = 0.0; // eq. 1
        algorithm.clip.dual = None; // eq. 6
        algorithm.perception = Some(Perception {
            estimator: Estimator::FullKl, // eq. 3 (App. B and G admit an estimator)
            shaping: Some(Shaping {
                range_scope: Scope::Batch,   // eq. 5, "over batch B"
                ceiling_scope: Scope::Batch, // section 4, "dynamic per batch"; formula as the reference
                ..reference_shaping()
            }),
            ..Perception::vppo()
        });
        algorithm
    }

    /// Trajectory shaping alone, "+ TAS only" in paper Table 2.
    pub fn reweight_only() -> Algorithm {
        let perception = Perception { token_filter: None, ..Perception::vppo() };
        Algorithm { perception: Some(perception), ..Algorithm::vppo() }
    }

    /// Token filtering alone, "+ TGF only" in paper Table 2.
    pub fn mask_only() -> Algorithm {
        let perception = Perception { shaping: None, ..Perception::vppo() };
        Algorithm { perception: Some(perception), ..Algorithm::vppo() }
    }
}

impl Perception {
    /// The perception part of the reference's VPPO.
    pub fn vppo() -> Perception {
        Perception {
            corruption: Corruption {
                kind: CorruptionKind::Patches {
                    patch_pixels: 14, // paper App. F; reference perc_utils.py
                    probability: 0.5, // paper App. F; reference perc_utils.py
                },
                scope: CorruptionScope::Response, // paper Algorithm 1; reference
            },
            estimator: Estimator::SampledK3 {
                log_ratio_clamp: 20.0,   // reference dp_actor.py
                value_clamp: Some(10.0), // reference dp_actor.py, not in the paper
            },
            token_filter: Some(TokenFilter {
                guide: Guide::Perception,            // paper eq. 4
                entropy_of: PolicyVersion::Current, // reference, use_vppo_on_entropy (not used by this guide)
                fraction: 0.4,                      // paper section 4; top_p_perception_tokens
                mask: Mask::Binary,                 // paper eq. 4
                denominator: Denominator::AllTokens, // paper eq. 6; reference
            }),
            shaping: Some(reference_shaping()),
        }
    }
}

fn reference_advantage() -> Advantage {
    Advantage {
        normalise_std: true, // core_algos.py, compute_grpo_outcome_advantage
        unbiased_std: true,  // core_algos.py, torch.std
        epsilon: 1e-6,       // core_algos.py, eps
    }
}

fn reference_shaping() -> Shaping {
    Shaping {
        floor: 0.9,                           // paper section 4; advantage_scaling_min
        ceiling: Ceiling::Dynamic {},         // paper section 4; dp_actor.py, dynamic_scaling_max
        applies_to: ShapingTarget::Advantage, // paper eq. 5
        range_scope: Scope::MiniBatch,        // dp_actor.py: per device and mini-batch, no all_reduce
        ceiling_scope: Scope::MicroBatch,     // dp_actor.py: mean over the micro-batch
    }
}
