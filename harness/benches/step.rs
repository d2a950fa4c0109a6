//! The phases of one training step at tiny scale, as `harness bench` times them: 32 prompts of one picture (8 x 8
//! patches) and 24 text tokens, 8 responses of 40 tokens each, random weights and tokens. Response tokens per second are
//! criterion's `elem/s`.

use criterion::{Criterion, Throughput};
use harness::model::Model;
use harness::model::checkpoint::PictureMarks;
use harness::settings::{CorruptionScope, DecodeLimits, ModelSettings};
use harness::speed::{Bench, Phase, Shape};
use std::time::Duration;

const VOCAB: usize = 160;
const IMAGE: u32 = 150;

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

fn shape(phase: Phase) -> Shape {
    Shape {
        prompts: 32,
        group: 8,
        grid: [8, 8],
        prompt_tokens: 24,
        response_tokens: 40,
        micro: 64,
        corrupted: CorruptionScope::Response,
        phases: vec![phase],
    }
}

/// Every phase of a step on its own.
pub fn step(c: &mut Criterion) {
    let marks = PictureMarks { start: Some(152), end: Some(153), video: Some(151), eos: vec![2] };
    let mut group = c.benchmark_group("step");
    for phase in Phase::ALL {
        let model = Model::random(&sizes(), VOCAB, IMAGE, 1).expect("model");
        let mut bench = Bench::new(model, &marks, shape(phase), DecodeLimits::default()).expect("bench");
        let tokens = bench.shape().responses() * bench.shape().response_tokens;
        group.sample_size(10).throughput(Throughput::Elements(tokens as u64));
        group.bench_function(phase.name(), |b| {
            b.iter_custom(|rounds| {
                let timings = bench.run(rounds as usize, |_, _, _| {}).expect("timings");
                timings
                    .rounds
                    .iter()
                    .flat_map(|round| round.values())
                    .map(|&s| Duration::from_secs_f64(s))
                    .sum()
            });
        });
    }
    group.finish();
}
