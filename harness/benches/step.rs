//! The parts of one training step at tiny scale: 32 prompts x 8 completions of 24 tokens, random weights.
//! Tokens per second are criterion's `elem/s`.

use criterion::{Criterion, Throughput};
use harness::bench::tiny::{FAMILIES, Split, generate};
use harness::config::{Scale, Study};
use harness::model::{AdamW, Grads, Tree};
use harness::rng::{Purpose, stream};
use harness::rollout::{Group, Policy};
use harness::settings::Sampling;
use harness::study::RunConfig;
use harness::warm_start::untrained;

const PROMPTS: usize = 32;
const GROUP: usize = 8;
const TOKENS: usize = 24;

fn sample(policy: &Policy) -> Vec<Group> {
    let items = (0..PROMPTS).map(|i| generate(1, Split::Train, i % FAMILIES.len(), i).example).collect();
    let sampling = Sampling { temperature: 1.0, top_p: 0.99, top_k: 0, max_new_tokens: TOKENS };
    let at = |example: &harness::types::Example, sample: usize| {
        stream(1, Purpose::Rollout, &[(&example.id).into(), sample.into()])
    };
    policy.sample(items, GROUP, &sampling, at).expect("the tiny model samples")
}

/// Rollout, scoring, and one update.
pub fn step(c: &mut Criterion) {
    let (scale, study) = (Scale::load("tiny").expect("scale"), Study::load("main").expect("study"));
    let config = RunConfig::resolve(&scale, &study, "dapo", 1, &[]).expect("settings");
    let mut policy = untrained(&config.model, &config.instruction, 1).expect("model");
    let groups = sample(&policy);
    let tokens: usize = groups.iter().flat_map(Group::responses).map(<[u32]>::len).sum();

    let mut bench = c.benchmark_group("step");
    bench.sample_size(10).throughput(Throughput::Elements(tokens as u64));
    bench.bench_function("rollout", |b| b.iter(|| sample(&policy)));
    let trees: Vec<Tree<'_>> = groups.iter().map(Group::tree).collect();
    bench.bench_function("score", |b| b.iter(|| policy.model.score(&trees).expect("scores")));
    let mut optimizer = AdamW::new(policy.model.params(), config.optimizer.clone()).expect("optimiser");
    let derivative: Vec<Vec<f64>> =
        groups.iter().flat_map(Group::responses).map(|r| vec![-1.0 / tokens as f64; r.len()]).collect();
    bench.bench_function("update", |b| {
        b.iter(|| {
            let forward = policy.model.forward(&trees).expect("forward");
            let mut grads = Grads::new(policy.model.params());
            policy.model.backward(&forward, &derivative, &mut grads).expect("backward");
            optimizer.step(policy.model.params_mut(), &grads).expect("step")
        })
    });
    bench.finish();
}
