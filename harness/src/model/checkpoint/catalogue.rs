//! All tensors of a checkpoint, found by their original names and checked before any value is read.

use super::names;
use super::shard::Shard;
use super::{INDEX, WEIGHTS};
use crate::model::kernels::{tensor, view};
use crate::model::ops::on_host;
use crate::model::params::Source;
use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Names shown in one message.
const SHOWN: usize = 5;

/// Original name of the output head.
const HEAD: &str = "lm_head.weight";

/// Names and shapes of a model's tensors.
pub(super) type Inventory = BTreeMap<String, Vec<usize>>;

/// Notes which tensors a model asks for and hands out placeholders without memory.
impl Source for Inventory {
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.insert(name.to_owned(), shape.to_vec());
        Ok(Tensor::zeros((), DType::F32, &Device::Cpu)?.broadcast_as(shape)?)
    }
}

/// The tensors of one or more safetensors files.
pub(super) struct Catalogue<'a> {
    shards: Vec<Shard<'a>>,
    /// Original name -> shard, and the name that its file has.
    places: BTreeMap<String, (usize, String)>,
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    metadata: IndexMetadata,
    weight_map: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
struct IndexMetadata {
    /// Bytes of all values; some tools write it as a float.
    total_size: Option<f64>,
}

impl Catalogue<'static> {
    /// The weights in a checkpoint directory: one file, or shards with an index.
    pub fn open(dir: &Path) -> Result<Self> {
        let (single, index) = (dir.join(WEIGHTS), dir.join(INDEX));
        match (single.exists(), index.exists()) {
            (true, false) => Self::new(vec![Shard::open(&single)?]),
            (false, true) => {
                Self::new(open_shards(dir, &index).with_context(|| index.display().to_string())?)
            }
            (true, true) => bail!(
                "{} has both {WEIGHTS} and {INDEX}: remove the weights that are out of date",
                dir.display()
            ),
            (false, false) => bail!(
                "{} has neither {WEIGHTS} nor {INDEX}: a checkpoint directory in the hub's layout is needed",
                dir.display()
            ),
        }
    }
}

impl<'a> Catalogue<'a> {
    /// The tensors in the bytes of one file.
    pub fn in_memory(bytes: &'a [u8]) -> Result<Self> {
        Self::new(vec![Shard::in_memory(WEIGHTS, bytes)?])
    }

    fn new(shards: Vec<Shard<'a>>) -> Result<Self> {
        let mut places: BTreeMap<String, (usize, String)> = BTreeMap::new();
        for (index, shard) in shards.iter().enumerate() {
            for name in shard.tensors.keys().filter(|name| !names::is_rotary_table(name)) {
                if let Some((other, twin)) = places.insert(names::original(name), (index, name.clone())) {
                    bail!(
                        "tensor {name:?} of {} and tensor {twin:?} of {} are the same one",
                        shard.name,
                        shards[other].name
                    );
                }
            }
        }
        Ok(Self { shards, places })
    }

    /// Compares names and shapes with those a model needs. `tied`: the output head is the embedding, so that
    /// a head in the files is allowed ([`Catalogue::check_tied_head`] looks at its values).
    ///
    /// # Errors
    /// One message with all differences, the first few of each kind by name.
    pub fn check(&self, inventory: &Inventory, tied: bool) -> Result<()> {
        let missing = inventory.keys().filter(|name| !self.places.contains_key(*name));
        let missing = missing.map(|name| format!("{name:?}"));
        let is_known = |name: &String| inventory.contains_key(name) || (tied && name == HEAD);
        let extra = self.places.iter().filter(|(name, _)| !is_known(name));
        let extra = extra.map(|(_, (shard, name))| format!("{name:?} in {}", self.shards[*shard].name));
        let shapes = inventory.iter().filter_map(|(original, expected)| {
            let (shard, name) = self.places.get(original)?;
            let (file, found) = (&self.shards[*shard].name, &self.shards[*shard].tensors[name].shape);
            let differs = found != expected;
            differs.then(|| format!("{name:?} in {file} is {found:?}, config.json asks for {expected:?}"))
        });
        let mut faults: Vec<String> =
            [("missing", some(missing)), ("not part of the model", some(extra)), ("misshapen", some(shapes))]
                .into_iter()
                .filter_map(|(fault, names)| Some(format!("{fault}: {}", names?)))
                .collect();
        if !tied && !self.places.contains_key(HEAD) {
            faults.push(format!("config.json has no \"tie_word_embeddings\": true, so {HEAD} is needed"));
        }
        ensure!(
            faults.is_empty(),
            "the tensors are not those of the model in config.json; {}",
            faults.join("; ")
        );
        Ok(())
    }

    /// Where the head is tied but the files hold one: it must be the embedding.
    pub fn check_tied_head(&self, embedding: &Tensor) -> Result<()> {
        let Some((shard, name)) = self.places.get(HEAD) else { return Ok(()) };
        ensure!(
            self.shards[*shard].holds(name, &view(&on_host(embedding)?)?)?,
            "config.json ties the output head to the embedding, but tensor {name:?} of {} differs from it: set \
             \"tie_word_embeddings\" to false to use that head, or remove it",
            self.shards[*shard].name
        );
        Ok(())
    }
}

impl Source for Catalogue<'_> {
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let (shard, own_name) = self
            .places
            .get(name)
            .with_context(|| format!("tensor {name:?} is missing from the checkpoint"))?;
        let shard = &self.shards[*shard];
        let found = &shard.tensors[own_name].shape;
        ensure!(found == shape, "tensor {own_name:?} of {} has shape {found:?}, not {shape:?}", shard.name);
        tensor(shard.read(own_name)?, shape)
    }
}

/// Opens the shards that an index names and compares them with it.
fn open_shards(dir: &Path, index: &Path) -> Result<Vec<Shard<'static>>> {
    let text = std::fs::read(index).context("cannot be read")?;
    let index: Index = serde_json::from_slice(&text).context("not an index of shards")?;
    let files: BTreeSet<&String> = index.weight_map.values().collect();
    let mut shards = vec![];
    for file in files {
        let plain = Path::new(file).file_name().is_some_and(|name| name == file.as_str());
        ensure!(plain, "it names the shard {file:?}, which is not the name of a file beside it");
        shards.push(Shard::open(&dir.join(file)).context("a shard that the index names")?);
    }
    compare_with_index(&index, &shards)?;
    Ok(shards)
}

fn compare_with_index(index: &Index, shards: &[Shard<'_>]) -> Result<()> {
    for shard in shards {
        let listed = index.weight_map.iter().filter(|(_, file)| **file == shard.name);
        let absent = listed.filter(|(name, _)| !shard.tensors.contains_key(*name));
        if let Some(absent) = some(absent.map(|(name, _)| format!("{name:?}"))) {
            bail!("it says that {} holds these tensors, which it does not: {absent}", shard.name);
        }
        let unlisted = shard.tensors.keys().filter(|name| index.weight_map.get(*name) != Some(&shard.name));
        let place = |name: &String| match index.weight_map.get(name) {
            Some(other) => format!("{name:?} (listed for {other})"),
            None => format!("{name:?}"),
        };
        if let Some(unlisted) = some(unlisted.map(place)) {
            bail!("{} holds these tensors, which the index does not list for it: {unlisted}", shard.name);
        }
    }
    let found: u64 = shards.iter().map(|shard| shard.value_bytes).sum();
    match index.metadata.total_size {
        Some(total) if total != found as f64 => {
            bail!("it says total_size {total}, but the shards hold {found} bytes of values")
        }
        _ => Ok(()),
    }
}

/// The first few of these and how many more there are; nothing if there are none.
fn some(mut items: impl Iterator<Item = String>) -> Option<String> {
    let shown: Vec<String> = items.by_ref().take(SHOWN).collect();
    let more = items.count();
    match (shown.is_empty(), more) {
        (true, _) => None,
        (_, 0) => Some(shown.join(", ")),
        _ => Some(format!("{} and {more} more", shown.join(", "))),
    }
}
