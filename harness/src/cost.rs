//! What a training step costs, by formula: weights, [`memory`] by part, tokens, floating-point operations ([`flops`]),
//! and the [`time`] that follows at given rates. Pure arithmetic on settings; nothing here is measured.

pub mod flops;
pub mod memory;
pub mod time;
pub mod units;

use crate::settings::{ModelSettings, TrainSettings};
use flops::{Sequences, Vision};

/// Side in pixels of the square that becomes one visual token.
const TOKEN_PIXELS: usize = 28;
/// Values of one patch: 3 channels x 2 frames x 14 x 14.
const PATCH_VALUES: u64 = 1176;

/// Number of weights of a Qwen2.5-VL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    /// Embedding and head.
    pub vocabulary: u64,
    /// Layers of the language model.
    pub language: u64,
    /// Vision tower with its merger.
    pub vision: u64,
}

impl Weights {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.vocabulary + self.language + self.vision
    }
}

/// Counts the weights of a model of these sizes.
pub fn weights(model: &ModelSettings, vocab_size: usize) -> Weights {
    let width = model.hidden_size as u64;
    let (v, v_wide) = (model.vision_hidden_size as u64, model.vision_intermediate_size as u64);
    let block = 4 * v * v + 4 * v + 3 * v * v_wide + 2 * v_wide + v + 2 * v;
    let merger = v + (4 * v) * (4 * v) + 4 * v + 4 * v * width + width;
    let tables = if model.tie_word_embeddings { 1 } else { 2 };
    Weights {
        vocabulary: tables * vocab_size as u64 * width,
        language: model.layers as u64 * layer_weights(model) + width,
        vision: PATCH_VALUES * v + model.vision_depth as u64 * block + merger,
    }
}

/// Weights of one layer of the language model.
fn layer_weights(model: &ModelSettings) -> u64 {
    let (width, wide, kv) = (model.hidden_size as u64, model.intermediate_size as u64, kv_width(model));
    2 * width * width + width + 2 * (width * kv + kv) + 3 * width * wide + 2 * width
}

/// Width of the keys (and of the values) of all heads of one layer.
fn kv_width(model: &ModelSettings) -> u64 {
    (model.hidden_size / model.heads.max(1) * model.kv_heads) as u64
}

/// Most visual tokens of one picture.
pub fn picture_tokens(model: &ModelSettings) -> u64 {
    (model.max_pixels / (TOKEN_PIXELS * TOKEN_PIXELS)) as u64
}

/// Visual tokens of as many of the largest pictures as a prompt has room for, at least one.
pub fn most_visual_tokens(model: &ModelSettings, prompt: u64) -> u64 {
    let picture = picture_tokens(model).max(1);
    ((prompt / picture).max(1) * picture).min(prompt)
}

/// Longest prompt and response, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Prompt with its visual tokens.
    pub prompt: u64,
    /// Those visual tokens.
    pub visual: u64,
    /// Response.
    pub response: u64,
}

/// The sequences of one training step at their greatest lengths, each prompt once for its group, its visual tokens those
/// of the largest pictures.
pub fn step_sequences(model: &ModelSettings, train: &TrainSettings, lengths: Lengths) -> Sequences {
    Sequences {
        prompts: train.prompts_per_step as u64,
        group: train.group_size as u64,
        prompt_tokens: lengths.prompt,
        response_tokens: lengths.response,
        vision: Vision::of_pictures(model, lengths.visual),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn sizes(text: [usize; 5], tied: bool, vision_wide: usize) -> ModelSettings {
        let [hidden_size, intermediate_size, layers, heads, kv_heads] = text;
        ModelSettings {
            hidden_size,
            intermediate_size,
            layers,
            heads,
            kv_heads,
            mrope_section: [16, 24, 24],
            rope_theta: 1e6,
            tie_word_embeddings: tied,
            vision_hidden_size: 1280,
            vision_intermediate_size: vision_wide,
            vision_depth: 32,
            vision_heads: 16,
            vision_full_attention_blocks: vec![7, 15, 23, 31],
            vision_window_pixels: 112,
            min_pixels: 200_704,
            max_pixels: 1_003_520,
        }
    }

    /// The published numbers of parameters of the three checkpoints.
    #[test]
    fn weights_of_the_published_models() {
        let seven = sizes([3584, 18944, 28, 28, 4], false, 3420);
        assert_eq!(weights(&seven, 152_064).total(), 8_292_166_656);
        let thirty_two = sizes([5120, 27648, 64, 40, 8], false, 3456);
        assert_eq!(weights(&thirty_two, 152_064).total(), 33_452_718_336);
        let three = sizes([2048, 11008, 36, 16, 2], true, 3420);
        assert_eq!(weights(&three, 151_936).total(), 3_754_622_976);
    }
}
