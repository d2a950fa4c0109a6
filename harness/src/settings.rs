//! Every setting of a run except the algorithm's own, as plain data.
//!
//! People write sparse TOML (`ablations/`), `config` turns it into these complete structs, and the complete
//! structs are what is stored and hashed. No defaults hide here: the scale files state each value.

use serde::{Deserialize, Serialize};

/// How a picture is corrupted before the policy re-scores its own tokens (paper App. F).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Corruption {
    /// What happens to the pixels.
    pub kind: CorruptionKind,
    /// One corrupted picture per response (the reference) or one per group.
    pub scope: CorruptionScope,
}

/// The perturbations of the paper's Table 11, with the parameters of the reference's `perc_utils.py`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum CorruptionKind {
    /// Squares of `patch_pixels` from the top-left corner, each set to black with `probability`.
    Patches {
        /// Side of a square in pixels (14 in the reference).
        patch_pixels: u32,
        /// Probability that a square is blackened (0.5 in VPPO).
        probability: f64,
    },
    /// Gaussian noise added to every channel of every pixel, then clamped to 0..255.
    Noise {
        /// Standard deviation in levels (189 in the reference).
        std: f64,
    },
    /// Gaussian blur.
    Blur {
        /// PIL's radius, that is the standard deviation in pixels (6.0 in the reference).
        radius: f64,
    },
    /// The whole picture replaced by one grey level.
    Full {
        /// The level (128 in the reference).
        level: u8,
    },
}

/// For how many responses one corrupted picture serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CorruptionScope {
    /// A fresh corruption for every response (the reference).
    Response,
    /// One corruption for all responses of a prompt: cheaper, an option of this harness.
    Group,
}

/// Sampling of completions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Softmax temperature; 0 means greedy.
    pub temperature: f64,
    /// Nucleus mass; 1 keeps the whole vocabulary.
    pub top_p: f64,
    /// Number of most likely tokens kept; 0 keeps all.
    pub top_k: usize,
    /// Longest response in tokens, the end token counted.
    pub max_new_tokens: usize,
}

/// How much is decoded at the same time: changes memory and speed, never a draw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Tokens whose keys and values are kept, prompts counted once per group; 0 is as many as all sequences need.
    pub kv_tokens: usize,
    /// Sequences decoded at the same time; 0 is all of them.
    pub max_sequences: usize,
}

/// Where the log-probabilities of the sampling policy come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OldLogp {
    /// Kept from the rollout (full softmax, not truncated by top-p).
    Rollout,
    /// Computed again by a forward pass of the trainer (the reference).
    Recompute,
}

/// The reinforcement-learning loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSettings {
    /// Number of rollout batches ("steps" of the paper's curves).
    pub steps: u64,
    /// Prompts kept per step (384 in the paper).
    pub prompts_per_step: usize,
    /// Responses per prompt (8 in the paper).
    pub group_size: usize,
    /// Prompts per optimiser update (128 in the paper).
    pub mini_batch_prompts: usize,
    /// Responses per forward and backward pass.
    pub micro_batch_responses: usize,
    /// Prompts drawn at a time while dynamic sampling fills a step (the reference: `prompts_per_step`).
    pub refill_prompts: usize,
    /// Most draws per step before training goes on with what was kept; 0 is no limit (the reference).
    pub max_refills: usize,
    /// Source of the old log-probabilities.
    pub old_logp: OldLogp,
    /// Steps between two checkpoints.
    pub checkpoint_every: u64,
    /// The rollouts of the first step, and of every so many, are kept token by token; 0 keeps none.
    pub record_every: u64,
}

/// AdamW.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerSettings {
    /// Constant learning rate (1e-6 in the paper).
    pub learning_rate: f64,
    /// First-moment decay.
    pub beta1: f64,
    /// Second-moment decay.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay (0.01 in the reference).
    pub weight_decay: f64,
    /// Gradient norm above which gradients are scaled down; 0 switches clipping off (1.0 in the reference).
    pub max_grad_norm: f64,
}

/// Evaluation protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalSettings {
    /// Completions per item (the k of avg@k; 8 in the paper).
    pub samples: u32,
    /// Items per benchmark; 0 takes all.
    pub items: usize,
    /// Sampling of evaluation.
    pub sampling: Sampling,
    /// Sequences decoded at a time; changes memory and speed, never a draw.
    pub batch: usize,
    /// The protocol that these settings follow; recorded with every number. None is the same as [`Protocol::Own`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// The first items of each benchmark whose completions are kept token by token, with their visual dependency and both
    /// pictures, for the report's pages; 0 keeps none.
    pub spotlight_items: usize,
    /// Picture areas of the evaluation where they are not those of training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pictures: Option<PixelRange>,
}

/// The evaluation protocols that have a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Whatever the settings say.
    Own,
    /// The paper (section 4, App. B): temperature 1, top-p 1, and the length limit of training, 2,048 new tokens at 7B
    /// and 4,096 at 32B. It names no top-k, hence the whole vocabulary, and no picture sizes, hence those of training.
    Paper,
    /// What the authors' evaluation script leaves in force (PAPO-Eval): also top-k 50, pictures of 1,024 to
    /// 589,824 pixels and 2,048 new tokens.
    PapoEval,
}

/// Allowed picture areas, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PixelRange {
    /// Smaller pictures are enlarged to about this area.
    pub min_pixels: usize,
    /// Larger pictures are reduced to at most this area.
    pub max_pixels: usize,
}

impl Protocol {
    /// All protocols, in the order in which they are explained.
    pub const ALL: [Protocol; 3] = [Protocol::Own, Protocol::Paper, Protocol::PapoEval];

    /// The name used on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Own => "own",
            Protocol::Paper => "paper",
            Protocol::PapoEval => "papo-eval",
        }
    }

    /// The settings that select the protocol, as `key=value`. `paper` leaves the length limit, which the paper states
    /// per model size, to the scale.
    pub fn settings(self) -> &'static [&'static str] {
        match self {
            Protocol::Own => &["eval.protocol=own"],
            Protocol::Paper => &[
                "eval.protocol=paper",
                "eval.sampling.temperature=1.0",
                "eval.sampling.top_p=1.0",
                "eval.sampling.top_k=0",
            ],
            Protocol::PapoEval => &[
                "eval.protocol=papo-eval",
                "eval.sampling.temperature=1.0",
                "eval.sampling.top_p=1.0",
                "eval.sampling.top_k=50",
                "eval.sampling.max_new_tokens=2048",
                "eval.pictures.min_pixels=1024",
                "eval.pictures.max_pixels=589824",
            ],
        }
    }

    /// Whether settings follow this protocol.
    pub fn is_followed_by(self, settings: &EvalSettings) -> bool {
        let Sampling { temperature, top_p, top_k, max_new_tokens } = settings.sampling;
        let plain = temperature == 1.0 && top_p == 1.0;
        match self {
            Protocol::Own => true,
            Protocol::Paper => {
                plain && top_k == 0 && [2048, 4096].contains(&max_new_tokens) && settings.pictures.is_none()
            }
            Protocol::PapoEval => {
                let pictures = PixelRange { min_pixels: 1_024, max_pixels: 589_824 };
                plain && top_k == 50 && max_new_tokens == 2048 && settings.pictures == Some(pictures)
            }
        }
    }
}

impl EvalSettings {
    /// The protocol in words, for the footer of a table; `otherwise` are the picture areas where these settings state
    /// none.
    pub fn in_words(&self, otherwise: PixelRange) -> String {
        let name = self.protocol.unwrap_or(Protocol::Own).name();
        let Sampling { temperature, top_p, top_k, max_new_tokens } = &self.sampling;
        let top_k = if *top_k == 0 { "off".to_owned() } else { top_k.to_string() };
        let PixelRange { min_pixels, max_pixels } = self.pictures.unwrap_or(otherwise);
        format!(
            "{name}: temperature {temperature}, top-p {top_p}, top-k {top_k}, at most {max_new_tokens} new tokens, \
             pictures of {min_pixels} to {max_pixels} pixels"
        )
    }
}

/// The generated picture questions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldSettings {
    /// Seed of the world; the same for every arm and training seed, so that items are the same.
    pub seed: u64,
    /// Training questions per family.
    pub train_items: usize,
    /// Evaluation questions per family.
    pub eval_items: usize,
    /// Probability that the teacher of the warm start misreads one look at the picture.
    pub misread: f64,
    /// Probability that the teacher slips in one step of reasoning.
    pub slip: f64,
}

/// Supervised warm start of the tiny base model on the teacher's worked solutions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmStart {
    /// Seed of the initial weights, the order of the lessons and the teacher's errors.
    pub seed: u64,
    /// Optimiser updates.
    pub steps: u64,
    /// The first of them, which practise reading pictures instead of solving.
    pub drill_steps: u64,
    /// Lessons per update.
    pub batch: usize,
    /// Peak learning rate, reached after `warmup_steps`, then decayed by a cosine to a tenth.
    pub learning_rate: f64,
    /// Updates of linear warm-up.
    pub warmup_steps: u64,
}

/// A base model from the hub.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointSettings {
    /// Repository, `owner/name`.
    pub repo: String,
    /// Branch, tag or commit; the lock file pins the commit.
    pub revision: String,
    /// Rows of its embedding.
    pub vocab_size: usize,
}

/// How the arithmetic is done: the device, the types of numbers, and what is traded for memory. It changes results by
/// rounding only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComputeSettings {
    /// Where the model runs.
    pub device: Device,
    /// Type of weights and activations.
    pub dtype: Dtype,
    /// Type in which gradients are summed over micro-batches.
    pub gradient_dtype: Dtype,
    /// How AdamW keeps its state.
    pub optimizer_state: OptimizerState,
    /// Whether the backward pass computes each layer again from its input instead of keeping its activations.
    pub recompute: bool,
    /// Which implementation of attention.
    pub attention: Attention,
    /// Tokens whose keys and values are kept while sampling (0: as many as all sequences of a call need).
    pub kv_tokens: usize,
    /// Sequences that are sampled at the same time (0: all of a call).
    pub max_sequences: usize,
}

impl ComputeSettings {
    /// The processor, everything in f32 and kept: what the tiny scale uses.
    pub const CPU: ComputeSettings = ComputeSettings {
        device: Device::Cpu,
        dtype: Dtype::F32,
        gradient_dtype: Dtype::F32,
        optimizer_state: OptimizerState::F32,
        recompute: false,
        attention: Attention::Own,
        kv_tokens: 0,
        max_sequences: 0,
    };
}

/// Implementations of attention over packed sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attention {
    /// This project's kernels: every device, every head size.
    Own,
    /// FlashAttention-2 (feature `flash-attn`): CUDA, bf16, head sizes of the published checkpoints.
    Flash,
}

/// Where a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// The processor.
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
}

/// Type of a model's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// 32 bits (the only type on the processor).
    F32,
    /// 16 bits with the exponent of f32 (the reference).
    Bf16,
}

impl Dtype {
    /// Bytes per number.
    pub fn bytes(self) -> u64 {
        match self {
            Dtype::F32 => 4,
            Dtype::Bf16 => 2,
        }
    }
}

/// What AdamW keeps between updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerState {
    /// Both moments in f32 (the only choice on the processor).
    F32,
    /// Both moments and a Kahan compensation in bf16 (the reference's `adamw_bf16`).
    Bf16Kahan,
}

impl OptimizerState {
    /// Bytes per weight.
    pub fn bytes(self) -> u64 {
        match self {
            OptimizerState::F32 => 8,
            OptimizerState::Bf16Kahan => 6,
        }
    }
}

/// Training set and benchmarks from the hub, by the names of their manifests (`datasets/`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSettings {
    /// Training set.
    pub train: String,
    /// Which of its sources.
    pub train_source: String,
    /// Benchmarks, in the order of the tables.
    pub benchmarks: Vec<String>,
    /// Which of their sources.
    pub eval_source: String,
    /// Training questions whose prompt is longer, in tokens, are left out and counted (4,096 in the reference).
    pub max_prompt_tokens: usize,
    /// What becomes of transparency.
    pub alpha: Alpha,
}

/// What becomes of a picture's transparency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alpha {
    /// The alpha channel is thrown away after the area rule (the reference, Pillow's `convert("RGB")`).
    /// Black strokes on transparent black become a black picture.
    Drop,
    /// The picture is laid on white before anything else: what a person sees.
    White,
}

/// Sizes of a Qwen2.5-VL model (the fields of the hub's config.json that differ by size): of the one to make, or
/// those that a checkpoint must have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// Width of the language model.
    pub hidden_size: usize,
    /// Width of its feed-forward layers.
    pub intermediate_size: usize,
    /// Its layers.
    pub layers: usize,
    /// Its query heads.
    pub heads: usize,
    /// Its key and value heads.
    pub kv_heads: usize,
    /// Frequencies for time, height and width in the multimodal rotary embedding; sum = head size / 2.
    pub mrope_section: [usize; 3],
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Whether the output head is the embedding.
    pub tie_word_embeddings: bool,
    /// Width of the vision tower.
    pub vision_hidden_size: usize,
    /// Width of its feed-forward layers.
    pub vision_intermediate_size: usize,
    /// Its blocks.
    pub vision_depth: usize,
    /// Its heads.
    pub vision_heads: usize,
    /// Blocks with full attention; the others attend within windows.
    pub vision_full_attention_blocks: Vec<usize>,
    /// Side of a window in pixels.
    pub vision_window_pixels: usize,
    /// Smallest picture area in pixels handed to the processor.
    pub min_pixels: usize,
    /// Largest picture area in pixels handed to the processor.
    pub max_pixels: usize,
}
