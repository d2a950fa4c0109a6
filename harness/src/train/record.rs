//! Rollouts of a step, kept token by token.

use super::Trainer;
use crate::algo::recorded_corruption;
use crate::rollout::Group;
use crate::spotlight::record;
use crate::types::RolloutLine;
use anyhow::{Context, Result};

impl Trainer<'_> {
    /// The lines of a step about to be learned from, in the order of its updates. Every arm's responses are scored under a
    /// corrupted picture here, those too whose algorithm asks for none: then it is the paper's corruption.
    pub(super) fn record(&self, groups: &[Group]) -> Result<Vec<RolloutLine>> {
        let corruption = recorded_corruption(Some(self.recipe.algorithm));
        let renderer = &self.policy.renderer;
        let (old_logp, reference) = (self.old_logp(groups)?, self.reference_logp(groups)?);
        let mut corrupted = self.corrupted(groups, &corruption, true)?.into_iter();
        let mut lines = vec![];
        for group in groups {
            for index in 0..group.samples.len() {
                let at = lines.len();
                let scores = corrupted.next().context("one corrupted score per response")?;
                let reference = reference.as_ref().map(|logp| logp[at].as_slice());
                lines.push(record(renderer, group, index, &old_logp[at], reference, &scores)?);
            }
        }
        Ok(lines)
    }
}
