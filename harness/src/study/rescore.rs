//! Kept rollouts of a run under another algorithm, without a model.

use super::RunConfig;
use crate::algo::{Algorithm, Batch, Comparison, Corrupted, Response, compare};
use crate::config::{Scale, Setting, Study};
use crate::store::{CellKey, CellRecord};
use crate::types::RolloutLine;
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// What is compared.
#[derive(Clone, Copy, Debug)]
pub struct Other<'a> {
    /// Study whose variant it is.
    pub study: &'a Study,
    /// The variant.
    pub variant: &'a str,
    /// Changes of its settings.
    pub overrides: &'a [Setting],
}

/// A run beside another algorithm, step by step.
#[derive(Clone, Debug)]
pub struct Rescored {
    /// The run.
    pub key: CellKey,
    /// Each kept step with what was found; the run's own algorithm is the one, the variant's the other.
    pub steps: Vec<(u64, Comparison)>,
}

/// Compares the gradients of a run's kept rollouts under its own algorithm and under another at the run's scale.
///
/// # Errors
/// Where the folder holds no trained run, or one that kept no rollouts; where an algorithm needs what was not kept.
pub fn rescore(dir: &Path, other: Other<'_>) -> Result<Rescored> {
    let cell = CellRecord::at(dir)?;
    let config = RunConfig::from_stored(&cell.config()?)?;
    let own = config.algorithm.as_ref();
    let own = own.with_context(|| format!("{}: the base model as it is: nothing was trained", cell.key()))?;
    let scale = Scale::load(&config.scale)?;
    let variant = RunConfig::resolve(&scale, other.study, other.variant, config.seed, other.overrides)?;
    let variant =
        variant.algorithm.with_context(|| format!("the variant {} is not trained", other.variant))?;
    let steps = cell.rollout_steps()?;
    ensure!(
        !steps.is_empty(),
        "{}: no rollouts were kept; train it with --set train.record_every=N (into another --out)",
        cell.key()
    );
    let compared = steps.into_iter().map(|step| {
        let lines = cell.rollouts(step)?;
        let found = compare_lines(&config, step, &lines, own, &variant);
        Ok((step, found.with_context(|| format!("{}, step {step}", cell.key()))?))
    });
    Ok(Rescored { key: cell.key().clone(), steps: compared.collect::<Result<_>>()? })
}

fn compare_lines(
    config: &RunConfig,
    step: u64,
    lines: &[RolloutLine],
    one: &Algorithm,
    other: &Algorithm,
) -> Result<Comparison> {
    let batch = batch(config, step, lines);
    let reference: Vec<Vec<f64>> = lines.iter().map(|line| widen(&line.reference_logp_t)).collect();
    for algorithm in [one, other] {
        batch.check(algorithm)?;
        let complete = reference.iter().zip(lines).all(|(r, line)| r.len() == line.logp_t.len());
        ensure!(
            !algorithm.needs_reference() || complete,
            "a penalty on the KL to the first policy needs its log-probabilities, which only runs with such a penalty keep"
        );
        let entropies = lines.iter().all(|line| line.entropy_t.len() == line.logp_t.len());
        ensure!(entropies, "a line has not one entropy per token");
    }
    Ok(compare(&batch, Some(&reference), one, other))
}

/// The batch that the run learned from.
fn batch(config: &RunConfig, step: u64, lines: &[RolloutLine]) -> Batch {
    let train = &config.train;
    let groups = lines.len() / train.group_size.max(1);
    Batch {
        responses: lines.iter().map(response).collect(),
        group_size: train.group_size,
        mini_batch_responses: train.mini_batch_prompts.min(groups) * train.group_size,
        micro_batch_responses: train.micro_batch_responses,
        max_response_tokens: config.sampling.max_new_tokens,
        seed: config.seed,
        step: step.saturating_sub(1),
    }
}

pub(super) fn response(line: &RolloutLine) -> Response {
    Response {
        item: line.item.clone(),
        sample: line.sample,
        reward: line.outcome.reward(),
        old_logp_t: widen(&line.logp_t),
        entropy_t: widen(&line.entropy_t),
        corrupted: Some(Corrupted {
            logp_t: widen(&line.corrupted_logp_t),
            kl_t: widen(&line.kl_t),
            js_t: widen(&line.js_t),
        }),
    }
}

fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}
