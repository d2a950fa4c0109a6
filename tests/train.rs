//! The training loop on the smoke scale's base model: micro-batches, and what arms share.

use crate::run::reference;
use harness::algo::{Aggregation, Algorithm, Ceiling, PRESETS, Scope};
use harness::bench::RowCheck;
use harness::bench::tiny::{FAMILIES, Split, generate};
use harness::config::{Scale, Study};
use harness::eval::evaluate;
use harness::progress::{Interrupted, Progress, Silent};
use harness::rollout::Policy;
use harness::settings::{DecodeLimits, EvalSettings};
use harness::store::Store;
use harness::study::{Inputs, Questions, RunConfig, Sources, base_policy};
use harness::train::{Figures, Recipe, Trainer};
use harness::types::{Example, SampleLine};
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// The smoke scale's settings with whole-step updates and one draw, and its base model.
pub(crate) fn setting() -> (RunConfig, Policy) {
    let (scale, study) = (Scale::load("smoke").unwrap(), Study::load("main").unwrap());
    let config = RunConfig::resolve(&scale, &study, "vppo", 1, &[]).unwrap();
    let store = Store::open(reference().out().join("runs")).unwrap();
    let hub = harness::hub::Settings::from_env("no.lock").unwrap();
    let sources = Sources { hub, folder: None, rows: RowCheck::Refuse, unfiltered: false };
    let base = base_policy(&config, &sources, &store, &mut Inputs::default(), &Silent).unwrap();
    let mut config = config;
    config.train.mini_batch_prompts = config.train.prompts_per_step;
    config.train.max_refills = 1;
    (config, base)
}

/// One step of an algorithm: its figures and the optimiser's state after it.
pub(crate) fn one_step(config: &RunConfig, algorithm: &Algorithm, base: &Policy) -> (Figures, Vec<u8>) {
    let world = Questions::World(config.world.clone().unwrap());
    let recipe = Recipe {
        algorithm,
        train: &config.train,
        sampling: &config.sampling,
        optimizer: &config.optimizer,
        seed: config.seed,
    };
    let mut trainer = Trainer::new(recipe, &world, base.clone()).unwrap();
    let (figures, _) = trainer.run_step(&Silent).unwrap();
    let mut files = trainer.checkpoint().unwrap();
    let at = files.iter().position(|(name, _)| name == "optimizer.safetensors").unwrap();
    (figures, files.swap_remove(at).1)
}

/// After one update the first moment is the clipped gradient times 1 - beta1: the gradient up to a factor.
fn first_moment(state: &[u8]) -> BTreeMap<String, Vec<f64>> {
    let tensors = SafeTensors::deserialize(state).unwrap();
    let floats = |bytes: &[u8]| -> Vec<f64> {
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect()
    };
    let all = tensors.tensors().into_iter();
    all.filter(|(name, _)| name.ends_with(".first"))
        .map(|(name, tensor)| (name, floats(tensor.data())))
        .collect()
}

fn norm(tensors: impl Iterator<Item = f64>) -> f64 {
    tensors.map(|x| x * x).sum::<f64>().sqrt()
}

/// Whether the algorithm's settings themselves speak of micro-batches, as the reference's VPPO does.
fn scoped_to_micro_batches(algorithm: &Algorithm) -> bool {
    let shaping = algorithm.perception.as_ref().and_then(|p| p.shaping.as_ref());
    algorithm.aggregation == Aggregation::SequencePerMicroBatch
        || shaping.is_some_and(|s| {
            s.range_scope == Scope::MicroBatch
                || (s.ceiling == Ceiling::Dynamic {} && s.ceiling_scope == Scope::MicroBatch)
        })
}

/// The algorithm with statistics over mini-batches where they are over micro-batches.
fn widened(mut algorithm: Algorithm) -> Algorithm {
    if algorithm.aggregation == Aggregation::SequencePerMicroBatch {
        algorithm.aggregation = Aggregation::Sequence;
    }
    if let Some(shaping) = algorithm.perception.as_mut().and_then(|p| p.shaping.as_mut()) {
        for scope in [&mut shaping.range_scope, &mut shaping.ceiling_scope] {
            if *scope == Scope::MicroBatch {
                *scope = Scope::MiniBatch;
            }
        }
    }
    algorithm
}

/// Relative distance of the gradients of one update under two sizes of micro-batches.
fn gradient_distance(algorithm: &Algorithm, sizes: [usize; 2]) -> f64 {
    let (mut config, base) = setting();
    let [a, b] = sizes.map(|size| {
        config.train.micro_batch_responses = size;
        first_moment(&one_step(&config, algorithm, &base).1)
    });
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    let length = norm(a.values().flatten().copied());
    assert!(a.len() > 10 && length > 1e-6, "{} tensors, norm {length}: there is no gradient", a.len());
    norm(a.iter().flat_map(|(name, a)| a.iter().zip(&b[name])).map(|(a, b)| a - b)) / length
}

#[test]
fn the_micro_batch_changes_the_gradient_by_rounding_only() {
    for name in PRESETS {
        let algorithm = Algorithm::preset(name).unwrap();
        let widened = widened(algorithm.clone());
        assert_eq!(widened != algorithm, scoped_to_micro_batches(&algorithm), "{name}");
        // 5 does not divide a group, so micro-batches begin and end within groups.
        let distance = gradient_distance(&widened, [32, 5]);
        assert!(distance < 1e-5, "{name}: {distance}");
    }
}

#[test]
fn a_ceiling_per_micro_batch_depends_on_the_micro_batch() {
    let vppo = Algorithm::vppo();
    assert!(scoped_to_micro_batches(&vppo));
    let distance = gradient_distance(&vppo, [32, 5]);
    assert!(distance > 1e-4, "{distance}: the test above could not fail");
}

/// Data order and sampling noise belong to the seed and not to the algorithm: with one draw per step, every
/// preset samples the same completions, whether it filters groups or not.
#[test]
fn every_algorithm_draws_the_same_first_batch() {
    let (config, base) = setting();
    let sampled = |name: &str, seed: u64| {
        let config = RunConfig { seed, ..config.clone() };
        let mut figures = one_step(&config, &Algorithm::preset(name).unwrap(), &base).0;
        let of_the_draw =
            ["correct_frac", "draws", "entropy", "response_tokens_mean", "sampled_tokens", "wrong_frac"];
        figures.retain(|name, _| of_the_draw.contains(&name.as_str()));
        assert_eq!(figures.len(), of_the_draw.len());
        figures
    };
    let expected = sampled("grpo", 1);
    assert!(expected["correct_frac"] > 0.0, "{expected:?}");
    for name in PRESETS {
        assert_eq!(sampled(name, 1), expected, "{name}");
    }
    assert_ne!(sampled("grpo", 2), expected, "another seed must draw something else");
}

/// The policy within limits that hold a few of a step's sequences at a time.
fn limited(base: &Policy, kv_tokens: usize, max_sequences: usize) -> Policy {
    Policy { limits: DecodeLimits { kv_tokens, max_sequences }, ..base.clone() }
}

#[test]
fn limits_of_the_rollout_change_no_bit_of_a_step() {
    let (config, base) = setting();
    let algorithm = Algorithm::vppo();
    let want = one_step(&config, &algorithm, &base);
    for (kv_tokens, max_sequences) in [(512, 0), (1024, 5), (0, 3)] {
        let got = one_step(&config, &algorithm, &limited(&base, kv_tokens, max_sequences));
        assert_eq!(got.0, want.0, "{kv_tokens} tokens, {max_sequences} sequences");
        assert!(got.1 == want.1, "{kv_tokens} tokens, {max_sequences} sequences: another update");
    }
}

/// Notes how far the work is and asks to stop at a number of completions.
struct StopAt {
    done: AtomicU64,
    at: u64,
}

impl Progress for StopAt {
    fn begin(&self, _stage: &str, _done: u64, _total: u64) {}
    fn advance(&self, done: u64, message: &str) {
        assert!(self.done.swap(done, SeqCst) < done && message.ends_with('%'), "{done}: {message}");
    }
    fn end(&self) {}
    fn note(&self, _text: &str) {}
    fn stop_requested(&self) -> bool {
        self.done.load(SeqCst) >= self.at
    }
}

fn evaluated(
    config: &RunConfig,
    policy: &Policy,
    batch: usize,
    stop_at: u64,
) -> anyhow::Result<(u64, Vec<SampleLine>)> {
    let of = |i: usize| generate(1, Split::Eval, i % FAMILIES.len(), i).example;
    let items: Vec<Example> = (0..7).map(of).collect();
    let settings = EvalSettings { batch, samples: 3, ..config.eval.clone() };
    let progress = StopAt { done: AtomicU64::new(0), at: stop_at };
    let mut done = 0;
    let lines = evaluate(policy, &items, &settings, 1, &mut done, &progress)?.lines;
    assert_eq!((done, progress.done.load(SeqCst)), (21, 21));
    Ok((done, lines))
}

#[test]
fn an_evaluation_is_the_same_whatever_is_decoded_at_a_time_and_stops_when_asked() {
    let (config, base) = setting();
    let want = evaluated(&config, &base, 512, u64::MAX).unwrap();
    let order: Vec<u32> = want.1.iter().map(|line| line.sample).collect();
    assert_eq!(order, [0, 1, 2].repeat(7));
    for (batch, policy) in [(1, base.clone()), (4, base.clone()), (512, limited(&base, 512, 6))] {
        assert_eq!(evaluated(&config, &policy, batch, u64::MAX).unwrap(), want, "batch {batch}");
    }
    let stopped = evaluated(&config, &base, 4, 6);
    assert!(stopped.unwrap_err().is::<Interrupted>());
}
