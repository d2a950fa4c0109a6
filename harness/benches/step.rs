//! The parts of one training step at tiny scale: 32 prompts of one picture (8 x 8 patches) and 24 text tokens,
//! 8 responses of 40 tokens each, random weights and tokens. Tokens per second are criterion's `elem/s`.
//!
//! Four phases: rollout; scoring (prompts shared by a group); scoring with a corrupted picture per response (nothing
//! shared); update (forward and backward in micro-batches of 64 responses, then the optimiser).

use criterion::{Criterion, Throughput};
use harness::image::Patches;
use harness::model::{AdamW, Grads, Model, Prompt, Tree};
use harness::rng::{Purpose, stream};
use harness::settings::{ModelSettings, OptimizerSettings, Sampling};
use std::sync::Arc;

const PROMPTS: usize = 32;
const GROUP: usize = 8;
const MICRO: usize = 64;
const GRID: usize = 8;
const TEXT: usize = 24;
const RESPONSE: usize = 40;
const VOCAB: usize = 160;
const IMAGE: u32 = 150;

/// A model, its optimiser, and a batch of random prompts and responses.
pub struct Workload {
    model: Model,
    optimizer: AdamW,
    /// One per group.
    prompts: Vec<Prompt>,
    /// One per response: the group's tokens under another picture.
    corrupted: Vec<Prompt>,
    /// Group by group.
    responses: Vec<Vec<u32>>,
}

impl Workload {
    /// Everything drawn from a fixed seed.
    pub fn new() -> Self {
        let model = Model::random(&sizes(), VOCAB, IMAGE, 1).expect("model");
        let optimizer = AdamW::new(model.params(), optimizer()).expect("optimiser");
        let prompts: Vec<Prompt> = (0..PROMPTS).map(|i| prompt(i, i)).collect();
        let corrupted = (0..PROMPTS * GROUP).map(|i| prompt(i / GROUP, PROMPTS + i)).collect();
        let responses = (0..PROMPTS * GROUP).map(|i| tokens("response", i, RESPONSE)).collect();
        Self { model, optimizer, prompts, corrupted, responses }
    }

    /// Samples every response to its full length; no token ends one.
    pub fn rollout(&self) -> usize {
        let streams = (0..PROMPTS)
            .map(|p| (0..GROUP).map(|s| stream(1, Purpose::Rollout, &[p.into(), s.into()])).collect());
        let sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0, max_new_tokens: RESPONSE };
        let prompts: Vec<&Prompt> = self.prompts.iter().collect();
        let done =
            self.model.generate(&prompts, streams.collect(), &sampling, &[], &[IMAGE]).expect("rollout");
        done.iter().flatten().map(|c| c.ids.len()).sum()
    }

    /// Scores all responses, prompts shared.
    pub fn score(&self) -> usize {
        self.shared()
            .chunks(MICRO / GROUP)
            .map(|part| self.model.score(part).expect("scores").logp.len())
            .sum()
    }

    /// Scores all responses under a picture of their own.
    pub fn score_corrupted(&self) -> usize {
        let trees: Vec<Tree<'_>> = self
            .corrupted
            .iter()
            .zip(&self.responses)
            .map(|(prompt, response)| Tree { prompt, responses: vec![response] })
            .collect();
        trees.chunks(MICRO).map(|part| self.model.score(part).expect("scores").logp.len()).sum()
    }

    /// One update on all responses.
    pub fn update(&mut self) -> f64 {
        let mut grads = Grads::new(self.model.params());
        for part in self.shared().chunks(MICRO / GROUP) {
            let forward = self.model.forward(part).expect("forward");
            let weight = -1.0 / (PROMPTS * GROUP * RESPONSE) as f64;
            let dlogp = vec![vec![weight; RESPONSE]; MICRO];
            self.model.backward(&forward, &dlogp, &mut grads).expect("backward");
        }
        self.optimizer.step(self.model.params_mut(), &grads).expect("step")
    }

    fn shared(&self) -> Vec<Tree<'_>> {
        self.prompts
            .iter()
            .zip(self.responses.chunks(GROUP))
            .map(|(prompt, responses)| Tree {
                prompt,
                responses: responses.iter().map(Vec::as_slice).collect(),
            })
            .collect()
    }
}

fn sizes() -> ModelSettings {
    ModelSettings {
        hidden_size: 64,
        intermediate_size: 256,
        layers: 3,
        heads: 4,
        kv_heads: 2,
        mrope_section: [2, 3, 3],
        rope_theta: 1e6,
        tie_word_embeddings: true,
        vision_hidden_size: 64,
        vision_intermediate_size: 128,
        vision_depth: 2,
        vision_heads: 4,
        vision_full_attention_blocks: vec![1],
        vision_window_pixels: 112,
        min_pixels: 784,
        max_pixels: 12_544,
    }
}

fn optimizer() -> OptimizerSettings {
    OptimizerSettings {
        learning_rate: 1e-6,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        max_grad_norm: 1.0,
    }
}

fn tokens(what: &str, index: usize, n: usize) -> Vec<u32> {
    let mut draws = stream(1, Purpose::World, &[what.into(), index.into()]);
    (0..n).map(|_| 3 + draws.below(IMAGE as usize - 3) as u32).collect()
}

/// Text `text` with picture `picture` after its first token.
fn prompt(text: usize, picture: usize) -> Prompt {
    let mut ids = tokens("prompt", text, TEXT + 1);
    ids.splice(1..1, std::iter::repeat_n(IMAGE, GRID * GRID / 4));
    let mut draws = stream(1, Purpose::World, &["picture".into(), picture.into()]);
    let values = (0..GRID * GRID * 1176).map(|_| draws.normal() as f32).collect();
    Prompt { ids, pictures: vec![Arc::new(Patches { values, grid_thw: [1, GRID, GRID] })] }
}

/// Rollout, scoring, and one update.
pub fn step(c: &mut Criterion) {
    let mut work = Workload::new();
    let mut bench = c.benchmark_group("step");
    bench.sample_size(10).throughput(Throughput::Elements((PROMPTS * GROUP * RESPONSE) as u64));
    bench.bench_function("rollout", |b| b.iter(|| work.rollout()));
    bench.bench_function("score", |b| b.iter(|| work.score()));
    bench.bench_function("score_corrupted", |b| b.iter(|| work.score_corrupted()));
    bench.bench_function("update", |b| b.iter(|| work.update()));
    bench.finish();
}
