//! Study and scale files: those of this repository are part of the binary, others are read from a path.

use super::explain::{nearest, typed};
use super::layer::{Layer, Origins, parse_toml};
use anyhow::{Context as _, Result, anyhow, ensure};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A file of `ablations/` inside the binary: its name, its path in the repository, its text.
type Embedded = (&'static str, &'static str, &'static str);

macro_rules! embedded {
    ($name:literal, $path:literal) => {
        ($name, $path, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../", $path)))
    };
}
/// The scales of this repository.
const SCALES: [Embedded; 4] = [
    embedded!("tiny", "ablations/scale/tiny.toml"),
    embedded!("smoke", "ablations/scale/smoke.toml"),
    embedded!("7b", "ablations/scale/7b.toml"),
    embedded!("32b", "ablations/scale/32b.toml"),
];
/// The studies of this repository.
/// A cell that several of them share is kept under the first, so that a new study must be added at the end.
const STUDIES: [Embedded; 18] = [
    embedded!("main", "ablations/main.toml"),
    embedded!("components", "ablations/components.toml"),
    embedded!("shaping_range", "ablations/shaping_range.toml"),
    embedded!("guidance", "ablations/guidance.toml"),
    embedded!("on_grpo", "ablations/on_grpo.toml"),
    embedded!("soft_mask", "ablations/soft_mask.toml"),
    embedded!("reward_shaping", "ablations/reward_shaping.toml"),
    embedded!("entropy", "ablations/entropy.toml"),
    embedded!("perturbation", "ablations/perturbation.toml"),
    embedded!("dependency", "ablations/dependency.toml"),
    embedded!("group_size", "ablations/group_size.toml"),
    embedded!("equal_time", "ablations/equal_time.toml"),
    embedded!("fraction", "ablations/fraction.toml"),
    embedded!("estimator", "ablations/estimator.toml"),
    embedded!("scope", "ablations/scope.toml"),
    embedded!("top_p", "ablations/top_p.toml"),
    embedded!("corruption_scope", "ablations/corruption_scope.toml"),
    embedded!("grpo_like_for_like", "ablations/grpo_like_for_like.toml"),
];

fn names(embedded: &[Embedded]) -> Vec<&'static str> {
    embedded.iter().map(|(name, ..)| *name).collect()
}

/// The text of an embedded file, or of the file at a path (something with a `/` or ending in `.toml`).
/// Returns (name, path as shown, text).
fn open(what: &str, embedded: &[Embedded], asked: &str) -> Result<(String, String, String)> {
    if let Some((name, path, text)) = embedded.iter().find(|(name, ..)| *name == asked) {
        return Ok((name.to_string(), path.to_string(), text.to_string()));
    }
    let path = Path::new(asked);
    if !asked.contains('/') && path.extension().is_none_or(|extension| extension != "toml") {
        return Err(anyhow!(
            "there is no {what} `{asked}`{}; or give the path of a .toml file",
            nearest(asked, &names(embedded))
        ));
    }
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read the {what} file {asked}"))?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    Ok((name.into_owned(), asked.into(), text))
}

/// A scale: a complete set of settings of one size.
#[derive(Clone, Debug)]
pub struct Scale {
    /// Its name: part of the run's folder.
    pub name: String,
    layer: Layer,
}

impl Scale {
    /// The names of the scales of this repository.
    pub fn names() -> Vec<&'static str> {
        names(&SCALES)
    }

    /// Opens a scale by the name of an embedded one, or by path.
    pub fn load(asked: &str) -> Result<Scale> {
        let (name, path, text) = open("scale", &SCALES, asked)?;
        Ok(Scale { name, layer: parse_toml(&path, &text)? })
    }

    pub(super) fn layer(&self) -> &Layer {
        &self.layer
    }
}

/// A row of the paper's tables (`results/paper/tables.csv`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaperRow {
    /// Content of the column `table`.
    pub table: String,
    /// Content of the column `size`.
    pub size: String,
    /// Content of the column `row`.
    pub row: String,
}

/// One arm of a study.
#[derive(Clone, Debug)]
pub struct Variant {
    /// Its name: part of the run's folder.
    pub name: String,
    /// How tables call it.
    pub label: String,
    /// Preset of the algorithm; `None` is the base model as it is.
    pub preset: Option<String>,
    /// The rows it reproduces: at most one per size.
    pub paper: Vec<PaperRow>,
    /// The variant that it is a change of; `None` is the study's base.
    pub of: Option<String>,
    /// The settings in which it states to differ from that one.
    pub changes: Vec<String>,
    layer: Layer,
    at: BTreeMap<String, Layer>,
}

impl Variant {
    /// Its settings at every scale, then those at this one.
    pub(super) fn layers(&self, scale: &str) -> impl Iterator<Item = &Layer> {
        std::iter::once(&self.layer).chain(self.at.get(scale))
    }
}

/// A study: one question, its arms, the arm the others are compared with.
#[derive(Clone, Debug)]
pub struct Study {
    /// Its name: part of the run's folder.
    pub name: String,
    /// What it asks.
    pub question: String,
    /// Where the paper answers it.
    pub paper: String,
    /// Name of the variant the others are compared with.
    pub base: String,
    /// Training seeds unless the user asks for others.
    pub seeds: Vec<u64>,
    /// The arms, in the order of the tables.
    pub variants: Vec<Variant>,
    layer: Layer,
}

/// A study as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StudyFile {
    question: String,
    paper: String,
    base: String,
    seeds: Vec<u64>,
    #[serde(default)]
    settings: Map<String, Value>,
    variants: Vec<VariantFile>,
}

/// A variant as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VariantFile {
    name: String,
    label: String,
    #[serde(default = "trained")]
    train: bool,
    preset: Option<String>,
    #[serde(default)]
    paper: Vec<PaperRow>,
    of: Option<String>,
    #[serde(default)]
    changes: Vec<String>,
    #[serde(default)]
    settings: Map<String, Value>,
    #[serde(default)]
    at: BTreeMap<String, Map<String, Value>>,
}

fn trained() -> bool {
    true
}

impl Study {
    /// The names of the studies of this repository.
    pub fn names() -> Vec<&'static str> {
        names(&STUDIES)
    }

    /// Opens a study by the name of an embedded one, or by path.
    pub fn load(asked: &str) -> Result<Study> {
        let (name, path, text) = open("study", &STUDIES, asked)?;
        let Layer { value, origins } = parse_toml(&path, &text)?;
        let file: StudyFile = typed(&value, &origins)?;
        file.check().with_context(|| format!("study {path}"))?;
        let variants = file.variants.into_iter().enumerate();
        Ok(Study {
            name,
            question: file.question,
            paper: file.paper,
            base: file.base,
            seeds: file.seeds,
            variants: variants
                .map(|(index, variant)| variant.into_variant(&origins.below(&format!("variants[{index}]"))))
                .collect(),
            layer: Layer { value: Value::Object(file.settings), origins: origins.below("settings") },
        })
    }

    /// The variant of a name. Fails, naming the nearest, where there is none.
    pub fn variant(&self, name: &str) -> Result<&Variant> {
        let names: Vec<&str> = self.variants.iter().map(|variant| variant.name.as_str()).collect();
        let found = self.variants.iter().find(|variant| variant.name == name);
        found.ok_or_else(|| anyhow!("study `{}` has no variant `{name}`{}", self.name, nearest(name, &names)))
    }

    /// The name of the variant that this one is a change of; `None` for the base.
    pub fn reference<'a>(&'a self, variant: &'a Variant) -> Option<&'a str> {
        (variant.name != self.base).then_some(variant.of.as_ref().unwrap_or(&self.base))
    }

    pub(super) fn layer(&self) -> &Layer {
        &self.layer
    }
}

impl StudyFile {
    fn check(&self) -> Result<()> {
        let names: Vec<&str> = self.variants.iter().map(|variant| variant.name.as_str()).collect();
        let distinct: BTreeSet<_> = names.iter().collect();
        ensure!(distinct.len() == names.len(), "two variants have the same name: rename one");
        let base = self.base.as_str();
        ensure!(
            names.contains(&base),
            "`base` names the variant `{base}`, which is not there{}",
            nearest(base, &names)
        );
        let seeds: BTreeSet<_> = self.seeds.iter().collect();
        ensure!(
            !seeds.is_empty() && seeds.len() == self.seeds.len(),
            "`seeds` must list distinct seeds, at least one"
        );
        for variant in &self.variants {
            let name = &variant.name;
            ensure!(
                variant.train == variant.preset.is_some(),
                "variant `{name}` needs either a `preset` or `train = false`, and not both"
            );
            if let Some(of) = &variant.of {
                ensure!(name != base, "variant `{name}` is the base and cannot be a change `of` another");
                ensure!(of != name, "variant `{name}` cannot be a change `of` itself");
                ensure!(
                    names.contains(&of.as_str()),
                    "variant `{name}` is `of` the variant `{of}`, which is not there{}",
                    nearest(of, &names)
                );
            }
            ensure!(
                name != base || variant.changes.is_empty(),
                "variant `{name}` is the base, from which `changes` are counted: it has none"
            );
        }
        Ok(())
    }
}

impl VariantFile {
    /// `origins`: where its keys were written.
    fn into_variant(self, origins: &Origins) -> Variant {
        let VariantFile { name, label, preset, paper, of, changes, settings, at, .. } = self;
        let layer =
            |settings, key: &str| Layer { value: Value::Object(settings), origins: origins.below(key) };
        let at = at.into_iter().map(|(scale, settings)| {
            let layer = layer(settings, &format!("at.{scale}"));
            (scale, layer)
        });
        let (layer, at) = (layer(settings, "settings"), at.collect());
        Variant { name, label, preset, paper, of, changes, layer, at }
    }
}
