//! Checkpoints: a directory in the hub's layout, safetensors bytes for models and the optimiser's state.
//!
//! [`open`] reads what the hub serves and what transformers writes: one file or shards with an index, f32, f16 or
//! bf16, every naming of the tensors in use (`names`). All names, shapes and lengths are checked before a value is
//! read (`catalogue`); then each tensor is converted to f32 straight into its place (`shard`), so that opening needs
//! little more memory than the model. [`save`] writes the original layout. Source: the safetensors format, and
//! transformers' `modeling_utils.py` for the index. Deviations: an index whose `total_size` is wrong is refused, and
//! so is a head that a tied configuration says not to be there and that differs from the embedding.

mod bare;
mod catalogue;
mod float;
mod names;
mod save;
mod shard;

use super::compute::Compute;
use super::config::VlConfig;
use super::kernels::{tensor, view};
use super::network::Model;
use super::optimizer::{AdamW, State};
use super::params::Source;
use crate::rng::{Purpose, stream};
use crate::settings::{ModelSettings, OptimizerSettings};
use anyhow::{Context, Result, ensure};
pub use bare::{PictureMarks, config, open_or_fill};
use candle_core::Tensor;
use catalogue::{Catalogue, Inventory};
pub(crate) use save::files_for;
pub use save::{SaveSettings, WeightType, save};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

/// Name of the weights in a checkpoint directory, where they are one file.
pub const WEIGHTS: &str = "model.safetensors";
/// Name of the index of the weights, where they are several files.
pub const INDEX: &str = "model.safetensors.index.json";
/// Name of the model's configuration.
pub const CONFIG: &str = "config.json";
/// Name of the tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";
/// Name of the tokenizer's configuration.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// Name of the picture processor's configuration.
pub const PREPROCESSOR: &str = "preprocessor_config.json";
/// Name of the configuration of all processors, which newer transformers write instead.
pub const PROCESSOR: &str = "processor_config.json";
/// Name of the chat template in JSON.
pub const CHAT_TEMPLATE: &str = "chat_template.json";
/// Name of the bare chat template, which newer transformers write instead.
pub const CHAT_TEMPLATE_JINJA: &str = "chat_template.jinja";
/// Name of the generation defaults, which name the end tokens.
pub const GENERATION: &str = "generation_config.json";

/// Every file of a checkpoint that is not weights: read if it is there, and saved beside new weights. The last
/// ones are for other programs.
const COMPANIONS: [&str; 13] = [
    CONFIG,
    TOKENIZER,
    PREPROCESSOR,
    PROCESSOR,
    TOKENIZER_CONFIG,
    CHAT_TEMPLATE,
    CHAT_TEMPLATE_JINJA,
    GENERATION,
    "video_preprocessor_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
];

/// Files of a checkpoint by name.
pub type Files = Vec<(String, Vec<u8>)>;

/// Reads the files of a checkpoint directory that are not weights: configuration, tokenizer, processors, chat
/// template, generation defaults.
///
/// # Errors
/// Names `config.json` or `tokenizer.json` if it is missing, or a file that cannot be read.
pub fn read_companions(dir: &Path) -> Result<Files> {
    let mut files = vec![];
    for name in COMPANIONS {
        let path = dir.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => files.push((name.to_owned(), bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
    let has = |name: &str| files.iter().any(|(found, _)| found == name);
    for needed in [CONFIG, TOKENIZER] {
        let way_out = if needed == TOKENIZER && has("vocab.json") {
            "vocab.json is there, but tokenizer.json is the only form of a tokenizer that is read; transformers writes \
             it: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        } else {
            "a checkpoint directory in the hub's layout is needed"
        };
        ensure!(has(needed), "{} is missing: {way_out}", dir.join(needed).display());
    }
    Ok(files)
}

/// What identifies a checkpoint: BLAKE3 over the names and contents of its weights and companions.
///
/// # Errors
/// Names a folder or file that cannot be read.
pub fn fingerprint(dir: &Path) -> Result<String> {
    let unreadable = || format!("cannot read {}", dir.display());
    let mut names: Vec<String> = vec![];
    for entry in std::fs::read_dir(dir).with_context(unreadable)? {
        let name = entry.with_context(unreadable)?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".safetensors") || name == INDEX || COMPANIONS.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names.sort();
    let mut all = blake3::Hasher::new();
    for name in names {
        let path = dir.join(&name);
        let mut hasher = blake3::Hasher::new();
        let file = std::fs::File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        hasher.update_reader(file).with_context(|| format!("cannot read {}", path.display()))?;
        all.update(format!("{name} {}\n", hasher.finalize().to_hex()).as_bytes());
    }
    Ok(all.finalize().to_hex().to_string())
}

/// Opens the model of a checkpoint directory. Weights of any type (f32, f16, bf16) become f32.
///
/// Peak memory is the model's and a few megabytes for each thread. The files must not be changed meanwhile.
///
/// # Errors
/// Names the directory, the file and the tensor: a configuration that is not supported; a missing, surplus,
/// misshapen or repeated tensor; a truncated file; an index that does not fit its shards.
pub fn open(dir: &Path) -> Result<Model> {
    open_on(dir, &Compute::cpu())
}

/// As [`open`], each tensor put in the type and on the device of `compute` as soon as it is read.
///
/// # Errors
/// Those of [`open`], and a device without room.
pub fn open_on(dir: &Path, compute: &Compute) -> Result<Model> {
    let path = dir.join(CONFIG);
    let config = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let read = || Model::read(VlConfig::parse(&config)?, Catalogue::open(dir)?, compute);
    read().with_context(|| format!("checkpoint {}", dir.display()))
}

/// Random initial weights by tensor name, scaled by fan-in; projections into the residual stream are smaller.
struct Initial {
    seed: u64,
    layers: usize,
}

/// How a tensor begins.
enum Start {
    /// One value everywhere: norms and biases.
    Constant(f32),
    /// Normal with this standard deviation.
    Normal(f64),
}

/// How the tensor of this name and shape begins in a model of `layers` layers.
fn start(name: &str, shape: &[usize], layers: usize) -> Start {
    if shape.len() == 1 {
        return Start::Constant(if name.ends_with("bias") { 0.0 } else { 1.0 });
    }
    let fan_in: usize = shape[1..].iter().product();
    let residual =
        ["o_proj.weight", "down_proj.weight", "attn.proj.weight"].iter().any(|s| name.ends_with(s));
    Start::Normal(if name.contains("embed_tokens") {
        0.2
    } else if name.contains("lm_head") {
        0.05
    } else if residual {
        (1.0 / (fan_in * 2 * layers) as f64).sqrt()
    } else {
        (1.0 / fan_in as f64).sqrt()
    })
}

impl Source for Initial {
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let count: usize = shape.iter().product();
        match start(name, shape, self.layers) {
            Start::Constant(constant) => tensor(vec![constant; count], shape),
            Start::Normal(std) => {
                let mut draws = stream(self.seed, Purpose::Weights, &[name.into()]);
                tensor((0..count).map(|_| (draws.normal() * std) as f32).collect(), shape)
            }
        }
    }
}

/// Tensors of a model that exists.
struct Held(BTreeMap<String, Tensor>);

impl Source for Held {
    fn take(&mut self, name: &str, _: &[usize]) -> Result<Tensor> {
        self.0.remove(name).with_context(|| format!("the model has no tensor {name:?}"))
    }
}

impl Model {
    /// A model with random weights that depend on the seed and the tensors' names alone.
    pub fn random(settings: &ModelSettings, vocab_size: usize, image_token: u32, seed: u64) -> Result<Self> {
        let config = VlConfig::from_settings(settings, vocab_size, image_token)?;
        Self::build(config, &mut Initial { seed, layers: settings.layers }, &Compute::cpu())
    }

    /// A model from the text of `config.json` and the bytes of `model.safetensors`. Weights of any float type
    /// become f32.
    pub fn from_bytes(config: &str, weights: &[u8]) -> Result<Self> {
        Self::read(VlConfig::parse(config)?, Catalogue::in_memory(weights)?, &Compute::cpu())
    }

    fn read(config: VlConfig, mut catalogue: Catalogue<'_>, compute: &Compute) -> Result<Self> {
        let mut inventory = Inventory::new();
        Self::build(config.clone(), &mut inventory, &Compute::cpu())?;
        let tied = config.tie_word_embeddings;
        catalogue.check(&inventory, tied)?;
        let model = Self::build(config, &mut catalogue, compute)?;
        if tied {
            catalogue.check_tied_head(model.head().weight)?;
        }
        Ok(model)
    }

    /// The same model in the numbers and on the device of `compute`.
    pub fn on(&self, compute: &Compute) -> Result<Self> {
        let tensors = self.params.iter().map(|(name, t)| (name.to_owned(), t.clone()));
        Self::build(self.config.clone(), &mut Held(tensors.collect()), compute)
    }

    /// The bytes of `model.safetensors`, in the type that the weights have.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        write_tensors(self.params.iter().map(|(name, t)| (name.to_owned(), t.clone())))
    }

    /// Replaces all parameters by those in the bytes of a `model.safetensors` of the same configuration.
    pub fn replace_weights(&mut self, weights: &[u8]) -> Result<()> {
        let compute = self.params.compute().clone();
        *self = Self::read(self.config.clone(), Catalogue::in_memory(weights)?, &compute)?;
        Ok(())
    }
}

impl AdamW {
    /// Moments and update count as safetensors bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let states = self.states().iter().enumerate();
        let moments = states.flat_map(|(i, state)| {
            state.tensors().map(move |(name, t)| (format!("{i:05}.{name}"), t.clone()))
        });
        // Exact in two f32 halves of 24 bits.
        let updates = [self.updates() >> 24, self.updates() & 0xff_ffff].map(|x| x as f32).to_vec();
        write_tensors(moments.chain([("updates".to_owned(), tensor(updates, &[2])?)]))
    }

    /// State from [`AdamW::to_bytes`], checked against the model's parameters.
    pub fn from_bytes(model: &Model, settings: OptimizerSettings, bytes: &[u8]) -> Result<Self> {
        let mut loaded = Catalogue::in_memory(bytes)?;
        let halves = loaded.take("updates", &[2])?;
        let halves = view(&halves)?;
        let updates = ((halves[0] as u64) << 24) | halves[1] as u64;
        let mut states = State::zeros(&model.params)?;
        for (i, state) in states.iter_mut().enumerate() {
            let mut read = |name: &str, t: &mut Tensor| -> Result<()> {
                let value = loaded.take(&format!("{i:05}.{name}"), t.dims())?;
                *t = value.to_dtype(t.dtype())?.to_device(t.device())?;
                Ok(())
            };
            read("first", &mut state.first)?;
            read("second", &mut state.second)?;
            if let Some(lost) = &mut state.lost {
                read("lost", lost)?;
            }
        }
        Ok(Self::restore(settings, updates, states))
    }
}

fn write_tensors(tensors: impl Iterator<Item = (String, Tensor)>) -> Result<Vec<u8>> {
    let map: BTreeMap<String, Tensor> = tensors.collect();
    let metadata = [("format".to_owned(), "pt".to_owned())].into_iter().collect();
    Ok(safetensors::serialize(&map, Some(metadata))?)
}
