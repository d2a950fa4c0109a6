//! What a training step costs, by formula: weights, memory by part, tokens, floating-point operations ([`flops`]).
//! Pure arithmetic on settings; nothing here is measured, and it knows no device.

pub mod flops;
pub mod units;

use crate::settings::{Dtype, ModelSettings, OptimizerState, TrainSettings};
use flops::{Sequences, Vision};

/// Side in pixels of the square that becomes one visual token.
const TOKEN_PIXELS: usize = 28;
/// Values of one patch: 3 channels x 2 frames x 14 x 14.
const PATCH_VALUES: u64 = 1176;
/// Tokens whose logits exist at the same time.
const LOGIT_CHUNK: u64 = 1024;

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
    let (width, wide) = (model.hidden_size as u64, model.intermediate_size as u64);
    let kv = kv_width(model);
    let attention = 2 * width * width + width + 2 * (width * kv + kv);
    let layer = attention + 3 * width * wide + 2 * width;
    let (v, v_wide) = (model.vision_hidden_size as u64, model.vision_intermediate_size as u64);
    let block = 4 * v * v + 4 * v + 3 * v * v_wide + 2 * v_wide + v + 2 * v;
    let merger = v + (4 * v) * (4 * v) + 4 * v + 4 * v * width + width;
    let tables = if model.tie_word_embeddings { 1 } else { 2 };
    Weights {
        vocabulary: tables * vocab_size as u64 * width,
        language: model.layers as u64 * layer + width,
        vision: PATCH_VALUES * v + model.vision_depth as u64 * block + merger,
    }
}

/// Width of the keys (and of the values) of all heads of one layer.
fn kv_width(model: &ModelSettings) -> u64 {
    (model.hidden_size / model.heads.max(1) * model.kv_heads) as u64
}

/// Most visual tokens of one picture.
pub fn picture_tokens(model: &ModelSettings) -> u64 {
    (model.max_pixels / (TOKEN_PIXELS * TOKEN_PIXELS)) as u64
}

/// As many of the largest pictures as a prompt has room for, at least one.
fn pictures(model: &ModelSettings, lengths: Lengths) -> u64 {
    (lengths.prompt / picture_tokens(model).max(1)).max(1)
}

/// Most visual tokens of a prompt.
fn visual_tokens(model: &ModelSettings, lengths: Lengths) -> u64 {
    picture_tokens(model) * pictures(model, lengths)
}

/// Longest prompt and response, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Prompt with its visual tokens.
    pub prompt: u64,
    /// Response.
    pub response: u64,
}

/// Memory in bytes by part, if every prompt and response has its greatest length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The weights.
    pub weights: u64,
    /// Their gradients.
    pub gradients: u64,
    /// The optimiser's state.
    pub optimizer: u64,
    /// Inputs of all layers for one micro-batch, kept for the backward pass.
    pub layer_inputs: u64,
    /// Intermediate values of one layer while it is computed again, and the logits of one chunk.
    pub workspace: u64,
    /// Keys and values of the responses that are sampled at the same time, and of their prompts.
    pub kv_cache: u64,
}

impl Memory {
    /// The parts that are there all the time, and the larger of what sampling and updating need.
    pub fn peak(&self) -> u64 {
        self.weights + self.gradients + self.optimizer + self.kv_cache.max(self.layer_inputs + self.workspace)
    }
}

/// Memory of training. `sequences` are sampled at the same time.
pub fn memory(
    model: &ModelSettings,
    vocab_size: usize,
    dtype: Dtype,
    optimizer: OptimizerState,
    train: &TrainSettings,
    lengths: Lengths,
    sequences: usize,
) -> Memory {
    let (bytes, group) = (dtype.bytes(), train.group_size as u64);
    let count = weights(model, vocab_size).total();
    let responses = train.micro_batch_responses as u64;
    let tokens = responses * lengths.response + responses.div_ceil(group) * lengths.prompt;
    let patches = 4 * visual_tokens(model, lengths) * responses.div_ceil(group);
    let (width, kv) = (model.hidden_size as u64, kv_width(model));
    let (v, v_wide) = (model.vision_hidden_size as u64, model.vision_intermediate_size as u64);
    let layer = tokens * (4 * width + 2 * kv + 3 * model.intermediate_size as u64) * bytes;
    let block = patches * (6 * v + 3 * v_wide) * bytes;
    let logits = 2 * LOGIT_CHUNK * vocab_size as u64 * Dtype::F32.bytes();
    let cached = sequences as u64 * lengths.response + (sequences as u64).div_ceil(group) * lengths.prompt;
    Memory {
        weights: count * bytes,
        gradients: count * bytes,
        optimizer: count * optimizer.bytes(),
        layer_inputs: (tokens * width * model.layers as u64 + patches * v * model.vision_depth as u64)
            * bytes,
        workspace: layer.max(block) + logits,
        kv_cache: cached * 2 * kv * model.layers as u64 * bytes,
    }
}

/// The sequences of one training step at their greatest lengths, each prompt once for its group, filled by as many of
/// the largest pictures as it has room for.
pub fn step_sequences(model: &ModelSettings, train: &TrainSettings, lengths: Lengths) -> Sequences {
    Sequences {
        prompts: train.prompts_per_step as u64,
        group: train.group_size as u64,
        prompt_tokens: lengths.prompt,
        response_tokens: lengths.response,
        vision: Vision::of_tokens(model, picture_tokens(model)).times(pictures(model, lengths)),
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

    #[test]
    fn memory_of_a_small_case_by_hand() {
        let model = ModelSettings { max_pixels: 784, ..sizes([64, 128, 2, 4, 2], false, 32) };
        let train = TrainSettings {
            steps: 1,
            prompts_per_step: 4,
            group_size: 2,
            mini_batch_prompts: 4,
            micro_batch_responses: 3,
            refill_prompts: 4,
            max_refills: 0,
            old_logp: crate::settings::OldLogp::Rollout,
            checkpoint_every: 1,
        };
        let lengths = Lengths { prompt: 10, response: 100 };
        let memory = memory(&model, 50, Dtype::Bf16, OptimizerState::Bf16Kahan, &train, lengths, 5);
        let count = weights(&model, 50).total();
        assert_eq!([memory.weights, memory.gradients, memory.optimizer], [2 * count, 2 * count, 6 * count]);
        // 3 responses of 2 prompts; 10 pictures of 4 patches per prompt.
        assert_eq!(memory.layer_inputs, (320 * 64 * 2 + 80 * 1280 * 32) * 2);
        // 5 responses of 3 prompts; keys and values 32 wide in 2 layers.
        assert_eq!(memory.kv_cache, 530 * 2 * 32 * 2 * 2);
        // A vision block is larger than a layer here.
        assert_eq!(memory.workspace, 80 * (6 * 1280 + 3 * 32) * 2 + 2 * 1024 * 50 * 4);
        let peak = 10 * count + memory.layer_inputs + memory.workspace;
        assert_eq!(memory.peak(), peak.max(10 * count + memory.kv_cache));
        let step = step_sequences(&model, &train, lengths);
        assert_eq!((step.all_prompt_tokens(), step.all_response_tokens()), (40, 800));
    }
}
