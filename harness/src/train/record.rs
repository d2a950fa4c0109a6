//! Rollouts of a step, kept token by token.

use super::Trainer;
use crate::algo::Perception;
use crate::rollout::Group;
use crate::settings::Corruption;
use crate::types::RolloutLine;
use anyhow::{Context, Result};

impl Trainer<'_> {
    /// The lines of a step about to be learned from, in the order of its updates. Every arm's responses are scored under a
    /// corrupted picture here, those too whose algorithm asks for none: then it is the paper's corruption.
    pub(super) fn record(&self, groups: &[Group]) -> Result<Vec<RolloutLine>> {
        let (old_logp, reference) = (self.old_logp(groups)?, self.reference_logp(groups)?);
        let mut corrupted = self.corrupted(groups, &self.corruption(), true)?.into_iter();
        let mut lines = vec![];
        for group in groups {
            for (sample, index) in group.samples.iter().zip(0..) {
                let at = lines.len();
                let scores = corrupted.next().context("one corrupted score per response")?;
                let text = |&id: &u32| self.policy.renderer.tokenizer.decode(&[id]);
                lines.push(RolloutLine {
                    item: group.example.id.clone(),
                    sample: index,
                    outcome: sample.outcome,
                    extracted: sample.extracted.clone(),
                    text_t: sample.completion.ids.iter().map(text).collect::<Result<_>>()?,
                    logp_t: narrow(&old_logp[at]),
                    entropy_t: sample.completion.entropy.clone(),
                    reference_logp_t: reference.as_ref().map_or(vec![], |logp| narrow(&logp[at])),
                    corrupted_logp_t: narrow(&scores.logp_t),
                    kl_t: narrow(&scores.kl_t),
                    js_t: narrow(&scores.js_t),
                });
            }
        }
        Ok(lines)
    }

    fn corruption(&self) -> Corruption {
        let perception = self.recipe.algorithm.perception.clone();
        perception.unwrap_or_else(Perception::vppo).corruption
    }
}

/// Log-probabilities were f32 before they were widened.
fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}
