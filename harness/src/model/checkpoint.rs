//! Checkpoints: a directory in the hub's layout for weights, safetensors bytes for the optimiser's state.

use super::config::VlConfig;
use super::kernels::{tensor, view};
use super::network::Model;
use super::optimizer::AdamW;
use super::params::{Loaded, Source};
use crate::rng::{Purpose, stream};
use crate::settings::{ModelSettings, OptimizerSettings};
use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::Path;

/// Name of the weights in a checkpoint directory.
pub const WEIGHTS: &str = "model.safetensors";
/// Name of the model's configuration.
pub const CONFIG: &str = "config.json";
/// Name of the tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";
/// Name of the tokenizer's configuration.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// Name of the picture processor's configuration.
pub const PREPROCESSOR: &str = "preprocessor_config.json";
/// Name of the chat template.
pub const CHAT_TEMPLATE: &str = "chat_template.json";
/// Name of the generation defaults, which name the end tokens.
pub const GENERATION: &str = "generation_config.json";

/// Files of a checkpoint by name.
pub type Files = Vec<(String, Vec<u8>)>;

/// Reads the files of a checkpoint directory that this crate uses.
///
/// # Errors
/// Names a file that is missing or cannot be read. `tokenizer_config.json`, `chat_template.json` and
/// `generation_config.json` may be missing; what they hold is then looked for in the others.
pub fn read_dir(dir: &Path) -> Result<Files> {
    let mut files = vec![];
    for (name, needed) in [
        (WEIGHTS, true),
        (CONFIG, true),
        (TOKENIZER, true),
        (PREPROCESSOR, true),
        (TOKENIZER_CONFIG, false),
        (CHAT_TEMPLATE, false),
        (GENERATION, false),
    ] {
        let path = dir.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => files.push((name.to_owned(), bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !needed => {}
            Err(error) => {
                return Err(error).with_context(|| {
                    format!(
                        "cannot read {}: --model names a checkpoint directory in the hub's layout",
                        path.display()
                    )
                });
            }
        }
    }
    Ok(files)
}

/// Random initial weights by tensor name, scaled by fan-in; projections into the residual stream are smaller.
struct Initial {
    seed: u64,
    layers: usize,
}

impl Source for Initial {
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let count: usize = shape.iter().product();
        if shape.len() == 1 {
            let constant = if name.ends_with("bias") { 0.0 } else { 1.0 };
            return tensor(vec![constant; count], shape);
        }
        let fan_in: usize = shape[1..].iter().product();
        let residual =
            ["o_proj.weight", "down_proj.weight", "attn.proj.weight"].iter().any(|s| name.ends_with(s));
        let std = if name.contains("embed_tokens") {
            0.2
        } else if name.contains("lm_head") {
            0.05
        } else if residual {
            (1.0 / (fan_in * 2 * self.layers) as f64).sqrt()
        } else {
            (1.0 / fan_in as f64).sqrt()
        };
        let mut draws = stream(self.seed, Purpose::Weights, &[name.into()]);
        tensor((0..count).map(|_| (draws.normal() * std) as f32).collect(), shape)
    }
}

impl Model {
    /// A model with random weights that depend on the seed and the tensors' names alone.
    pub fn random(settings: &ModelSettings, vocab_size: usize, image_token: u32, seed: u64) -> Result<Self> {
        let config = VlConfig::from_settings(settings, vocab_size, image_token)?;
        Self::build(config, &mut Initial { seed, layers: settings.layers })
    }

    /// A model from the text of `config.json` and the bytes of `model.safetensors`. Weights of any float type
    /// become f32.
    pub fn from_bytes(config: &str, weights: &[u8]) -> Result<Self> {
        let config = VlConfig::parse(config)?;
        let mut loaded = Loaded(read_tensors(weights)?);
        let model = Self::build(config, &mut loaded)?;
        if model.config.tie_word_embeddings {
            loaded.0.remove("lm_head.weight");
        }
        if let Some(name) = loaded.0.keys().next() {
            bail!("tensor {name:?} is not part of the model ({} such tensors)", loaded.0.len());
        }
        Ok(model)
    }

    /// The bytes of `model.safetensors` (f32).
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        write_tensors(self.params.iter().map(|(name, t)| (name.to_owned(), t.clone())))
    }

    /// Replaces all parameters by those in the bytes of a `model.safetensors` of the same configuration.
    pub fn replace_weights(&mut self, weights: &[u8]) -> Result<()> {
        *self = Self::build(self.config.clone(), &mut Loaded(read_tensors(weights)?))?;
        Ok(())
    }
}

impl AdamW {
    /// Moments and update count as safetensors bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let moments = self.moments().iter().enumerate().flat_map(|(i, (m, v))| {
            [(format!("{i:05}.first"), m.clone()), (format!("{i:05}.second"), v.clone())]
        });
        // Exact in two f32 halves of 24 bits.
        let updates = [self.updates() >> 24, self.updates() & 0xff_ffff].map(|x| x as f32).to_vec();
        write_tensors(moments.chain([("updates".to_owned(), tensor(updates, &[2])?)]))
    }

    /// State from [`AdamW::to_bytes`], checked against the model's parameters.
    pub fn from_bytes(model: &Model, settings: OptimizerSettings, bytes: &[u8]) -> Result<Self> {
        let mut loaded = Loaded(read_tensors(bytes)?);
        let halves = loaded.take("updates", &[2])?;
        let halves = view(&halves)?;
        let updates = ((halves[0] as u64) << 24) | halves[1] as u64;
        let moments = model
            .params
            .iter()
            .enumerate()
            .map(|(i, (_, t))| {
                Ok((
                    loaded.take(&format!("{i:05}.first"), t.dims())?,
                    loaded.take(&format!("{i:05}.second"), t.dims())?,
                ))
            })
            .collect::<Result<_>>()?;
        Ok(Self::restore(settings, updates, moments))
    }
}

fn write_tensors(tensors: impl Iterator<Item = (String, Tensor)>) -> Result<Vec<u8>> {
    let map: BTreeMap<String, Tensor> = tensors.collect();
    let metadata = [("format".to_owned(), "pt".to_owned())].into_iter().collect();
    Ok(safetensors::serialize(&map, Some(metadata))?)
}

fn read_tensors(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>> {
    let file = SafeTensors::deserialize(bytes).context("not a whole safetensors file")?;
    let mut tensors = BTreeMap::new();
    for (name, data) in file.tensors() {
        let dtype = DType::try_from(data.dtype()).with_context(|| format!("tensor {name:?}"))?;
        let raw = Tensor::from_raw_buffer(data.data(), dtype, data.shape(), &Device::Cpu)?;
        let value = raw.to_dtype(DType::F32).with_context(|| format!("tensor {name:?}"))?;
        ensure!(tensors.insert(name.clone(), value).is_none(), "tensor {name:?} occurs twice");
    }
    Ok(tensors)
}
