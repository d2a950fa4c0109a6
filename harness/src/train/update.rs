//! The second half of a step: scoring under corrupted pictures, credit, gradient, optimiser.

use super::{Figures, Trainer};
use crate::algo::{Batch, Corrupted, Credit, Current, Metrics, Response, assign_credit, objective};
use crate::model::{Grads, Prompt, Tree};
use crate::rollout::{Group, Policy};
use crate::settings::{Corruption, OldLogp};
use anyhow::{Context, Result};
use rayon::prelude::*;
use std::sync::mpsc::sync_channel;

impl Trainer<'_> {
    pub(super) fn update(&mut self, groups: &[Group], figures: &mut Figures) -> Result<()> {
        let old_logp = self.old_logp(groups)?;
        let reference = self.reference_logp(groups)?;
        let batch = self.batch(groups, &old_logp)?;
        batch.check(self.recipe.algorithm)?;
        let credits = assign_credit(self.recipe.algorithm, &batch);
        write_credit(&credits, figures);

        let size = self.recipe.train.group_size;
        let per_update = batch.mini_batch_responses;
        let (mut metrics, mut norms, mut gap) = (Metrics::default(), vec![], Gap::default());
        for (number, mini) in groups.chunks(per_update / size).enumerate() {
            let first = number * per_update;
            let mut grads = Grads::new(self.policy.model.params());
            for micro in micro_batches(mini, batch.micro_batch_responses) {
                let trees: Vec<Tree<'_>> = micro.trees(mini);
                let forward = self.policy.model.forward(&trees)?;
                let mut dlogp = Vec::with_capacity(micro.len);
                for (i, logp) in forward.scores.logp.iter().enumerate() {
                    let at = first + micro.start + i;
                    let logp_t: Vec<f64> = widen(logp);
                    let entropy_t = widen(&forward.scores.entropy[i]);
                    let current = Current { logp_t: &logp_t, entropy_t: &entropy_t };
                    let reference_t = reference.as_ref().map(|r| r[at].as_slice());
                    let result =
                        objective(self.recipe.algorithm, &credits[at], current, &old_logp[at], reference_t);
                    metrics.add(&result.metrics);
                    if number == 0 {
                        gap.add(
                            &logp_t,
                            &mini[(micro.start + i) / size].samples[(micro.start + i) % size].completion.logp,
                        );
                    }
                    dlogp.push(result.dloss_dlogp_t);
                }
                self.policy.model.backward(&forward, &dlogp, &mut grads)?;
            }
            norms.push(self.optimizer.step(self.policy.model.params_mut(), &grads)?);
        }
        write_metrics(&metrics, norms.len(), figures);
        figures.insert("grad_norm".into(), norms.iter().sum::<f64>() / norms.len() as f64);
        gap.write(figures);
        Ok(())
    }

    /// Log-probabilities of the frozen first policy, where there is one.
    pub(super) fn reference_logp(&self, groups: &[Group]) -> Result<Option<Vec<Vec<f64>>>> {
        let micro = self.recipe.train.micro_batch_responses;
        self.reference.as_ref().map(|reference| score(reference, groups, micro)).transpose()
    }

    /// Log-probabilities of the sampling policy, response by response.
    pub(super) fn old_logp(&self, groups: &[Group]) -> Result<Vec<Vec<f64>>> {
        match self.recipe.train.old_logp {
            OldLogp::Rollout => {
                Ok(groups.iter().flat_map(|g| &g.samples).map(|s| widen(&s.completion.logp)).collect())
            }
            OldLogp::Recompute => score(&self.policy, groups, self.recipe.train.micro_batch_responses),
        }
    }

    fn batch(&self, groups: &[Group], old_logp: &[Vec<f64>]) -> Result<Batch> {
        let algorithm = self.recipe.algorithm;
        let corrupted = match &algorithm.perception {
            Some(perception) if algorithm.needs_corruption() => {
                let full = perception.estimator.needs_full_distribution();
                Some(self.corrupted(groups, &perception.corruption, full)?)
            }
            _ => None,
        };
        let mut corrupted = corrupted.map(Vec::into_iter);
        let mut old_logp = old_logp.iter();
        let mut responses = vec![];
        for group in groups {
            for (sample, index) in group.samples.iter().zip(0..) {
                responses.push(Response {
                    item: group.example.id.clone(),
                    sample: index,
                    reward: sample.outcome.reward(),
                    old_logp_t: old_logp.next().context("one old log-probability list per response")?.clone(),
                    entropy_t: widen(&sample.completion.entropy),
                    corrupted: corrupted.as_mut().and_then(Iterator::next),
                });
            }
        }
        let train = self.recipe.train;
        Ok(Batch {
            responses,
            group_size: train.group_size,
            mini_batch_responses: train.mini_batch_prompts.min(groups.len()) * train.group_size,
            micro_batch_responses: train.micro_batch_responses,
            max_response_tokens: self.recipe.sampling.max_new_tokens,
            seed: self.recipe.seed,
            step: self.position.step,
        })
    }

    /// Scores every response under its corrupted picture.
    pub(super) fn corrupted(
        &self,
        groups: &[Group],
        corruption: &Corruption,
        full: bool,
    ) -> Result<Vec<Corrupted>> {
        let mut out = vec![];
        let per_pass = (self.recipe.train.micro_batch_responses / self.recipe.train.group_size).max(1);
        let (renderer, seed, step) = (&self.policy.renderer, self.recipe.seed, self.position.step);
        let prepare = |part: &[Group]| -> Result<Vec<Vec<Prompt>>> {
            part.par_iter().map(|g| renderer.corrupted_prompts(g, corruption, seed, step)).collect()
        };
        // The pictures of the next pass are made while the model scores this one.
        std::thread::scope(|scope| {
            let (sender, prepared) = sync_channel(1);
            scope.spawn(move || groups.chunks(per_pass).try_for_each(|part| sender.send(prepare(part))));
            for part in groups.chunks(per_pass) {
                let prompts = prepared.recv().context("no corrupted pictures were made")??;
                out.extend(self.under_corruption(part, &prompts, full)?);
            }
            Ok(out)
        })
    }

    fn under_corruption(
        &self,
        part: &[Group],
        prompts: &[Vec<Prompt>],
        full: bool,
    ) -> Result<Vec<Corrupted>> {
        let trees: Vec<Tree<'_>> =
            part.iter().zip(prompts).flat_map(|(group, prompts)| corrupted_trees(group, prompts)).collect();
        if !full {
            let scores = self.policy.model.score(&trees)?;
            let corrupted =
                scores.logp.iter().map(|l| Corrupted { logp_t: widen(l), ..Corrupted::default() });
            return Ok(corrupted.collect());
        }
        let clean: Vec<Tree<'_>> = part.iter().map(Group::tree).collect();
        let rows = self.policy.model.divergences(&clean, &trees)?;
        let column = |row: &[[f64; 3]], i: usize| row.iter().map(|token| token[i]).collect();
        let corrupted = rows.iter().map(|row| Corrupted {
            logp_t: column(row, 0),
            kl_t: column(row, 1),
            js_t: column(row, 2),
        });
        Ok(corrupted.collect())
    }
}

/// One prompt for all responses, or one for each.
fn corrupted_trees<'a>(group: &'a Group, prompts: &'a [Prompt]) -> Vec<Tree<'a>> {
    match prompts {
        [prompt] => vec![Tree { prompt, responses: group.responses().collect() }],
        _ => prompts
            .iter()
            .zip(group.responses())
            .map(|(prompt, r)| Tree { prompt, responses: vec![r] })
            .collect(),
    }
}

fn score(policy: &Policy, groups: &[Group], micro_batch_responses: usize) -> Result<Vec<Vec<f64>>> {
    let mut out = vec![];
    for micro in micro_batches(groups, micro_batch_responses) {
        out.extend(policy.model.score(&micro.trees(groups))?.logp.iter().map(|l| widen(l)));
    }
    Ok(out)
}

fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// A run of responses of some groups; it may begin and end within a group.
struct MicroBatch {
    start: usize,
    len: usize,
}

fn micro_batches(groups: &[Group], size: usize) -> Vec<MicroBatch> {
    let total: usize = groups.iter().map(|g| g.samples.len()).sum();
    (0..total)
        .step_by(size.max(1))
        .map(|start| MicroBatch { start, len: size.max(1).min(total - start) })
        .collect()
}

impl MicroBatch {
    fn trees<'a>(&self, groups: &'a [Group]) -> Vec<Tree<'a>> {
        let (mut trees, mut at) = (vec![], 0);
        for group in groups {
            let from = self.start.max(at) - at;
            let to = (self.start + self.len).min(at + group.samples.len());
            if to > at + from {
                let responses = group.responses().take(to - at).skip(from).collect();
                trees.push(Tree { prompt: &group.prompt, responses });
            }
            at += group.samples.len();
        }
        trees
    }
}

fn write_credit(credits: &[Credit], figures: &mut Figures) {
    let n = credits.len() as f64;
    figures.insert(
        "abs_advantage_mean".into(),
        credits.iter().map(|c| c.shaped_advantage.abs()).sum::<f64>() / n,
    );
    figures.insert("shaping_factor_max".into(), credits.iter().map(|c| c.factor).fold(f64::MIN, f64::max));
    let dependency: Vec<f64> = credits.iter().flat_map(|c| c.dependency_t.iter().copied()).collect();
    if !dependency.is_empty() {
        let tokens = dependency.len() as f64;
        figures.insert("dependency_mean".into(), dependency.iter().sum::<f64>() / tokens);
        let low = dependency.iter().filter(|&&d| d < 0.2).count() as f64;
        figures.insert("dependency_below_0.2_frac".into(), low / tokens);
    }
}

fn write_metrics(metrics: &Metrics, updates: usize, figures: &mut Figures) {
    let means = metrics.finish(updates);
    for (name, value) in [
        ("loss", means.loss),
        ("policy_loss", means.policy_loss),
        ("kl_loss", means.kl_loss),
        ("entropy_loss", means.entropy_loss),
        ("kept_tokens_frac", means.kept_frac),
        ("clip_high_frac", means.clip_high_frac),
        ("clip_low_frac", means.clip_low_frac),
        ("clip_dual_frac", means.clip_dual_frac),
        ("approx_kl", means.approx_kl),
    ] {
        figures.insert(name.into(), value);
    }
}

/// Distance between the log-probabilities of sampler and trainer for the same weights and tokens.
#[derive(Default)]
struct Gap(Vec<f64>);

impl Gap {
    fn add(&mut self, trainer_t: &[f64], sampler_t: &[f32]) {
        self.0.extend(trainer_t.iter().zip(sampler_t).map(|(a, &b)| (a - f64::from(b)).abs()));
    }

    fn write(mut self, figures: &mut Figures) {
        self.0.sort_unstable_by(f64::total_cmp);
        let last = self.0.len().saturating_sub(1);
        let mean = self.0.iter().sum::<f64>() / self.0.len().max(1) as f64;
        figures.insert("logp_gap_mean".into(), mean);
        figures.insert("logp_gap_p95".into(), self.0.get(last * 95 / 100).copied().unwrap_or(0.0));
        figures.insert("logp_gap_max".into(), self.0.get(last).copied().unwrap_or(0.0));
    }
}
