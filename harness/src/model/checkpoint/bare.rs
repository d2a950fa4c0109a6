//! A directory to be measured: `config.json`, with weights or without.

use super::super::compute::Compute;
use super::super::config::VlConfig;
use super::super::kernels::tensor;
use super::super::network::Model;
use super::super::params::Source;
use super::{CONFIG, Start, open_on, start};
use crate::rng::{Purpose, stream};
use anyhow::{Context, Result};
use candle_core::Tensor;
use serde_json::Value;
use std::path::Path;

/// Values of the table that fills weights: a prime, so that no row of a matrix begins as another does.
const TABLE: usize = 65_537;

/// The token ids of a `config.json` that stand for pictures, and those that end a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PictureMarks {
    /// Before a picture's visual tokens.
    pub start: Option<u32>,
    /// After them.
    pub end: Option<u32>,
    /// The place of a visual token of a video.
    pub video: Option<u32>,
    /// End of a response.
    pub eos: Vec<u32>,
}

impl PictureMarks {
    /// Reads them from a directory's `config.json`.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::parse(&config_text(dir)?)
    }

    fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context(CONFIG)?;
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = |value: &Value| -> Vec<u32> {
            value
                .as_array()
                .map_or_else(|| id(value).into_iter().collect(), |ids| ids.iter().filter_map(id).collect())
        };
        let eos =
            [&value, &value["text_config"]].iter().flat_map(|part| ids(&part["eos_token_id"])).collect();
        Ok(Self {
            start: id(&value["vision_start_token_id"]),
            end: id(&value["vision_end_token_id"]),
            video: id(&value["video_token_id"]),
            eos,
        })
    }
}

fn config_text(dir: &Path) -> Result<String> {
    let path = dir.join(CONFIG);
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// The configuration of a checkpoint directory, which need hold no weights.
///
/// # Errors
/// Names the directory whose `config.json` cannot be read or is not one of Qwen2.5-VL.
pub fn config(dir: &Path) -> Result<VlConfig> {
    VlConfig::parse(&config_text(dir)?).with_context(|| format!("checkpoint {}", dir.display()))
}

/// The model of a directory, and whether its weights are its own: where the directory holds no `.safetensors`, they are
/// filled with normal numbers of the usual sizes. Those repeat a table, which is fast and as good for measuring as
/// any; do not train on them.
///
/// # Errors
/// As [`open_on`].
pub fn open_or_fill(dir: &Path, seed: u64, compute: &Compute) -> Result<(Model, bool)> {
    let config = config(dir)?;
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
    if names.any(|name| name.to_string_lossy().contains(".safetensors")) {
        return Ok((open_on(dir, compute)?, true));
    }
    let mut draws = stream(seed, Purpose::Timing, &["weights".into()]);
    let table = (0..TABLE).map(|_| draws.normal() as f32).collect();
    let mut filled = Filled { table, next: 0, layers: config.text.num_hidden_layers };
    Ok((Model::build(config, &mut filled, compute)?, false))
}

/// Weights that repeat a table of standard normal numbers, scaled as those of a model made from scratch.
struct Filled {
    table: Vec<f32>,
    next: usize,
    layers: usize,
}

impl Source for Filled {
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let count: usize = shape.iter().product();
        match start(name, shape, self.layers) {
            Start::Constant(constant) => tensor(vec![constant; count], shape),
            Start::Normal(std) => {
                let from = self.next;
                self.next = (from + count) % TABLE;
                let values = self.table.iter().cycle().skip(from).take(count);
                tensor(values.map(|x| x * std as f32).collect(), shape)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_both_spellings_of_the_end_token() {
        let marks = PictureMarks::parse(r#"{"vision_start_token_id": 7, "eos_token_id": [1, 2]}"#).unwrap();
        assert_eq!(marks, PictureMarks { start: Some(7), end: None, video: None, eos: vec![1, 2] });
        assert_eq!(PictureMarks::parse(r#"{"eos_token_id": 3}"#).unwrap().eos, [3]);
        assert_eq!(PictureMarks::parse(r#"{"text_config": {"eos_token_id": 4}}"#).unwrap().eos, [4]);
    }

    #[test]
    fn filled_weights_go_on_where_the_tensor_before_ended() {
        let mut filled = Filled { table: (0..TABLE).map(|i| i as f32).collect(), next: TABLE - 1, layers: 1 };
        let first = filled.take("lm_head.weight", &[1, 3]).unwrap();
        let second = filled.take("lm_head.weight", &[1, 1]).unwrap();
        let std = 0.05f32;
        assert_eq!(first.to_vec2::<f32>().unwrap(), [[(TABLE - 1) as f32 * std, 0.0, std]]);
        assert_eq!(second.to_vec2::<f32>().unwrap(), [[2.0 * std]]);
        assert_eq!(filled.take("x.bias", &[2]).unwrap().to_vec1::<f32>().unwrap(), [0.0, 0.0]);
    }
}
