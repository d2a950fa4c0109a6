//! Evaluation: k completions per item, graded, one line each. It does not know which benchmark it runs.
//!
//! All items of a benchmark go to the decoder as one list: whenever a completion ends, the next one takes its place.

use crate::progress::Progress;
use crate::rng::{Purpose, stream};
use crate::rollout::{Group, Policy, SampleRules};
use crate::settings::{DecodeLimits, EvalSettings};
use crate::types::{Example, SampleLine};
use anyhow::{Result, ensure};
use std::collections::BTreeMap;

/// What an evaluation leaves.
pub struct Evaluated {
    /// One line per completion, in order.
    pub lines: Vec<SampleLine>,
    /// The first items whole, as many as the settings ask for.
    pub spotlight: Vec<Group>,
}

/// Evaluates items, in order; `seed` is the run's, so that all arms of a study share the sampling noise.
///
/// `done` completions were finished before (for the progress display).
///
/// # Errors
/// Those of [`Policy::sample_each`], among them [`crate::progress::Interrupted`].
pub fn evaluate(
    policy: &Policy,
    examples: &[Example],
    settings: &EvalSettings,
    seed: u64,
    done: &mut u64,
    progress: &dyn Progress,
) -> Result<Evaluated> {
    ensure!(settings.samples > 0, "eval.samples must be at least 1");
    let samples = settings.samples as usize;
    let stop = || progress.stop_requested();
    let rules = SampleRules {
        limits: DecodeLimits { max_sequences: at_once(settings, policy.limits), ..policy.limits },
        ..policy.rules(samples, &settings.sampling, &stop)
    };
    let at = |example: &Example, sample: usize| {
        let at = [(&example.benchmark).into(), (&example.id).into(), sample.into()];
        stream(seed, Purpose::Evaluation, &at)
    };
    let mut lines: Vec<Vec<SampleLine>> = vec![vec![]; examples.len()];
    let mut spotlight = BTreeMap::new();
    let (mut right, mut graded) = (0, 0);
    policy.sample_each(examples, &rules, at, &mut |i, group| {
        right += group.samples.iter().filter(|s| s.outcome.reward() > 0.0).count();
        graded += samples;
        *done += samples as u64;
        let accuracy = 100.0 * right as f64 / graded as f64;
        progress.advance(*done, &format!("{} {accuracy:.1} %", group.example.benchmark));
        lines[i] = group.lines();
        if i < settings.spotlight_items {
            spotlight.insert(i, group);
        }
        Ok(())
    })?;
    Ok(Evaluated {
        lines: lines.into_iter().flatten().collect(),
        spotlight: spotlight.into_values().collect(),
    })
}

/// Sequences decoded at a time: the evaluation's batch, or the policy's limit where that is lower.
fn at_once(settings: &EvalSettings, limits: DecodeLimits) -> usize {
    let batch = settings.batch.max(1);
    if limits.max_sequences == 0 { batch } else { batch.min(limits.max_sequences) }
}
