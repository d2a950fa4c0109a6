//! Memory in bytes by part, if every prompt and response has its greatest length.
//!
//! Weights and optimiser state are there all the time, gradients during an update. Sampling, scoring and updating take
//! turns, so the largest of the three counts. Per row and layer of width D, key-value width K and feed-forward width F, a
//! forward pass keeps for its backward pass 6 D + 2 K + 3 F numbers (input, normed, query, attended, middle, normed again;
//! key, value; gate, up, product) and one normaliser per head in f32; a backward pass holds 9 D + 3 K + 3 F more. With
//! recomputation only the layers' inputs are kept, and one layer at a time is there whole. The logits of a chunk of rows
//! exist twice in f32; the largest gradient of a matrix is there once before it is added, and of the rows that predict a
//! token four are kept. On the processor the allocator's own keep comes on top: with glibc up to 30 % of an update's memory
//! was measured. Several GPUs divide weights, gradients and optimiser state (ZeRO-3) and hold the gathered weights of two
//! layers, or of one table.

use super::{Lengths, PATCH_VALUES, kv_width, layer_weights, weights};
use crate::settings::{ComputeSettings, Device, Dtype, ModelSettings};

/// Rows whose logits exist at the same time.
pub const LOGIT_ROWS: u64 = 1024;
/// Most rows that are computed at the same time while sampling, but always one prompt.
pub const SAMPLING_ROWS: u64 = 16_384;
/// Passes whose corrupted pictures are on the processor at the same time: one is scored, one is ready, one is made.
const PREPARED_PASSES: u64 = 3;
/// Tokens per page of the cache.
pub const PAGE: u64 = 32;

/// What one device has to do.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    /// Sizes of the model.
    pub model: &'a ModelSettings,
    /// Rows of its embedding.
    pub vocab_size: usize,
    /// Types of numbers, recomputation, limits of the cache.
    pub compute: &'a ComputeSettings,
    /// Longest prompt and response.
    pub lengths: Lengths,
    /// Responses that share a prompt.
    pub group: u64,
    /// Responses per pass of scoring and updating.
    pub micro: u64,
    /// Sequences that are asked for at a time.
    pub sequences: u64,
    /// What training does; `None` where the model only answers.
    pub training: Option<Training>,
    /// GPUs that divide weights, gradients and optimiser state.
    pub gpus: u64,
}

/// What training needs beyond the policy and its update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Training {
    /// A frozen copy of the first policy.
    pub reference: bool,
    /// Every response is scored with a prompt of its own (one corrupted picture per response).
    pub apart: bool,
}

/// Memory of one device, by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The weights.
    pub weights: u64,
    /// Those of the frozen copy.
    pub reference: u64,
    /// Gradients.
    pub gradients: u64,
    /// The optimiser's state.
    pub optimizer: u64,
    /// Weights gathered from the other GPUs.
    pub gathered: u64,
    /// Pictures of a step's prompts as numbers, on the processor.
    pub pictures: u64,
    /// Keys and values while sampling.
    pub cache: u64,
    /// One layer over the prompts that are computed together, and the logits of the next tokens.
    pub prefill: u64,
    /// One layer of a scoring pass, and logits.
    pub scoring: u64,
    /// What a micro-batch's forward pass keeps for its backward pass.
    pub activations: u64,
    /// What the backward pass of one layer holds, and logits.
    pub backward: u64,
    /// Weights and optimiser state as the bytes of a checkpoint, on the processor.
    pub saving: u64,
}

/// The phases that take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Responses are sampled.
    Sampling,
    /// Responses are scored.
    Scoring,
    /// The policy is updated.
    Updating,
    /// A checkpoint is written.
    Saving,
}

impl Turn {
    /// What happens.
    pub fn name(self) -> &'static str {
        match self {
            Turn::Sampling => "sampling",
            Turn::Scoring => "scoring",
            Turn::Updating => "updating",
            Turn::Saving => "saving",
        }
    }
}

impl Memory {
    /// What is there all the time.
    pub fn constant(&self) -> u64 {
        self.weights + self.reference + self.optimizer + self.gathered + self.pictures
    }

    /// What a phase needs besides.
    pub fn of(&self, turn: Turn) -> u64 {
        match turn {
            Turn::Sampling => self.cache + self.prefill,
            Turn::Scoring => self.scoring,
            Turn::Updating => self.gradients + self.activations + self.backward,
            Turn::Saving => self.saving,
        }
    }

    /// The phase that needs most.
    pub fn largest_turn(&self) -> Turn {
        let turns = [Turn::Saving, Turn::Scoring, Turn::Updating, Turn::Sampling];
        turns.into_iter().max_by_key(|&turn| self.of(turn)).unwrap_or(Turn::Updating)
    }

    /// The most that is there at any time.
    pub fn peak(&self) -> u64 {
        self.constant() + self.of(self.largest_turn())
    }

    /// The parts that are there at some time: name, phase (`None` is always), bytes.
    pub fn parts(&self) -> Vec<(&'static str, Option<Turn>, u64)> {
        let all = [
            ("weights", None, self.weights),
            ("weights of the reference", None, self.reference),
            ("optimiser state", None, self.optimizer),
            ("weights gathered from other GPUs", None, self.gathered),
            ("pictures of a step", None, self.pictures),
            ("keys and values while sampling", Some(Turn::Sampling), self.cache),
            ("prompts before sampling, logits", Some(Turn::Sampling), self.prefill),
            ("scoring: one layer, logits", Some(Turn::Scoring), self.scoring),
            ("update: gradients", Some(Turn::Updating), self.gradients),
            ("update: activations kept", Some(Turn::Updating), self.activations),
            ("update: one layer back, logits", Some(Turn::Updating), self.backward),
            ("copy for a checkpoint", Some(Turn::Saving), self.saving),
        ];
        all.into_iter().filter(|(_, _, bytes)| *bytes > 0).collect()
    }

    /// The largest part of the peak, and its bytes.
    pub fn largest_part(&self) -> (&'static str, u64) {
        let peak = self.largest_turn();
        let there = self.parts().into_iter().filter(|(_, turn, _)| turn.is_none_or(|turn| turn == peak));
        there.map(|(name, _, bytes)| (name, bytes)).max_by_key(|(_, bytes)| *bytes).unwrap_or(("weights", 0))
    }
}

impl Load<'_> {
    /// Memory by part.
    pub fn memory(&self) -> Memory {
        let (bytes, count) = (self.compute.dtype.bytes(), weights(self.model, self.vocab_size).total());
        let share = |bytes: u64| bytes.div_ceil(self.gpus.max(1));
        let mut memory = Memory {
            weights: share(count * bytes),
            gathered: if self.gpus > 1 { self.gathered() * bytes } else { 0 },
            cache: self.cache_tokens() * self.token_bytes(),
            prefill: self.prefill(),
            ..Memory::default()
        };
        let on_processor = self.compute.device == Device::Cpu;
        if on_processor {
            memory.pictures = self.pixels(self.sequences.div_ceil(self.group.max(1)), Dtype::F32);
        }
        if let Some(training) = self.training {
            memory.gradients = share(count * self.compute.gradient_dtype.bytes());
            memory.optimizer = share(count * self.compute.optimizer_state.bytes());
            memory.reference = if training.reference { memory.weights } else { 0 };
            let group = self.group.max(1);
            let update = self.rows(self.micro, self.micro.div_ceil(group));
            // Corrupted pictures are scored group by group.
            let whole = (self.micro / group).max(1) * group;
            memory.scoring = self.forward(if training.apart { self.rows(whole, whole) } else { update });
            if training.apart && on_processor {
                memory.scoring += PREPARED_PASSES * self.pixels(whole, Dtype::F32);
            }
            memory.activations = self.activations(update);
            memory.backward = self.backward(update);
            if on_processor {
                memory.saving = memory.weights + memory.optimizer;
            }
        }
        memory
    }

    /// Bytes of one token's keys and values in all layers.
    pub fn token_bytes(&self) -> u64 {
        2 * kv_width(self.model) * self.model.layers as u64 * self.compute.dtype.bytes()
    }

    /// Sequences that are sampled at the same time: as many as are asked for, within the limits of settings and cache.
    pub fn running(&self) -> u64 {
        let limit = |limit: usize| if limit == 0 { u64::MAX } else { limit as u64 };
        let most = self.sequences.min(limit(self.compute.max_sequences));
        let per_group = self.tokens_for(self.group.max(1)).max(1);
        most.min((limit(self.compute.kv_tokens).saturating_mul(self.group.max(1)) / per_group).max(1))
    }

    /// Tokens of the cache.
    pub fn cache_tokens(&self) -> u64 {
        let most = self.compute.max_sequences as u64;
        let needed = self.tokens_for(if most == 0 { self.sequences } else { self.sequences.min(most) });
        if self.compute.kv_tokens == 0 { needed } else { needed.min(self.compute.kv_tokens as u64) }
    }

    /// Tokens of the pages that so many sequences of greatest length need, with the prompts of their groups.
    pub fn tokens_for(&self, sequences: u64) -> u64 {
        let pages = |tokens: u64| tokens.div_ceil(PAGE) * PAGE;
        let prompts = sequences.div_ceil(self.group.max(1));
        sequences * pages(self.lengths.response) + prompts * pages(self.lengths.prompt)
    }

    /// Rows of the language model and of the vision tower in a pass.
    fn rows(&self, responses: u64, prompts: u64) -> Rows {
        Rows {
            tokens: responses * self.lengths.response + prompts * self.lengths.prompt,
            patches: prompts * 4 * self.lengths.visual,
            predicted: responses * self.lengths.response,
        }
    }

    fn language(&self) -> Widths {
        let m = self.model;
        Widths {
            width: m.hidden_size as u64,
            kv: kv_width(m),
            wide: m.intermediate_size as u64,
            heads: m.heads as u64,
            layers: m.layers as u64,
            bytes: self.compute.dtype.bytes(),
        }
    }

    fn tower(&self) -> Widths {
        let m = self.model;
        let width = m.vision_hidden_size as u64;
        Widths {
            width,
            kv: width,
            wide: m.vision_intermediate_size as u64,
            heads: m.vision_heads as u64,
            layers: m.vision_depth as u64,
            bytes: self.compute.dtype.bytes(),
        }
    }

    /// Pictures of so many prompts as numbers.
    fn pixels(&self, prompts: u64, dtype: Dtype) -> u64 {
        prompts * 4 * self.lengths.visual * PATCH_VALUES * dtype.bytes()
    }

    fn logits(&self, rows: u64) -> u64 {
        2 * rows.min(LOGIT_ROWS) * self.vocab_size as u64 * Dtype::F32.bytes()
    }

    /// A pass that keeps nothing: the larger of a layer and a block of the tower with its pixels, and logits.
    fn forward(&self, rows: Rows) -> u64 {
        let (language, tower) = (self.language(), self.tower());
        let block = tower.passing() + PATCH_VALUES * tower.bytes;
        (rows.tokens * language.passing()).max(rows.patches * block) + self.logits(rows.predicted)
    }

    fn activations(&self, rows: Rows) -> u64 {
        let (language, tower) = (self.language(), self.tower());
        let per_layer = |widths: &Widths| match self.compute.recompute {
            true => widths.width * widths.bytes,
            false => widths.kept(),
        };
        // Pixels and three matrices of the merger; the rows that predict, before and after the last norm.
        let ends = rows.patches * (PATCH_VALUES + 3 * tower.width) * tower.bytes
            + rows.predicted * 2 * language.width * language.bytes;
        rows.tokens * language.layers * per_layer(&language)
            + rows.patches * tower.layers * per_layer(&tower)
            + ends
    }

    /// One layer's backward pass, with its forward pass where that is computed again; or the head's.
    fn backward(&self, rows: Rows) -> u64 {
        let (language, tower) = (self.language(), self.tower());
        let again = |widths: &Widths| if self.compute.recompute { widths.kept() } else { 0 };
        let layer = rows.tokens * (language.back() + again(&language));
        let block = rows.patches * (tower.back() + again(&tower));
        let matrix = language.width * language.wide.max(self.vocab_size as u64) * language.bytes;
        let predicting = rows.predicted * 2 * language.width * language.bytes;
        layer.max(block).max(self.logits(rows.predicted)) + matrix + predicting
    }

    fn prefill(&self) -> u64 {
        let prompts = self.running().div_ceil(self.group.max(1));
        let (prompt, running) = (self.lengths.prompt.max(1), self.running());
        let together = prompts.min((SAMPLING_ROWS / prompt).max(1));
        self.forward(Rows {
            tokens: together * prompt,
            patches: together * 4 * self.lengths.visual,
            predicted: running,
        })
    }

    /// Weights that a GPU holds besides its share while it computes.
    fn gathered(&self) -> u64 {
        (2 * layer_weights(self.model)).max((self.vocab_size * self.model.hidden_size) as u64)
    }

    /// The most responses per pass that fit into `budget` bytes, at most `most`: whole groups, or a part of one. `None`
    /// where not even one fits.
    pub fn largest_micro(&self, budget: u64, most: u64) -> Option<u64> {
        let group = self.group.max(1);
        let whole = (1..=most / group).rev().map(|groups| groups * group);
        whole.chain((1..group.min(most + 1)).rev()).find(|&micro| {
            let memory = Load { micro, ..*self }.memory();
            memory.constant() + memory.of(Turn::Scoring).max(memory.of(Turn::Updating)) <= budget
        })
    }

    /// The most tokens of the cache that fit into `budget` bytes, as far as all sequences that are asked for need
    /// them. `None` where the longest prompt with one response does not fit.
    pub fn largest_cache(&self, budget: u64) -> Option<u64> {
        let compute = ComputeSettings { kv_tokens: 0, max_sequences: 0, ..*self.compute };
        let memory = Load { compute: &compute, ..*self }.memory();
        let left = budget.checked_sub(memory.constant() + memory.prefill)?;
        let tokens = (left / self.token_bytes() / PAGE * PAGE).min(self.tokens_for(self.sequences));
        (tokens >= self.tokens_for(1)).then_some(tokens)
    }
}

/// Rows of a pass.
#[derive(Clone, Copy)]
struct Rows {
    tokens: u64,
    patches: u64,
    /// Rows whose next token is scored or drawn.
    predicted: u64,
}

/// Widths of a stack of layers.
struct Widths {
    width: u64,
    kv: u64,
    wide: u64,
    heads: u64,
    layers: u64,
    bytes: u64,
}

impl Widths {
    /// Bytes per row of what one layer keeps for its backward pass.
    fn kept(&self) -> u64 {
        (6 * self.width + 2 * self.kv + 3 * self.wide) * self.bytes + self.heads * Dtype::F32.bytes()
    }

    /// Bytes per row of a layer that is passed: what it would keep, and its output.
    fn passing(&self) -> u64 {
        self.kept() + self.width * self.bytes
    }

    /// Bytes per row of what one layer's backward pass holds besides.
    fn back(&self) -> u64 {
        (9 * self.width + 3 * self.kv + 3 * self.wide) * self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sizes;
    use super::*;
    use crate::settings::OptimizerState;

    /// 2 layers of width 64 (keys 32, feed-forward 128, 4 heads).
    fn small() -> ModelSettings {
        sizes([64, 128, 2, 4, 2], false, 32)
    }

    fn bf16() -> ComputeSettings {
        ComputeSettings {
            device: Device::Cuda,
            dtype: Dtype::Bf16,
            optimizer_state: OptimizerState::Bf16Kahan,
            recompute: true,
            ..ComputeSettings::CPU
        }
    }

    fn load<'a>(model: &'a ModelSettings, compute: &'a ComputeSettings) -> Load<'a> {
        Load {
            model,
            vocab_size: 50,
            compute,
            lengths: Lengths { prompt: 10, visual: 10, response: 100 },
            group: 2,
            micro: 3,
            sequences: 5,
            training: Some(Training { reference: false, apart: true }),
            gpus: 1,
        }
    }

    #[test]
    fn a_small_case_with_recomputation_by_hand() {
        let (model, compute) = (small(), bf16());
        let memory = load(&model, &compute).memory();
        let count = weights(&model, 50).total();
        assert_eq!([memory.weights, memory.gradients, memory.optimizer], [2 * count, 4 * count, 6 * count]);
        assert_eq!([memory.reference, memory.gathered, memory.saving], [0; 3]);
        // 3 responses of 2 prompts; 10 visual tokens of 4 patches per prompt.
        let inputs = (320 * 64 * 2 + 80 * 1280 * 32) * 2;
        let predicting = 2 * 300 * 64 * 2;
        assert_eq!(memory.activations, inputs + 80 * (1176 + 3 * 1280) * 2 + predicting);
        // 5 responses of 3 prompts in pages of 32 tokens: 4 and 1; keys and values 32 wide in 2 layers.
        assert_eq!(memory.cache, 32 * (5 * 4 + 3) * 2 * 32 * 2 * 2);
        // A vision block is larger than a layer here. Its keys are as wide as it is.
        let (kept, back) = ((8 * 1280 + 3 * 32) * 2 + 16 * 4, (12 * 1280 + 3 * 32) * 2);
        assert_eq!(memory.backward, 80 * (kept + back) + 64 * 128 * 2 + predicting);
        // A whole group, every response with a prompt of its own.
        let passing = kept + 1280 * 2 + 1176 * 2;
        assert_eq!(memory.scoring, 80 * passing + 2 * 200 * 50 * 4);
        assert_eq!(memory.prefill, 120 * passing + 2 * 5 * 50 * 4);
        assert_eq!(memory.largest_turn(), Turn::Updating);
        assert_eq!(memory.peak(), 8 * count + 4 * count + memory.activations + memory.backward);
        assert_eq!(memory.largest_part(), ("optimiser state", 6 * count));
    }

    #[test]
    fn without_recomputation_every_layer_is_kept() {
        let (model, compute) = (small(), ComputeSettings::CPU);
        let memory = load(&model, &compute).memory();
        let (layer, block) = ((6 * 64 + 2 * 32 + 3 * 128) * 4 + 4 * 4, (8 * 1280 + 3 * 32) * 4 + 16 * 4);
        let (ends, predicting) = (80 * (1176 + 3 * 1280) * 4, 2 * 300 * 64 * 4);
        assert_eq!(memory.activations, 320 * 2 * layer + 80 * 32 * block + ends + predicting);
        assert_eq!(memory.backward, 80 * (12 * 1280 + 3 * 32) * 4 + 64 * 128 * 4 + predicting);
        let count = weights(&model, 50).total();
        assert_eq!(memory.saving, 12 * count);
        assert_eq!(memory.of(Turn::Saving), 12 * count);
        let shared =
            Load { training: Some(Training { reference: true, apart: false }), ..load(&model, &compute) };
        let passing = block + 1280 * 4 + 1176 * 4;
        assert_eq!(shared.memory().scoring, 80 * passing + 2 * 300 * 50 * 4);
        // Every response with a picture of its own: those of two responses, three times over.
        let apart = 80 * passing + 2 * 200 * 50 * 4 + 3 * 80 * 1176 * 4;
        assert_eq!(memory.scoring, apart);
        assert_eq!(memory.pictures, 3 * 40 * 1176 * 4);
        assert_eq!(shared.memory().reference, 4 * count);
    }

    #[test]
    fn a_model_that_only_answers_holds_weights_and_cache() {
        let (model, compute) = (small(), bf16());
        let memory = Load { training: None, ..load(&model, &compute) }.memory();
        let names: Vec<_> = memory.parts().into_iter().map(|(name, ..)| name).collect();
        assert_eq!(names, ["weights", "keys and values while sampling", "prompts before sampling, logits"]);
        assert_eq!(memory.peak(), memory.weights + memory.cache + memory.prefill);
    }

    #[test]
    fn limits_of_the_cache() {
        let (model, mut compute) = (small(), bf16());
        compute.kv_tokens = 600;
        // A group of two needs 2 x 128 + 32 tokens: 600 tokens hold 600 / 288 groups, 4.17 sequences.
        assert_eq!(load(&model, &compute).running(), 4);
        assert_eq!(load(&model, &compute).cache_tokens(), 600);
        compute.max_sequences = 2;
        assert_eq!(load(&model, &compute).running(), 2);
        assert_eq!(load(&model, &compute).cache_tokens(), 288);
    }

    #[test]
    fn gpus_divide_what_is_constant_and_gather_layers() {
        let (model, compute) = (small(), bf16());
        let one = load(&model, &compute).memory();
        let four = Load { gpus: 4, ..load(&model, &compute) }.memory();
        for (one, four) in
            [(one.weights, four.weights), (one.gradients, four.gradients), (one.optimizer, four.optimizer)]
        {
            assert_eq!(four, one.div_ceil(4));
        }
        assert_eq!(four.gathered, 2 * (2 * 64 * 64 + 64 + 2 * 65 * 32 + 3 * 64 * 128 + 128) * 2);
        assert_eq!(four.activations, one.activations);
    }

    #[test]
    fn picks_are_the_largest_that_fit() {
        let (model, compute) = (small(), bf16());
        let load = load(&model, &compute);
        let peak = |micro| {
            let memory = Load { micro, ..load }.memory();
            memory.constant() + memory.of(Turn::Updating).max(memory.of(Turn::Scoring))
        };
        assert_eq!(load.largest_micro(peak(6), 100), Some(6));
        assert_eq!(load.largest_micro(peak(6) - 1, 100), Some(4));
        assert_eq!(load.largest_micro(u64::MAX, 9), Some(8), "whole groups of two");
        assert_eq!(load.largest_micro(peak(2) - 1, 100), Some(1));
        assert_eq!(load.largest_micro(peak(1) - 1, 100), None);
        let memory = load.memory();
        let budget = |pages: u64| memory.constant() + memory.prefill + pages * 32 * load.token_bytes();
        assert_eq!(load.largest_cache(budget(9)), Some(9 * 32));
        assert_eq!(load.largest_cache(budget(10) - 1), Some(9 * 32));
        assert_eq!(
            load.largest_cache(budget(5)),
            Some(5 * 32),
            "a prompt of one page and a response of four"
        );
        assert_eq!(load.largest_cache(budget(5) - 1), None);
        assert_eq!(load.largest_cache(u64::MAX), Some(23 * 32));
    }

    /// The table of bytes per weight: bf16 with Kahan summation 10, and 77.2 GiB at 7B.
    #[test]
    fn constant_parts_at_7b() {
        let model = sizes([3584, 18944, 28, 28, 4], false, 3420);
        let compute = ComputeSettings { gradient_dtype: Dtype::Bf16, ..bf16() };
        let memory = Load { vocab_size: 152_064, ..load(&model, &compute) }.memory();
        let gib = (memory.constant() + memory.gradients) as f64 / f64::from(1 << 30);
        assert!((gib - 77.2).abs() < 0.1, "{gib}");
        assert_eq!(Load { vocab_size: 152_064, ..load(&model, &compute) }.token_bytes(), 57_344);
    }
}
