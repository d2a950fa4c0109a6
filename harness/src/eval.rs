//! Evaluation: k completions per item, graded, one line each. It does not know which benchmark it runs.

use crate::progress::{Interrupted, Progress};
use crate::rng::{Purpose, stream};
use crate::rollout::Policy;
use crate::settings::EvalSettings;
use crate::types::{Example, SampleLine};
use anyhow::{Result, ensure};

/// Evaluates items, in order; `seed` is the run's, so that all arms of a study share the sampling noise.
///
/// `done` completions were finished before (for the progress display); returns one line per completion.
pub fn evaluate(
    policy: &Policy,
    examples: &[Example],
    settings: &EvalSettings,
    seed: u64,
    done: &mut u64,
    progress: &dyn Progress,
) -> Result<Vec<SampleLine>> {
    ensure!(settings.samples > 0, "eval.samples must be at least 1");
    let samples = settings.samples as usize;
    let mut lines = Vec::with_capacity(examples.len() * samples);
    for chunk in examples.chunks((settings.batch / samples).max(1)) {
        if progress.stop_requested() {
            return Err(Interrupted.into());
        }
        let groups = policy.sample(chunk.to_vec(), samples, &settings.sampling, |example, sample| {
            let at = [(&example.benchmark).into(), (&example.id).into(), sample.into()];
            stream(seed, Purpose::Evaluation, &at)
        })?;
        lines.extend(groups.iter().flat_map(|g| g.lines()));
        *done += (chunk.len() * samples) as u64;
        let right = lines.iter().filter(|l| l.outcome.reward() > 0.0).count();
        let name = chunk.first().map_or("", |e| e.benchmark.as_str());
        progress.advance(*done, &format!("{name} {:.1} %", 100.0 * right as f64 / lines.len() as f64));
    }
    Ok(lines)
}
