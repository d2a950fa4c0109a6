//! The base model of a run: made here by a warm start, or a checkpoint of the hub.

use super::{Inputs, RunConfig, Sources};
use crate::config::Origin;
use crate::image::AreaRule;
use crate::model::Compute;
use crate::model::checkpoint::{Files, fingerprint};
use crate::model::config::VlConfig;
use crate::progress::{Interrupted, Progress};
use crate::rollout::Policy;
use crate::settings::{CheckpointSettings, WarmStart, WorldSettings};
use crate::store::{Artifact, ArtifactBuilder, Checkpoint, Store};
use crate::warm_start::{Apprentice, Lessons, untrained};
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// Steps of the warm start between two checkpoints.
const WARM_START_CHECKPOINT: u64 = 100;

/// The base model: from the cache or made now, or from the hub. Fills in what a hub checkpoint was.
pub fn base_policy(
    config: &RunConfig,
    sources: &Sources,
    store: &Store,
    inputs: &mut Inputs,
    progress: &dyn Progress,
) -> Result<Policy> {
    let area = AreaRule { min_pixels: config.model.min_pixels, max_pixels: config.model.max_pixels };
    let compute = Compute::open(&config.compute)?;
    match config.origin()? {
        Origin::Made { world, warm_start } => {
            let waiting = |dir: &Path| {
                progress.note(&format!("another process makes the base model in {}", dir.display()))
            };
            let files = match store.artifact("base", &config.base_hash()?, waiting)? {
                Artifact::Ready(ready) => ready.files()?,
                Artifact::Missing(builder) => make_base(config, world, warm_start, builder, progress)?,
            };
            Policy::from_files(files, &config.instruction, Some(area))?.on(&compute)
        }
        Origin::Hub { checkpoint, data } => {
            let (dir, commit) = sources.checkpoint(checkpoint, progress)?;
            inputs.checkpoint = Some(fingerprint(&dir)?);
            inputs.checkpoint_commit = commit;
            let mut policy = Policy::open_on(&dir, &config.instruction, Some(area), &compute)?;
            refuse_other_sizes(config, checkpoint, &policy)?;
            policy.set_alpha(data.alpha);
            Ok(policy)
        }
    }
}

/// The policy as the evaluation protocol shows it pictures.
pub fn evaluated(mut policy: Policy, config: &RunConfig) -> Policy {
    if let Some(range) = config.eval.pictures {
        policy.set_area(AreaRule { min_pixels: range.min_pixels, max_pixels: range.max_pixels });
    }
    policy
}

/// A checkpoint of another size than the scale states would make its plan, and its name, wrong.
fn refuse_other_sizes(config: &RunConfig, checkpoint: &CheckpointSettings, policy: &Policy) -> Result<()> {
    let expected = VlConfig::from_settings(&config.model, checkpoint.vocab_size, 0)?;
    let differences = expected.differences(policy.model.config());
    ensure!(
        differences.is_empty(),
        "{} is not the model that scale {} states in [model] and [checkpoint]: {}",
        checkpoint.repo,
        config.scale,
        differences.join("; ")
    );
    Ok(())
}

fn make_base(
    config: &RunConfig,
    world: &WorldSettings,
    settings: &WarmStart,
    builder: ArtifactBuilder,
    progress: &dyn Progress,
) -> Result<Files> {
    const WEIGHTS: &str = "weights.safetensors";
    const OPTIMIZER: &str = "optimizer.safetensors";
    let mut policy = untrained(&config.model, &config.instruction, settings.seed)?;
    let renderer = policy.renderer.clone();
    let lessons = Lessons { world, settings, renderer: &renderer };
    let mut apprentice = Apprentice::new(policy.model.clone(), settings)?;
    if let Some(checkpoint) = builder.checkpoints().newest()? {
        let file = |name: &str| {
            let found = checkpoint.files.iter().find(|(n, _)| n == name);
            found
                .map(|(_, bytes)| bytes.as_slice())
                .with_context(|| format!("the warm start's checkpoint has no {name}"))
        };
        apprentice = apprentice.restore(file(WEIGHTS)?, file(OPTIMIZER)?, settings)?;
    }
    progress.begin("make the base model", apprentice.step(), settings.steps);
    while apprentice.step() < settings.steps {
        if progress.stop_requested() {
            return Err(Interrupted.into());
        }
        let loss = apprentice.learn(&lessons)?;
        let step = apprentice.step();
        if step % WARM_START_CHECKPOINT == 0 && step < settings.steps {
            let (weights, state) = apprentice.state()?;
            let files = vec![(WEIGHTS.into(), weights), (OPTIMIZER.into(), state)];
            builder.checkpoints().save(&Checkpoint { step, files })?;
        }
        progress.advance(step, &format!("loss {loss:.3} nats per token"));
    }
    progress.end();
    policy.model = apprentice.model;
    let files = policy.to_files()?;
    builder.publish(files.clone())?;
    Ok(files)
}
