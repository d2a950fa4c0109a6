//! The model: gradients against finite differences, sharing of prompts, sampler against scorer, checkpoints.

use harness::image::Patches;
use harness::model::{
    AdamW, Completion, Compute, DecodeClient, DecodeGroup, DecodeRules, DecodeStats, Grads, Model, Prompt,
    Tree,
};
use harness::progress::Interrupted;
use harness::rng::{Purpose, Stream, stream};
use harness::settings::{ComputeSettings, DecodeLimits, ModelSettings, OptimizerSettings, Sampling};
use harness::types::StopReason;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

pub(crate) const IMAGE: u32 = 1;
pub(crate) const END: u32 = 2;
pub(crate) const VOCAB: usize = 24;

pub(crate) fn toy_settings() -> ModelSettings {
    ModelSettings {
        hidden_size: 32,
        intermediate_size: 24,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        mrope_section: [2, 1, 1],
        rope_theta: 1000.0,
        tie_word_embeddings: true,
        vision_hidden_size: 16,
        vision_intermediate_size: 20,
        vision_depth: 2,
        vision_heads: 2,
        vision_full_attention_blocks: vec![1],
        vision_window_pixels: 56,
        min_pixels: 784,
        max_pixels: 12_544,
    }
}

pub(crate) fn toy() -> Model {
    Model::random(&toy_settings(), VOCAB, IMAGE, 3).unwrap()
}

/// The toy with an output head of its own.
pub(crate) fn toy_untied() -> Model {
    let settings = ModelSettings { tie_word_embeddings: false, ..toy_settings() };
    Model::random(&settings, VOCAB, IMAGE, 3).unwrap()
}

fn picture(seed: u64, h: usize, w: usize) -> Arc<Patches> {
    let mut draws = stream(seed, Purpose::World, &["picture".into()]);
    let values = (0..h * w * 1176).map(|_| draws.normal() as f32).collect();
    Arc::new(Patches { values, grid_thw: [1, h, w] })
}

/// A prompt with one picture of h x w patches between text tokens.
pub(crate) fn prompt(seed: u64, h: usize, w: usize) -> Prompt {
    let mut ids = vec![5, 7];
    ids.extend(vec![IMAGE; h * w / 4]);
    ids.extend([3 + seed as u32, 9, 4]);
    Prompt { ids, pictures: vec![picture(seed, h, w)] }
}

pub(crate) fn weights(trees: &[Tree<'_>]) -> Vec<Vec<f64>> {
    let mut draws = stream(11, Purpose::World, &["weights".into()]);
    trees.iter().flat_map(|t| &t.responses).map(|r| r.iter().map(|_| draws.normal()).collect()).collect()
}

fn loss(model: &Model, trees: &[Tree<'_>], weights: &[Vec<f64>]) -> f64 {
    let scores = model.score(trees).unwrap();
    scores.logp.iter().flatten().zip(weights.iter().flatten()).map(|(&l, w)| f64::from(l) * w).sum()
}

pub(crate) fn gradients(model: &Model, trees: &[Tree<'_>], weights: &[Vec<f64>]) -> Grads {
    let mut grads = Grads::new(model.params());
    let forward = model.forward(trees).unwrap();
    model.backward(&forward, weights, &mut grads).unwrap();
    grads
}

pub(crate) fn flat(grads: &Grads, model: &Model) -> Vec<Vec<f32>> {
    (0..model.params().len()).map(|i| values(grads.get(i).unwrap())).collect()
}

pub(crate) fn values(t: &candle_core::Tensor) -> Vec<f32> {
    t.to_dtype(candle_core::DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

pub(crate) fn norm(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

pub(crate) fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn every_tensor_has_the_gradient_that_finite_differences_give() {
    check_gradients(toy());
    check_gradients(toy_untied());
}

fn check_gradients(mut model: Model) {
    let (a, b) = (prompt(1, 4, 6), prompt(2, 6, 4));
    let text = Prompt { ids: vec![4, 8, 6], pictures: vec![] };
    let trees = [
        Tree { prompt: &a, responses: vec![&[4, 9, 11, END], &[12], &[7, 7, END]] },
        Tree { prompt: &text, responses: vec![&[13, 5, END]] },
        Tree { prompt: &b, responses: vec![&[20, 21, 22, 23, 4], &[9, END]] },
    ];
    let weights = weights(&trees);
    let grads = flat(&gradients(&model, &trees, &weights), &model);
    let names: Vec<String> = model.params().iter().map(|(n, _)| n.to_owned()).collect();
    for (id, name) in names.iter().enumerate() {
        assert!(norm(&grads[id]) > 0.0, "{name} receives no gradient");
        let original = model.params().iter().nth(id).unwrap().1.clone();
        let mut draws = stream(5, Purpose::World, &[name.as_str().into()]);
        let direction: Vec<f64> = (0..original.elem_count()).map(|_| draws.normal()).collect();
        // Along the gradient and a random direction together, so that no tensor's slope is lost in rounding.
        let length = norm(&grads[id]);
        let direction: Vec<f64> = direction
            .iter()
            .zip(&grads[id])
            .map(|(d, &g)| 0.3 * d / (direction.len() as f64).sqrt() + f64::from(g) / length)
            .collect();
        let want: f64 = direction.iter().zip(&grads[id]).map(|(d, &g)| d * f64::from(g)).sum();
        let base = values(&original);
        let mut at = |step: f64| {
            let moved: Vec<f32> =
                base.iter().zip(&direction).map(|(&x, d)| (f64::from(x) + step * d) as f32).collect();
            let moved = candle_core::Tensor::from_vec(moved, original.shape(), original.device()).unwrap();
            model.params_mut().set(id, moved).unwrap();
            loss(&model, &trees, &weights)
        };
        let slope = |at: &mut dyn FnMut(f64) -> f64, h: f64| (at(h) - at(-h)) / (2.0 * h);
        let h = 8e-3;
        let got = (4.0 * slope(&mut at, h / 2.0) - slope(&mut at, h)) / 3.0;
        model.params_mut().set(id, original).unwrap();
        assert!(
            (got - want).abs() < 4e-3 * want.abs().max(0.05),
            "{name}: finite differences {got}, backward {want}"
        );
    }
}

#[test]
fn sharing_a_prompt_changes_rounding_only() {
    let model = toy();
    let p = prompt(1, 4, 4);
    let responses: [&[u32]; 3] = [&[4, 9, 11, END], &[12, END], &[7, 7, 8, 9, 10]];
    let shared = [Tree { prompt: &p, responses: responses.to_vec() }];
    let apart: Vec<Tree<'_>> = responses.iter().map(|r| Tree { prompt: &p, responses: vec![r] }).collect();
    let weights = weights(&shared);
    let (one, many) = (model.score(&shared).unwrap(), model.score(&apart).unwrap());
    for (a, b) in one.logp.iter().flatten().zip(many.logp.iter().flatten()) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
    let (one, many) = (gradients(&model, &shared, &weights), gradients(&model, &apart, &weights));
    for (a, b) in flat(&one, &model).iter().zip(flat(&many, &model)) {
        assert!(distance(a, &b) < 1e-5 * norm(a).max(1e-3), "{} of {}", distance(a, &b), norm(a));
    }
}

#[test]
fn recomputing_layers_changes_no_bit() {
    let kept = toy();
    let settings = ComputeSettings { recompute: true, ..ComputeSettings::CPU };
    let again = kept.on(&Compute::open(&settings).unwrap()).unwrap();
    let (a, b) = (prompt(1, 4, 6), prompt(2, 6, 4));
    let trees = [
        Tree { prompt: &a, responses: vec![&[4, 9, 11, END], &[12]] },
        Tree { prompt: &b, responses: vec![&[20, 21, 22, 23, 4]] },
    ];
    let weights = weights(&trees);
    let (one, other) = (gradients(&kept, &trees, &weights), gradients(&again, &trees, &weights));
    assert_eq!(flat(&one, &kept), flat(&other, &again));
}

#[test]
fn sampler_and_scorer_agree_and_batching_changes_no_draw() {
    let model = toy();
    let prompts = [prompt(1, 4, 4), prompt(2, 6, 4)];
    let sampling = Sampling { temperature: 3.0, top_p: 0.95, top_k: 0, max_new_tokens: 12 };
    let streams =
        |p: usize, n: usize| (0..n).map(|s| stream(1, Purpose::Rollout, &[p.into(), s.into()])).collect();
    let both: Vec<&Prompt> = prompts.iter().collect();
    let done =
        model.generate(&both, vec![streams(0, 6), streams(1, 3)], &sampling, &[END], &[IMAGE]).unwrap();
    let alone = model.generate(&both[1..], vec![streams(1, 3)], &sampling, &[END], &[IMAGE]).unwrap();
    for (a, b) in done[1].iter().zip(&alone[0]) {
        assert_eq!((&a.ids, a.stop), (&b.ids, b.stop));
    }
    let trees: Vec<Tree<'_>> = prompts
        .iter()
        .zip(&done)
        .map(|(prompt, done)| Tree { prompt, responses: done.iter().map(|c| c.ids.as_slice()).collect() })
        .collect();
    let scores = model.score(&trees).unwrap();
    let flat: Vec<_> = done.iter().flatten().collect();
    for (completion, (logp, entropy)) in flat.iter().zip(scores.logp.iter().zip(&scores.entropy)) {
        assert_eq!(completion.ids.len(), logp.len());
        assert_eq!(completion.stop == StopReason::EndToken, completion.ids.last() == Some(&END));
        assert!(completion.ids.len() <= 12 && !completion.ids.contains(&IMAGE));
        for (a, b) in completion.logp.iter().zip(logp).chain(completion.entropy.iter().zip(entropy)) {
            assert!((a - b).abs() < 2e-5, "{a} {b}");
        }
    }
    let lengths: std::collections::BTreeSet<usize> = flat.iter().map(|c| c.ids.len()).collect();
    assert!(lengths.len() > 1, "sequences of different lengths are what this test is about");
}

/// Prompts of several lengths, how many sequences continue each, and how they are drawn.
struct Job {
    prompts: Vec<Prompt>,
    sequences: Vec<usize>,
    sampling: Sampling,
}

/// Sequences of up to three pages of their own; some end at once, some never.
fn job() -> Job {
    let text = Prompt { ids: (0..40).map(|i| 3 + i % 20).collect(), pictures: vec![] };
    Job {
        prompts: vec![prompt(1, 4, 4), text, prompt(2, 6, 4), prompt(3, 2, 2)],
        sequences: vec![3, 2, 0, 4],
        sampling: Sampling { temperature: 2.0, top_p: 0.95, top_k: 0, max_new_tokens: 80 },
    }
}

impl Job {
    fn streams(&self) -> Vec<Vec<Stream>> {
        let of =
            |p: usize, n: usize| (0..n).map(|s| stream(1, Purpose::Rollout, &[p.into(), s.into()])).collect();
        self.sequences.iter().enumerate().map(|(p, &n)| of(p, n)).collect()
    }

    fn run(
        &self,
        model: &Model,
        kv_tokens: usize,
        max_sequences: usize,
    ) -> anyhow::Result<(Vec<Vec<Completion>>, DecodeStats)> {
        self.run_until(model, DecodeLimits { kv_tokens, max_sequences }, &|| false)
    }

    fn run_until(
        &self,
        model: &Model,
        limits: DecodeLimits,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> anyhow::Result<(Vec<Vec<Completion>>, DecodeStats)> {
        let prompts: Vec<&Prompt> = self.prompts.iter().collect();
        let sampling = &self.sampling;
        let rules = DecodeRules { sampling, end: &[END], forbidden: &[IMAGE], limits, stop };
        model.generate_within(&prompts, self.streams(), &rules)
    }
}

#[test]
fn limits_on_memory_and_sequences_change_no_draw() {
    let (model, job) = (toy(), job());
    let (want, all) = job.run(&model, 0, 0).unwrap();
    assert_eq!(want.iter().map(Vec::len).collect::<Vec<_>>(), job.sequences);
    // Prompts of 1, 2 and 1 pages; 79 own tokens of 9 sequences.
    assert_eq!((all.kv_tokens, all.preemptions), ((1 + 2 + 1 + 9 * 3) * 32, 0));
    let lengths: Vec<usize> = want.iter().flatten().map(|c| c.ids.len()).collect();
    assert!(lengths.iter().any(|&n| n < 20) && lengths.iter().any(|&n| n > 64), "{lengths:?}");
    let mut preemptions = 0;
    for kv_tokens in [5 * 32, 6 * 32 + 7, 8 * 32, 11 * 32, 0] {
        for max_sequences in [0, 1, 2, 5] {
            let (got, stats) = job.run(&model, kv_tokens, max_sequences).unwrap();
            assert!(got == want, "{kv_tokens} tokens, {max_sequences} sequences: other completions");
            assert!(stats.peak_kv_tokens <= stats.kv_tokens);
            assert!(kv_tokens == 0 || stats.kv_tokens <= kv_tokens);
            assert!(stats.steps >= all.steps && (max_sequences != 1 || stats.preemptions == 0));
            preemptions += stats.preemptions;
        }
    }
    assert!(preemptions >= 10, "only {preemptions} sequences had to give back their pages");
}

#[test]
fn a_cache_too_small_for_one_response_says_how_much_is_needed() {
    let error = job().run(&toy(), 4 * 32, 0).unwrap_err().to_string();
    assert!(error.contains("cache of 128 tokens") && error.contains("need 160 tokens"), "{error}");
}

#[test]
fn the_number_of_threads_changes_no_bit_of_a_completion() {
    let (model, job) = (toy(), job());
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| job.run(&model, 8 * 32, 0).unwrap())
    };
    let (one, two) = (with(1), with(2));
    let bits = |done: &[Vec<Completion>]| -> Vec<u32> {
        done.iter().flatten().flat_map(|c| c.logp.iter().chain(&c.entropy)).map(|x| x.to_bits()).collect()
    };
    assert!(one == two && bits(&one.0) == bits(&two.0));
}

#[test]
fn a_request_to_stop_ends_decoding_between_two_steps() {
    let left = AtomicI32::new(5);
    let stop = || left.fetch_sub(1, Ordering::Relaxed) == 0;
    let stopped = job().run_until(&toy(), DecodeLimits::default(), &stop);
    assert!(stopped.unwrap_err().is::<Interrupted>());
    assert_eq!(left.into_inner(), -1, "it is asked once per step and obeyed at once");
}

/// Gives prompts on demand and notes what happens.
struct Recorder<'a> {
    job: &'a Job,
    asked: Vec<usize>,
    finished: Vec<(usize, usize)>,
    /// Most groups that were asked for and had not ended.
    open: usize,
}

impl DecodeClient for Recorder<'_> {
    fn prompts(&mut self, groups: &[usize]) -> anyhow::Result<Vec<Prompt>> {
        self.asked.extend(groups);
        self.open = self.open.max(self.asked.len() - self.finished.len());
        Ok(groups.iter().map(|&group| self.job.prompts[group].clone()).collect())
    }

    fn finished(&mut self, group: usize, prompt: Prompt, completions: Vec<Completion>) -> anyhow::Result<()> {
        assert_eq!(prompt.ids, self.job.prompts[group].ids);
        self.finished.push((group, completions.len()));
        Ok(())
    }
}

#[test]
fn a_long_list_is_worked_off_prompt_by_prompt() {
    let (model, job) = (toy(), job());
    for (kv_tokens, max_sequences, most_open) in [(0, 0, 3), (0, 2, 2), (5 * 32, 0, 2), (5 * 32, 1, 1)] {
        let limits = DecodeLimits { kv_tokens, max_sequences };
        let rules = DecodeRules {
            sampling: &job.sampling,
            end: &[END],
            forbidden: &[IMAGE],
            limits,
            stop: &|| false,
        };
        let groups = job
            .prompts
            .iter()
            .zip(job.streams())
            .map(|(prompt, streams)| DecodeGroup { prompt_tokens: prompt.ids.len(), streams })
            .collect();
        let mut client = Recorder { job: &job, asked: vec![], finished: vec![], open: 0 };
        model.decode(groups, &rules, &mut client).unwrap();
        assert_eq!(client.asked, [0, 1, 3], "each prompt is asked for once, in order");
        client.finished.sort_unstable();
        assert_eq!(client.finished, [(0, 3), (1, 2), (3, 4)]);
        assert!(client.open <= most_open, "{limits:?}: {} groups at a time", client.open);
    }
}

#[test]
fn a_checkpoint_gives_back_the_same_model_and_optimiser() {
    let mut model = toy();
    let settings = optimizer_settings();
    let p = prompt(1, 4, 4);
    let trees = [Tree { prompt: &p, responses: vec![&[4, 9, END]] }];
    let mut optimizer = AdamW::new(model.params(), settings.clone()).unwrap();
    let update = |model: &mut Model, optimizer: &mut AdamW| {
        let grads = gradients(model, &trees, &[vec![-1.0; 3]]);
        optimizer.step(model.params_mut(), &grads).unwrap();
    };
    let before = loss(&model, &trees, &[vec![-1.0; 3]]);
    (0..3).for_each(|_| update(&mut model, &mut optimizer));
    assert!(loss(&model, &trees, &[vec![-1.0; 3]]) < before, "three updates must lower the loss");

    let config = model.config().to_json(END, 0).unwrap();
    let mut again = Model::from_bytes(&config, &model.to_bytes().unwrap()).unwrap();
    let mut restored = AdamW::from_bytes(&again, settings, &optimizer.to_bytes().unwrap()).unwrap();
    update(&mut model, &mut optimizer);
    update(&mut again, &mut restored);
    assert_eq!(model.to_bytes().unwrap(), again.to_bytes().unwrap());
    assert_eq!(optimizer.to_bytes().unwrap(), restored.to_bytes().unwrap());

    let bytes = model.to_bytes().unwrap();
    let short = Model::from_bytes(&config, &bytes[..bytes.len() - 9]).unwrap_err();
    assert!(format!("{short:#}").contains("safetensors"), "{short:#}");
    let wider = config.replace("\"intermediate_size\": 24", "\"intermediate_size\": 28");
    let wrong = Model::from_bytes(&wider, &bytes).unwrap_err();
    assert!(format!("{wrong:#}").contains("gate_proj"), "{wrong:#}");
}

/// The vision tower has no gradient in the first update and one in the second: neither changes the model that the
/// updated one was cloned from.
#[test]
fn updates_leave_a_clone_alone() {
    let first = toy();
    let (mut model, before) = (first.clone(), first.to_bytes().unwrap());
    let mut optimizer = AdamW::new(model.params(), optimizer_settings()).unwrap();
    let (text, picture) = (Prompt { ids: vec![4, 9], pictures: vec![] }, prompt(1, 4, 4));
    for prompt in [&text, &picture, &picture] {
        let trees = [Tree { prompt, responses: vec![&[4, 9, END]] }];
        let grads = gradients(&model, &trees, &[vec![-1.0; 3]]);
        optimizer.step(model.params_mut(), &grads).unwrap();
    }
    assert_ne!(model.to_bytes().unwrap(), before);
    assert_eq!(first.to_bytes().unwrap(), before);
}

fn optimizer_settings() -> OptimizerSettings {
    OptimizerSettings {
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        max_grad_norm: 1.0,
    }
}

#[test]
fn scores_gradients_and_draws_do_not_depend_on_the_thread_count() {
    let model = toy();
    let prompts: Vec<Prompt> = (0..7).map(|i| prompt(i, 2 + 2 * (i as usize % 3), 6)).collect();
    let responses: Vec<Vec<u32>> =
        (0..35).map(|i| (0..1 + i * 5 % 23).map(|t| 3 + (i * 7 + t * 3) % 20).collect()).collect();
    let trees: Vec<Tree<'_>> = prompts
        .iter()
        .zip(responses.chunks(5))
        .map(|(prompt, r)| Tree { prompt, responses: r.iter().map(Vec::as_slice).collect() })
        .collect();
    let weights = weights(&trees);
    let sampling = Sampling { temperature: 1.0, top_p: 0.9, top_k: 0, max_new_tokens: 9 };
    let run = || {
        let streams =
            (0..7usize).map(|p| (0..4usize).map(move |s| stream(1, Purpose::Rollout, &[p.into(), s.into()])));
        let draws = model.generate(
            &prompts.iter().collect::<Vec<_>>(),
            streams.map(Iterator::collect).collect(),
            &sampling,
            &[END],
            &[IMAGE],
        );
        (
            model.score(&trees).unwrap().logp,
            flat(&gradients(&model, &trees, &weights), &model),
            draws.unwrap(),
        )
    };
    let with = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run);
    let one = with(1);
    for threads in [2, 3, 8] {
        assert_eq!(with(threads), one, "{threads} threads");
    }
}

#[test]
fn the_rest_of_a_batch_changes_no_bit_of_a_score() {
    let model = toy();
    let (a, b) = (prompt(1, 4, 6), prompt(2, 6, 4));
    let responses: [&[u32]; 3] = [&[4, 9, 11, END], &[12], &[7, 7, 8, 9, 10, END]];
    let together = [
        Tree { prompt: &b, responses: vec![&[20, 21, 22]] },
        Tree { prompt: &a, responses: responses.to_vec() },
    ];
    let all = model.score(&together).unwrap();
    for (i, response) in responses.iter().enumerate() {
        let alone = model.score(&[Tree { prompt: &a, responses: vec![response] }]).unwrap();
        assert_eq!((&alone.logp[0], &alone.entropy[0]), (&all.logp[i + 1], &all.entropy[i + 1]));
    }
}
