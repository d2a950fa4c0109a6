//! Configuration: sparse TOML that people write -> complete, checked, hashed settings of one run.
//!
//! Layers, later ones win: the algorithm preset, the scale file (complete), the study's `[settings]`, the
//! variant's `settings`, those it has `at` this scale, `--set key.path=value`. Tables merge key by key, with two exceptions
//! that make optional and alternative parts of the algorithm writable:
//!
//! - the text `"none"` in place of a table or number switches an optional part off;
//! - a table that states another `name` than the one below it replaces it whole (`name` selects a kind).
//!
//! A scale file adapts the parts that a preset has and never switches one on.
//!
//! The structs of [`crate::settings`] are the only schema: an unknown key, a wrong type, a missing value and a value
//! out of range are errors that name the key, the file and line (or the `--set`) it came from, and the way out.
//! `config` does not know what the settings do, nor which algorithms there are (see [`Presets`]).
//!
//! A variant states which settings it changes in another; [`check_changes`] holds it to that.
//!
//! Source: design.md, habits 3 and 9 (sparse settings that people write and complete ones that machines write are two
//! types); the values in `ablations/` cite the paper where they are the paper's.

mod changes;
mod check;
mod explain;
mod layer;
mod study;

pub use crate::store::{Difference, differences};
pub use changes::{changes, check_changes};
pub use check::consistent_compute;
pub use layer::Setting;
pub use study::{PaperRow, Scale, Study, Variant};

use crate::settings::{
    CheckpointSettings, ComputeSettings, DataSettings, EvalSettings, ModelSettings, OptimizerSettings,
    PixelRange, Sampling, TrainSettings, WarmStart, WorldSettings,
};
use crate::store::{CellKey, content_hash};
use anyhow::{Result, anyhow, bail, ensure};
use explain::{nearest, typed};
use layer::{Layer, Origins, Parts};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Keys of a run's address, which layers may not set.
const IDENTITY: [&str; 4] = ["scale", "study", "variant", "seed"];

/// An algorithm that has named presets: all that this module needs to know of it.
pub trait Presets: Serialize + DeserializeOwned {
    /// The names of the presets.
    const NAMES: &'static [&'static str];

    /// The preset of a name; `None` where there is none.
    fn preset(name: &str) -> Option<Self>;

    /// Says which value, by its key within the algorithm, makes no sense, and which values do.
    fn check(&self) -> Result<()>;
}

impl Presets for crate::algo::Algorithm {
    const NAMES: &'static [&'static str] = crate::algo::PRESETS;

    fn preset(name: &str) -> Option<Self> {
        Self::preset(name)
    }

    fn check(&self) -> Result<()> {
        self.check()
    }
}

/// Everything that determines a run: complete, checked, the content of `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig<A> {
    /// Name of the scale.
    pub scale: String,
    /// Name of the study.
    pub study: String,
    /// Name of the variant.
    pub variant: String,
    /// Training seed.
    pub seed: u64,
    /// Sentence after every question that says how to answer.
    pub instruction: String,
    /// What the policy is trained with; `None` evaluates the base model as it is.
    pub algorithm: Option<A>,
    /// Sizes of the model: of the one to make, or those that the checkpoint must have.
    pub model: ModelSettings,
    /// The generated questions, where the questions are generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub world: Option<WorldSettings>,
    /// How the base model is made, where it is made here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm_start: Option<WarmStart>,
    /// The base model, where it comes from the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointSettings>,
    /// Training set and benchmarks, where they come from the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataSettings>,
    /// The training loop.
    pub train: TrainSettings,
    /// Sampling of rollouts.
    pub sampling: Sampling,
    /// The optimiser.
    pub optimizer: OptimizerSettings,
    /// The evaluation.
    pub eval: EvalSettings,
    /// How the arithmetic is done.
    pub compute: ComputeSettings,
}

/// Where a run's base model and questions come from.
#[derive(Clone, Copy, Debug)]
pub enum Origin<'a> {
    /// Both are made here.
    Made {
        /// The generated questions.
        world: &'a WorldSettings,
        /// How the base model is made.
        warm_start: &'a WarmStart,
    },
    /// Both come from the hub.
    Hub {
        /// The base model.
        checkpoint: &'a CheckpointSettings,
        /// Training set and benchmarks.
        data: &'a DataSettings,
    },
}

impl<A: Presets> RunConfig<A> {
    /// Resolves one cell of a study.
    ///
    /// Fails on a variant or preset that does not exist, and on settings that are unknown, missing, of the wrong
    /// type or out of range.
    pub fn resolve(
        scale: &Scale,
        study: &Study,
        variant: &str,
        seed: u64,
        overrides: &[Setting],
    ) -> Result<RunConfig<A>> {
        let variant = study.variant(variant)?;
        let mut tree = Layer { value: preset_tree::<A>(study, variant)?, origins: Origins::default() };
        let written = std::iter::once(study.layer()).chain(variant.layers(&scale.name));
        let above = written.cloned().chain(overrides.iter().map(Setting::layer));
        let layers = std::iter::once((scale.layer().clone(), Parts::Adapt))
            .chain(above.map(|layer| (layer, Parts::Set)));
        for (layer, parts) in layers {
            refuse_identity(&layer)?;
            tree.overlay(&applicable(layer, variant), parts);
        }
        tree.identify(&[("scale", json!(scale.name)), ("study", json!(study.name))]);
        tree.identify(&[("variant", json!(variant.name)), ("seed", json!(seed))]);
        let config: RunConfig<A> = typed(&tree.value, &tree.origins)?;
        check::check(&config, &tree.origins)?;
        Ok(config)
    }

    /// Where base model and questions come from.
    ///
    /// # Errors
    /// If the settings state neither pair, or parts of both.
    pub fn origin(&self) -> Result<Origin<'_>> {
        match (&self.world, &self.warm_start, &self.checkpoint, &self.data) {
            (Some(world), Some(warm_start), None, None) => Ok(Origin::Made { world, warm_start }),
            (None, None, Some(checkpoint), Some(data)) => Ok(Origin::Hub { checkpoint, data }),
            _ => bail!(
                "a scale states either [world] and [warm_start] (questions and base model made here) or [data] and \
                 [checkpoint] (both from the hub), whole and not mixed"
            ),
        }
    }

    /// Picture areas of training.
    pub fn pictures(&self) -> PixelRange {
        PixelRange { min_pixels: self.model.min_pixels, max_pixels: self.model.max_pixels }
    }

    /// Reads a stored configuration back, with the same checks.
    pub fn from_stored(value: &Value) -> Result<RunConfig<A>> {
        let config: RunConfig<A> = typed(value, &Origins::default())?;
        check::check(&config, &Origins::default())?;
        Ok(config)
    }

    /// The configuration as JSON: what is stored, compared and hashed.
    pub fn to_value(&self) -> Result<Value> {
        Ok(serde_json::to_value(self)?)
    }

    /// BLAKE3 of the canonical JSON.
    pub fn hash(&self) -> Result<String> {
        Ok(content_hash(&self.to_value()?))
    }

    /// BLAKE3 of what counts, without the run's address: runs of one scale and seed that agree in it are the same. For a
    /// model that is not trained, the settings of training do not count.
    pub fn settings_hash(&self) -> Result<String> {
        let idle: &[&str] = if self.algorithm.is_some() { &[] } else { &["train", "sampling", "optimizer"] };
        let mut value = self.to_value()?;
        if let Some(map) = value.as_object_mut() {
            IDENTITY.iter().chain(idle).for_each(|key| drop(map.remove(*key)));
        }
        Ok(content_hash(&value))
    }

    /// BLAKE3 of what determines the base model: its sizes, the world, the warm start, the instruction that its
    /// lessons contain, and the version of this crate.
    pub fn base_hash(&self) -> Result<String> {
        Ok(content_hash(&json!({
            "harness": env!("CARGO_PKG_VERSION"),
            "instruction": self.instruction,
            "model": serde_json::to_value(&self.model)?,
            "warm_start": serde_json::to_value(&self.warm_start)?,
            "world": serde_json::to_value(&self.world)?,
        })))
    }

    /// The settings that this run changes in `base`, by dotted key; the addresses of the two are no settings.
    pub fn changes(&self, base: &RunConfig<A>) -> Result<Vec<Difference>> {
        let mut found = differences(&base.to_value()?, &self.to_value()?);
        found.retain(|difference| !IDENTITY.contains(&difference.key.as_str()));
        Ok(found)
    }

    /// Where the run is stored.
    pub fn key(&self) -> CellKey {
        let (scale, study) = (self.scale.clone(), self.study.clone());
        CellKey { scale, study, variant: self.variant.clone(), seed: self.seed }
    }
}

/// The lowest layer: the algorithm of the variant's preset, or none for a variant that is not trained.
fn preset_tree<A: Presets>(study: &Study, variant: &Variant) -> Result<Value> {
    let Some(name) = &variant.preset else { return Ok(json!({ "algorithm": null })) };
    let preset = A::preset(name).ok_or_else(|| {
        anyhow!(
            "variant `{}` of study `{}` asks for the preset `{name}`, which does not exist{}",
            variant.name,
            study.name,
            nearest(name, A::NAMES)
        )
    })?;
    Ok(json!({ "algorithm": serde_json::to_value(preset)? }))
}

/// A layer without the algorithm's settings where the variant has no algorithm.
fn applicable(mut layer: Layer, variant: &Variant) -> Layer {
    if let (None, Some(map)) = (&variant.preset, layer.value.as_object_mut()) {
        map.remove("algorithm");
    }
    layer
}

fn refuse_identity(layer: &Layer) -> Result<()> {
    for key in IDENTITY {
        ensure!(
            layer.value.get(key).is_none(),
            "`{key}` is not a setting{}: it is chosen on the command line",
            layer.origins.shown(key)
        );
    }
    Ok(())
}
