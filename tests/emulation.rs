//! The GPU path of the model on the processor: every kernel, through the model that uses it, against the CPU's path.

use super::model::{
    END, IMAGE, VOCAB, distance, flat, gradients, norm, prompt, toy, toy_settings, toy_untied, values,
    weights,
};
use super::train::{one_step, setting};
use harness::algo::Algorithm;
use harness::model::{AdamW, Compute, Grads, Model, Prompt, Tree};
use harness::rng::{Purpose, stream};
use harness::settings::{
    Attention, ComputeSettings, Dtype, ModelSettings, OptimizerSettings, OptimizerState, Sampling,
};

const F32: ComputeSettings = ComputeSettings::CPU;
const BF16: ComputeSettings = ComputeSettings { dtype: Dtype::Bf16, ..F32 };

fn emulated(model: &Model, settings: ComputeSettings) -> Model {
    model.on(&Compute::emulated(&settings)).unwrap()
}

/// Three prompts: two with a picture of several windows, one of text alone.
fn check_trees(check: impl Fn(&[Tree<'_>])) {
    let (a, b) = (prompt(1, 6, 10), prompt(2, 8, 4));
    let text = Prompt { ids: vec![4, 8, 6], pictures: vec![] };
    check(&[
        Tree { prompt: &a, responses: vec![&[4, 9, 11, END], &[12], &[7, 7, END]] },
        Tree { prompt: &text, responses: vec![&[13, 5, END]] },
        Tree { prompt: &b, responses: vec![&[20, 21, 22, 23, 4], &[9, END]] },
    ]);
}

/// Longer than one tile of keys, and several query heads to one head of keys.
fn wide() -> Model {
    let settings = ModelSettings { hidden_size: 48, heads: 6, kv_heads: 2, ..toy_settings() };
    Model::random(&settings, VOCAB, IMAGE, 4).unwrap()
}

fn relative(a: &[f32], b: &[f32]) -> f64 {
    distance(a, b) / norm(b).max(1e-6)
}

#[test]
fn scores_and_gradients_are_those_of_the_processor() {
    for model in [toy(), toy_untied(), wide()] {
        let card = emulated(&model, F32);
        check_trees(|trees| {
            let (want, got) = (model.score(trees).unwrap(), card.score(trees).unwrap());
            for (a, b) in want.logp.iter().flatten().zip(got.logp.iter().flatten()) {
                assert!((a - b).abs() < 1e-5, "logp {a} {b}");
            }
            for (a, b) in want.entropy.iter().flatten().zip(got.entropy.iter().flatten()) {
                assert!((a - b).abs() < 1e-5, "entropy {a} {b}");
            }
            let weights = weights(trees);
            let (want, got) = (gradients(&model, trees, &weights), gradients(&card, trees, &weights));
            let names = model.params().iter().map(|(name, _)| name);
            for ((a, b), name) in flat(&want, &model).iter().zip(flat(&got, &card)).zip(names) {
                assert!(relative(&b, a) < 2e-5, "{name}: {}", relative(&b, a));
            }
        });
    }
}

/// The tree made of separate attentions over segments and prompts, against the kernels that see it whole.
#[test]
fn attention_in_two_merged_parts_is_the_attention_of_the_tree() {
    let flash = ComputeSettings { attention: Attention::Flash, ..F32 };
    for model in [toy(), wide()] {
        let (whole, parts) = (emulated(&model, F32), emulated(&model, flash));
        check_trees(|trees| {
            let weights = weights(trees);
            let (want, got) = (gradients(&whole, trees, &weights), gradients(&parts, trees, &weights));
            let names = model.params().iter().map(|(name, _)| name);
            for ((a, b), name) in flat(&want, &model).iter().zip(flat(&got, &parts)).zip(names) {
                assert!(relative(&b, a) < 2e-5, "{name}: {}", relative(&b, a));
            }
        });
    }
}

#[test]
fn in_bf16_the_gradient_points_the_same_way() {
    let model = toy();
    let card = emulated(&model, BF16);
    check_trees(|trees| {
        let weights = weights(trees);
        let (want, got) = (gradients(&model, trees, &weights), gradients(&card, trees, &weights));
        let names = model.params().iter().map(|(name, _)| name);
        for ((a, b), name) in flat(&want, &model).iter().zip(flat(&got, &card)).zip(names) {
            let cosine = a.iter().zip(&b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>()
                / norm(a)
                / norm(&b);
            assert!(cosine > 0.995, "{name}: cosine {cosine}");
            assert!((norm(&b) / norm(a) - 1.0).abs() < 0.06, "{name}: {} {}", norm(&b), norm(a));
        }
        let (want, got) = (model.score(trees).unwrap(), card.score(trees).unwrap());
        for (a, b) in want.logp.iter().flatten().zip(got.logp.iter().flatten()) {
            assert!((a - b).abs() < 0.05, "logp {a} {b}");
        }
    });
}

#[test]
fn recomputing_layers_changes_no_bit_of_the_card() {
    for settings in [F32, BF16] {
        let model = toy();
        let (kept, again) =
            (emulated(&model, settings), emulated(&model, ComputeSettings { recompute: true, ..settings }));
        check_trees(|trees| {
            let weights = weights(trees);
            let (one, other) = (gradients(&kept, trees, &weights), gradients(&again, trees, &weights));
            assert_eq!(flat(&one, &kept), flat(&other, &again));
        });
    }
}

#[test]
fn divergences_are_those_of_the_processor() {
    let model = toy();
    let card = emulated(&model, F32);
    let (a, b) = (prompt(1, 6, 10), prompt(3, 6, 10));
    let responses: Vec<&[u32]> = vec![&[4, 9, 11, END], &[12]];
    let clean = [Tree { prompt: &a, responses: responses.clone() }];
    let corrupted = [Tree { prompt: &b, responses }];
    let want = model.divergences(&clean, &corrupted).unwrap();
    let got = card.divergences(&clean, &corrupted).unwrap();
    for (want, got) in want.iter().flatten().zip(got.iter().flatten()) {
        assert!(want[1] > 0.0 && want[2] > 0.0, "{want:?}");
        for (a, b) in want.iter().zip(got) {
            assert!((a - b).abs() < 1e-5 + 1e-3 * a.abs(), "{want:?} {got:?}");
        }
    }
    let same = card.divergences(&clean, &clean).unwrap();
    assert!(same.iter().flatten().all(|row| row[1] == 0.0 && row[2] == 0.0), "{same:?}");
}

fn optimizer() -> OptimizerSettings {
    OptimizerSettings {
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        max_grad_norm: 1.0,
    }
}

/// Updates of `model` with its own gradients; returns all weights and the last norm.
fn train(mut model: Model, settings: OptimizerSettings, updates: usize) -> (Vec<Vec<f32>>, f64) {
    let mut adamw = AdamW::new(model.params(), settings).unwrap();
    let p = prompt(1, 4, 4);
    let trees = [Tree { prompt: &p, responses: vec![&[4, 9, END], &[7, 8]] }];
    let mut norm = 0.0;
    for _ in 0..updates {
        let grads = gradients(&model, &trees, &[vec![-1.0; 3], vec![0.5; 2]]);
        norm = adamw.step(model.params_mut(), &grads).unwrap();
    }
    (model.params().iter().map(|(_, t)| values(t)).collect(), norm)
}

#[test]
fn updates_are_those_of_the_processor() {
    let model = toy();
    let before: Vec<Vec<f32>> = model.params().iter().map(|(_, t)| values(t)).collect();
    let (want, want_norm) = train(model.clone(), optimizer(), 4);
    let (got, got_norm) = train(emulated(&model, F32), optimizer(), 4);
    assert!((want_norm - got_norm).abs() < 1e-4 * want_norm, "{want_norm} {got_norm}");
    for ((want, got), before) in want.iter().zip(&got).zip(&before) {
        let moved = distance(want, before);
        assert!(distance(want, got) < 1e-3 * moved, "{} of {moved}", distance(want, got));
    }
    let after: Vec<Vec<f32>> = model.params().iter().map(|(_, t)| values(t)).collect();
    assert_eq!(before, after, "the model that was cloned must not change");
}

/// Steps far below the weights' last place: without the compensation most of them are lost.
#[test]
fn kahan_compensation_keeps_small_updates_of_bf16_weights() {
    let settings = OptimizerSettings { learning_rate: 2e-5, weight_decay: 0.0, ..optimizer() };
    let model = emulated(&toy(), BF16);
    let start: Vec<Vec<f32>> = model.params().iter().map(|(_, t)| values(t)).collect();
    let f32_weights =
        emulated(&Model::from_bytes(&config_of(&model), &model.to_bytes().unwrap()).unwrap(), F32);
    let (want, _) = train(f32_weights, settings.clone(), 30);
    let kahan = ComputeSettings { optimizer_state: OptimizerState::Bf16Kahan, ..BF16 };
    let (compensated, _) = train(emulated(&toy(), kahan), settings.clone(), 30);
    let (plain, _) = train(model, settings, 30);
    let error = |got: &[Vec<f32>]| {
        let of = |i: usize| distance(&want[i], &got[i]) / distance(&want[i], &start[i]).max(1e-12);
        (0..want.len()).map(of).sum::<f64>() / want.len() as f64
    };
    assert!(error(&compensated) < 0.7 * error(&plain), "{} {}", error(&compensated), error(&plain));
}

fn config_of(model: &Model) -> String {
    model.config().to_json(END, 0).unwrap()
}

#[test]
fn bf16_weights_and_state_come_back_bit_for_bit() {
    let kahan = ComputeSettings { optimizer_state: OptimizerState::Bf16Kahan, ..BF16 };
    let mut model = emulated(&toy(), kahan);
    let p = prompt(1, 4, 4);
    let trees = [Tree { prompt: &p, responses: vec![&[4, 9, END]] }];
    let mut adamw = AdamW::new(model.params(), optimizer()).unwrap();
    let update = |model: &mut Model, adamw: &mut AdamW| {
        let grads: Grads = gradients(model, &trees, &[vec![-1.0; 3]]);
        adamw.step(model.params_mut(), &grads).unwrap();
    };
    (0..3).for_each(|_| update(&mut model, &mut adamw));
    let mut again = emulated(&toy(), kahan);
    again.replace_weights(&model.to_bytes().unwrap()).unwrap();
    let mut restored = AdamW::from_bytes(&again, optimizer(), &adamw.to_bytes().unwrap()).unwrap();
    update(&mut model, &mut adamw);
    update(&mut again, &mut restored);
    assert_eq!(model.to_bytes().unwrap(), again.to_bytes().unwrap());
    assert_eq!(adamw.to_bytes().unwrap(), restored.to_bytes().unwrap());
}

#[test]
fn the_card_draws_the_tokens_that_the_processor_draws() {
    let model = toy();
    let card = emulated(&model, F32);
    let prompts = [prompt(1, 4, 4), prompt(2, 6, 4)];
    let both: Vec<&Prompt> = prompts.iter().collect();
    for (temperature, top_p, top_k) in
        [(1.0, 1.0, 0), (3.0, 0.8, 0), (2.0, 1.0, 5), (3.0, 0.7, 9), (0.0, 1.0, 0)]
    {
        let sampling = Sampling { temperature, top_p, top_k, max_new_tokens: 40 };
        let streams = || {
            let of = |p: usize, n: usize| {
                (0..n).map(|s| stream(1, Purpose::Rollout, &[p.into(), s.into()])).collect()
            };
            vec![of(0, 5), of(1, 3)]
        };
        let want = model.generate(&both, streams(), &sampling, &[END], &[IMAGE]).unwrap();
        let got = card.generate(&both, streams(), &sampling, &[END], &[IMAGE]).unwrap();
        for (want, got) in want.iter().flatten().zip(got.iter().flatten()) {
            assert_eq!((&want.ids, want.stop), (&got.ids, got.stop), "{sampling:?}");
            for (a, b) in want.logp.iter().zip(&got.logp).chain(want.entropy.iter().zip(&got.entropy)) {
                assert!((a - b).abs() < 3e-5, "{a} {b}");
            }
        }
    }
}

/// A whole step of VPPO and of DAPO: rollout, corrupted scoring, credit, update.
#[test]
fn a_training_step_on_the_card_is_that_of_the_processor() {
    let (config, base) = setting();
    let card = base.clone().on(&Compute::emulated(&F32)).unwrap();
    for preset in ["vppo", "dapo"] {
        let algorithm = Algorithm::preset(preset).unwrap();
        let (want, _) = one_step(&config, &algorithm, &base);
        let (got, _) = one_step(&config, &algorithm, &card);
        assert_eq!(want.keys().collect::<Vec<_>>(), got.keys().collect::<Vec<_>>());
        for (name, value) in &want {
            let close = (value - got[name]).abs() < 1e-3 * value.abs() + 1e-4;
            assert!(close, "{preset}: {name}: {value} on the processor, {} on the card", got[name]);
        }
        assert!(want["grad_norm"] > 0.0);
    }
}
