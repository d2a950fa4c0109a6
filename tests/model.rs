//! The model: gradients against finite differences, sharing of prompts, sampler against scorer, checkpoints.

use harness::image::Patches;
use harness::model::{AdamW, Grads, Model, Prompt, Tree};
use harness::rng::{Purpose, stream};
use harness::settings::{ModelSettings, OptimizerSettings, Sampling};
use harness::types::StopReason;
use std::sync::Arc;

const IMAGE: u32 = 1;
const END: u32 = 2;
const VOCAB: usize = 24;

fn toy_settings() -> ModelSettings {
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

fn toy() -> Model {
    Model::random(&toy_settings(), VOCAB, IMAGE, 3).unwrap()
}

/// The toy with an output head of its own.
fn toy_untied() -> Model {
    let settings = ModelSettings { tie_word_embeddings: false, ..toy_settings() };
    Model::random(&settings, VOCAB, IMAGE, 3).unwrap()
}

fn picture(seed: u64, h: usize, w: usize) -> Arc<Patches> {
    let mut draws = stream(seed, Purpose::World, &["picture".into()]);
    let values = (0..h * w * 1176).map(|_| draws.normal() as f32).collect();
    Arc::new(Patches { values, grid_thw: [1, h, w] })
}

/// A prompt with one picture of h x w patches between text tokens.
fn prompt(seed: u64, h: usize, w: usize) -> Prompt {
    let mut ids = vec![5, 7];
    ids.extend(vec![IMAGE; h * w / 4]);
    ids.extend([3 + seed as u32, 9, 4]);
    Prompt { ids, pictures: vec![picture(seed, h, w)] }
}

fn weights(trees: &[Tree<'_>]) -> Vec<Vec<f64>> {
    let mut draws = stream(11, Purpose::World, &["weights".into()]);
    trees.iter().flat_map(|t| &t.responses).map(|r| r.iter().map(|_| draws.normal()).collect()).collect()
}

fn loss(model: &Model, trees: &[Tree<'_>], weights: &[Vec<f64>]) -> f64 {
    let scores = model.score(trees).unwrap();
    scores.logp.iter().flatten().zip(weights.iter().flatten()).map(|(&l, w)| f64::from(l) * w).sum()
}

fn gradients(model: &Model, trees: &[Tree<'_>], weights: &[Vec<f64>]) -> Grads {
    let mut grads = Grads::new(model.params().len());
    let forward = model.forward(trees).unwrap();
    model.backward(&forward, weights, &mut grads).unwrap();
    grads
}

fn flat(grads: &Grads, model: &Model) -> Vec<Vec<f32>> {
    (0..model.params().len()).map(|i| values(grads.get(i).unwrap())).collect()
}

fn values(t: &candle_core::Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
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

#[test]
fn a_checkpoint_gives_back_the_same_model_and_optimiser() {
    let mut model = toy();
    let settings = OptimizerSettings {
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        max_grad_norm: 1.0,
    };
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
