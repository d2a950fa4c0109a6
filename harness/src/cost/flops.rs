//! Floating-point operations by formula: those that an ideal program needs, where a group's prompt is computed once.
//!
//! A matrix weight takes part in one multiplication and one addition per row, so a forward pass costs 2 operations
//! per matrix weight and row. Attention costs 4 x width per layer and pair of a query with a key that it may see: two
//! for the score, two for the weighted sum. The language model is causal, a response sees its prompt and itself; the
//! vision tower sees a window or the whole picture. The last token of a response is predicted, never fed in, so a
//! response of R tokens puts R - 1 rows through the layers and R through the head. A backward pass costs twice its
//! forward. Not counted: norms, activations, softmax, rotations, biases, the optimiser, and layers that are computed
//! again to save memory.

use super::{PATCH_VALUES, kv_width, picture_tokens};
use crate::settings::ModelSettings;

/// Side in pixels of a patch.
const PATCH_PIXELS: usize = 14;

/// What the vision tower sees of one prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vision {
    /// Patches, four to a visual token.
    pub patches: u64,
    /// Pairs of patches of one window.
    pub window_pairs: u64,
    /// Pairs of patches of one picture.
    pub picture_pairs: u64,
}

impl Vision {
    /// One picture of `rows` x `columns` patches; windows at its edges are smaller.
    pub fn of_grid(model: &ModelSettings, rows: usize, columns: usize) -> Self {
        let window = window_side(model);
        let squares = |len: usize| -> u64 {
            (0..len).step_by(window).map(|at| (window.min(len - at) as u64).pow(2)).sum()
        };
        let patches = (rows * columns) as u64;
        let window_pairs = squares(rows) * squares(columns);
        Self { patches, window_pairs, picture_pairs: patches * patches }
    }

    /// So many visual tokens of pictures of the largest size, whose windows are whole.
    pub fn of_pictures(model: &ModelSettings, tokens: u64) -> Self {
        let (patches, window) = (4 * tokens, window_side(model) as u64);
        let picture = patches.min(4 * picture_tokens(model));
        Self { patches, window_pairs: patches * window * window, picture_pairs: patches * picture }
    }
}

/// Side of a window in patches; whole visual tokens, as the model cuts it.
fn window_side(model: &ModelSettings) -> usize {
    (model.vision_window_pixels / (2 * PATCH_PIXELS) * 2).max(2)
}

/// A batch of sequences of equal lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequences {
    /// Prompts.
    pub prompts: u64,
    /// Responses that share a prompt.
    pub group: u64,
    /// Tokens of a prompt, those of its pictures included.
    pub prompt_tokens: u64,
    /// Tokens of a response.
    pub response_tokens: u64,
    /// The pictures of one prompt.
    pub vision: Vision,
}

impl Sequences {
    /// The same responses, each with a prompt of its own: what scoring costs under one corrupted picture per response.
    pub fn apart(self) -> Self {
        Self { prompts: self.prompts * self.group, group: 1, ..self }
    }

    /// All prompt tokens.
    pub fn all_prompt_tokens(&self) -> u64 {
        self.prompts * self.prompt_tokens
    }

    /// All response tokens.
    pub fn all_response_tokens(&self) -> u64 {
        self.prompts * self.group * self.response_tokens
    }

    /// Rows that go through the layers of the language model.
    fn rows(&self) -> u64 {
        self.prompts * (self.prompt_tokens + self.group * self.response_tokens.saturating_sub(1))
    }

    /// Pairs of a query with a key that it may see.
    fn pairs(&self) -> u64 {
        let (prompt, inputs) = (self.prompt_tokens, self.response_tokens.saturating_sub(1));
        let response = inputs * prompt + inputs * (inputs + 1) / 2;
        self.prompts * (prompt * (prompt + 1) / 2 + self.group * response)
    }
}

/// Operations of a forward pass, by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flops {
    /// Vision tower with its merger and its attention.
    pub vision: u64,
    /// Matrices of the language model's layers.
    pub language: u64,
    /// Attention of the language model.
    pub attention: u64,
    /// Output head.
    pub head: u64,
}

impl Flops {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.vision + self.language + self.attention + self.head
    }
}

/// A forward pass over a batch that scores its responses. Sampling them costs the same.
pub fn forward(model: &ModelSettings, vocab_size: usize, batch: &Sequences) -> Flops {
    let (width, wide) = (model.hidden_size as u64, model.intermediate_size as u64);
    let layers = model.layers as u64;
    let layer = 2 * width * width + 2 * width * kv_width(model) + 3 * width * wide;
    Flops {
        vision: batch.prompts * vision(model, batch.vision),
        language: 2 * layers * layer * batch.rows(),
        attention: 4 * width * layers * batch.pairs(),
        head: 2 * vocab_size as u64 * width * batch.all_response_tokens(),
    }
}

/// Forward and backward pass of a batch.
pub fn update(model: &ModelSettings, vocab_size: usize, batch: &Sequences) -> u64 {
    3 * forward(model, vocab_size, batch).total()
}

/// The vision tower over one prompt's pictures.
fn vision(model: &ModelSettings, seen: Vision) -> u64 {
    let (v, wide) = (model.vision_hidden_size as u64, model.vision_intermediate_size as u64);
    let depth = model.vision_depth as u64;
    let full =
        (0..model.vision_depth).filter(|i| model.vision_full_attention_blocks.contains(i)).count() as u64;
    let patch = PATCH_VALUES * v + depth * (4 * v * v + 3 * v * wide);
    let merger = (4 * v) * (4 * v) + 4 * v * model.hidden_size as u64;
    let pairs = full * seen.picture_pairs + (depth - full) * seen.window_pairs;
    2 * (seen.patches * patch + seen.patches / 4 * merger) + 4 * v * pairs
}

#[cfg(test)]
mod tests {
    use super::super::tests::sizes;
    use super::*;

    /// Two layers of width 8, feed-forward 16, 2 heads of which 1 for keys; tower of 3 blocks, width 4, the last full.
    fn small() -> ModelSettings {
        ModelSettings {
            vision_hidden_size: 4,
            vision_depth: 3,
            vision_full_attention_blocks: vec![2],
            ..sizes([8, 16, 2, 2, 1], false, 6)
        }
    }

    #[test]
    fn a_small_pass_by_hand() {
        let model = small();
        // 10 x 12 patches, windows of 8 x 8: rows 8 + 2, columns 8 + 4.
        let seen = Vision::of_grid(&model, 10, 12);
        assert_eq!(seen, Vision { patches: 120, window_pairs: 68 * 80, picture_pairs: 14_400 });
        assert_eq!(seen.window_pairs, 64 * 64 + 32 * 32 + 16 * 16 + 8 * 8);
        let batch = Sequences { prompts: 3, group: 2, prompt_tokens: 40, response_tokens: 5, vision: seen };
        let flops = forward(&model, 50, &batch);
        // Matrices of a layer: q and output 8 x 8, keys and values 8 x 4, three of 8 x 16. Rows: 40 + 2 x 4.
        assert_eq!(flops.language, 2 * 2 * (2 * 64 + 2 * 32 + 3 * 128) * 3 * 48);
        // Pairs: 1 + ... + 40; a response 41 + 42 + 43 + 44.
        assert_eq!(flops.attention, 4 * 8 * 2 * 3 * (820 + 2 * 170));
        assert_eq!(flops.head, 2 * 50 * 8 * 3 * 2 * 5);
        let patch = 1176 * 4 + 3 * (4 * 16 + 3 * 4 * 6);
        let merger = 16 * 16 + 16 * 8;
        let attention = 4 * 4 * (14_400 + 2 * 5_440);
        assert_eq!(flops.vision, 3 * (2 * (120 * patch + 30 * merger) + attention));
        assert_eq!(update(&model, 50, &batch), 3 * flops.total());
    }

    /// Six prompts of one response each: prompt and pictures six times in place of three.
    #[test]
    fn apart_repeats_the_prompt_and_nothing_else() {
        let model = small();
        let vision = Vision::of_grid(&model, 10, 12);
        let batch = Sequences { prompts: 3, group: 2, prompt_tokens: 40, response_tokens: 5, vision };
        let (once, apart) = (forward(&model, 50, &batch), forward(&model, 50, &batch.apart()));
        assert_eq!(apart.vision, 2 * once.vision);
        assert_eq!(apart.head, once.head);
        assert_eq!(apart.attention - once.attention, 4 * 8 * 2 * 3 * 820);
        assert_eq!(batch.apart().all_response_tokens(), batch.all_response_tokens());
    }

    #[test]
    fn whole_windows_and_pictures_where_no_shape_is_known() {
        let model = ModelSettings { max_pixels: 64 * 784, ..small() };
        assert_eq!(Vision::of_pictures(&model, 64), Vision::of_grid(&model, 16, 16));
        let two = Vision { patches: 512, window_pairs: 2 * 256 * 64, picture_pairs: 2 * 65_536 };
        assert_eq!(Vision::of_pictures(&model, 128), two);
        assert_eq!(Vision::of_pictures(&model, 16), Vision::of_grid(&model, 8, 8), "a smaller picture");
    }

    /// At 7B the matrices dominate: 2 x weights x tokens, to a fifth.
    #[test]
    fn operations_are_about_two_per_weight_and_token() {
        let model = sizes([3584, 18944, 28, 28, 4], false, 3420);
        let vision = Vision::of_pictures(&model, 1_280);
        let batch =
            Sequences { prompts: 384, group: 8, prompt_tokens: 1_400, response_tokens: 1_000, vision };
        let rule = 2.0 * 7.6e9 * (batch.all_prompt_tokens() + batch.all_response_tokens()) as f64;
        let ratio = forward(&model, 152_064, &batch).total() as f64 / rule;
        assert!((0.9..1.25).contains(&ratio), "{ratio}");
    }
}
