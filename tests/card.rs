//! The GPU path of the model: every kernel, through the model that uses it, against the processor's own path.
//!
//! With the feature `cuda-emulation` the kernels run on the processor. With `cuda` without it they run on a card, and where
//! there is none each test says so and passes.

mod compare;
mod driver;
mod large;

use super::model::{
    END, IMAGE, VOCAB, distance, gradients, prompt, toy, toy_settings, toy_untied, values, weights,
};
use super::train::{one_step, setting};
use candle_core::Tensor;
use compare::{Named, at_most, difference, score_difference};
use driver::{on_card, opened, placed};
use harness::algo::Algorithm;
use harness::model::{AdamW, Completion, Compute, Grads, Model, Prompt, RowLimits, Scores, Tree};
use harness::rng::{Purpose, Stream, stream};
#[cfg(feature = "cuda-emulation")]
use harness::settings::Attention;
use harness::settings::{ComputeSettings, Dtype, ModelSettings, OptimizerSettings, OptimizerState, Sampling};

const F32: ComputeSettings = ComputeSettings::CPU;
const BF16: ComputeSettings = ComputeSettings { dtype: Dtype::Bf16, ..F32 };
const KAHAN: ComputeSettings = ComputeSettings { optimizer_state: OptimizerState::Bf16Kahan, ..BF16 };
/// Attention made of that of sequences, which on a card is FlashAttention-2's and has no f32.
#[cfg(feature = "cuda-emulation")]
const MERGED: ComputeSettings = ComputeSettings { attention: Attention::Flash, ..F32 };

/// How far sums in f32 may be from the processor's: a card adds in another order, and has functions of its own.
const ROUNDING: f64 = if cfg!(feature = "cuda-emulation") { 2e-5 } else { 1e-4 };

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

fn named(model: &Model, trees: &[Tree<'_>]) -> Named {
    Named::new(model, &gradients(model, trees, &weights(trees)))
}

#[test]
fn scores_and_gradients_are_those_of_the_processor() {
    on_card(|| {
        for model in [toy(), toy_untied(), wide()] {
            let card = placed(&model, F32);
            check_trees(|trees| {
                let (want, got) = (model.score(trees).unwrap(), card.score(trees).unwrap());
                at_most(1e-5, "difference of a score", score_difference(&want, &got));
                named(&model, trees).close(&named(&card, trees), ROUNDING, "f32");
            });
        }
    });
}

/// The tree made of separate attentions over segments and prompts, against the kernels that see it whole.
#[test]
#[cfg(feature = "cuda-emulation")]
fn attention_in_two_merged_parts_is_the_attention_of_the_tree() {
    for model in [toy(), wide()] {
        let (whole, parts) = (placed(&model, F32), placed(&model, MERGED));
        check_trees(|trees| named(&whole, trees).close(&named(&parts, trees), ROUNDING, "merged, f32"));
        let bf16 = placed(&model, ComputeSettings { dtype: Dtype::Bf16, ..MERGED });
        check_trees(|trees| {
            named(&model, trees).aligned(&named(&bf16, trees), 0.995, 0.06, "merged, bf16");
        });
    }
}

#[test]
fn in_bf16_the_gradient_points_the_same_way() {
    on_card(|| {
        for model in [toy(), wide()] {
            let card = placed(&model, BF16);
            check_trees(|trees| {
                named(&model, trees).aligned(&named(&card, trees), 0.995, 0.06, "bf16");
                let (want, got) = (model.score(trees).unwrap(), card.score(trees).unwrap());
                at_most(0.05, "bf16: difference of a score", score_difference(&want, &got));
            });
        }
    });
}

#[test]
fn recomputing_layers_or_running_again_changes_no_bit_of_the_card() {
    on_card(|| {
        for settings in [F32, BF16] {
            let model = toy();
            let kept = placed(&model, settings);
            let again = placed(&model, ComputeSettings { recompute: true, ..settings });
            check_trees(|trees| {
                let one = named(&kept, trees);
                for other in [&again, &kept] {
                    assert!(one.values() == named(other, trees).values(), "{settings:?}: other bits");
                }
            });
        }
    });
}

/// Of every token under a clean and a corrupted picture, or twice the clean one.
fn divergences(model: &Model, seed: u64) -> Vec<[f64; 3]> {
    let (a, b) = (prompt(1, 6, 10), Prompt { ids: prompt(1, 6, 10).ids, ..prompt(seed, 6, 10) });
    let responses: Vec<&[u32]> = vec![&[4, 9, 11, END], &[12]];
    let clean = [Tree { prompt: &a, responses: responses.clone() }];
    let corrupted = [Tree { prompt: &b, responses }];
    model.divergences(&clean, &corrupted).unwrap().concat()
}

#[test]
fn divergences_are_those_of_the_processor() {
    on_card(|| {
        let model = toy();
        let want = divergences(&model, 3);
        assert!(want.iter().all(|row| row[1] > 0.0 && row[2] > 0.0), "{want:?}");
        for (settings, bound) in [(F32, 1e-5), (BF16, 0.02)] {
            let card = placed(&model, settings);
            let got = divergences(&card, 3);
            let errors = want.iter().flatten().zip(got.iter().flatten()).map(|(a, b)| (a - b).abs());
            let what = format!("{:?}: difference of a divergence", settings.dtype);
            at_most(bound, &what, errors.fold(0.0, f64::max));
            let same = divergences(&card, 1);
            assert!(same.iter().all(|row| row[1] == 0.0 && row[2] == 0.0), "{same:?}");
        }
    });
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

/// Values of all weights.
fn all_weights(model: &Model) -> Vec<Vec<f32>> {
    model.params().iter().map(|(_, t)| values(t)).collect()
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
    (all_weights(&model), norm)
}

#[test]
fn updates_are_those_of_the_processor() {
    on_card(|| {
        let model = toy();
        let before = all_weights(&model);
        let (want, want_norm) = train(model.clone(), optimizer(), 4);
        let (got, got_norm) = train(placed(&model, F32), optimizer(), 4);
        at_most(1e-4, "difference of the gradient norm", (want_norm / got_norm - 1.0).abs());
        for ((want, got), before) in want.iter().zip(&got).zip(&before) {
            let moved = distance(want, before);
            assert!(distance(want, got) < 1e-3 * moved, "{} of {moved}", distance(want, got));
        }
        assert_eq!(before, all_weights(&model), "the model that was cloned must not change");
    });
}

/// Steps far below the weights' last place: without the compensation most of them are lost.
#[test]
fn kahan_compensation_keeps_small_updates_of_bf16_weights() {
    on_card(|| {
        let settings = OptimizerSettings { learning_rate: 2e-5, weight_decay: 0.0, ..optimizer() };
        let model = placed(&toy(), BF16);
        let start = all_weights(&model);
        let rounded = Model::from_bytes(&config_of(&model), &model.to_bytes().unwrap()).unwrap();
        let (want, _) = train(placed(&rounded, F32), settings.clone(), 30);
        let (compensated, _) = train(placed(&toy(), KAHAN), settings.clone(), 30);
        let (plain, _) = train(model, settings, 30);
        let error = |got: &[Vec<f32>]| {
            let of = |i: usize| distance(&want[i], &got[i]) / distance(&want[i], &start[i]).max(1e-12);
            (0..want.len()).map(of).sum::<f64>() / want.len() as f64
        };
        at_most(0.7, "error of compensated updates over plain ones", error(&compensated) / error(&plain));
    });
}

fn config_of(model: &Model) -> String {
    model.config().to_json(END, 0).unwrap()
}

#[test]
fn bf16_weights_and_state_come_back_bit_for_bit() {
    on_card(|| {
        let mut model = placed(&toy(), KAHAN);
        let p = prompt(1, 4, 4);
        let trees = [Tree { prompt: &p, responses: vec![&[4, 9, END]] }];
        let mut adamw = AdamW::new(model.params(), optimizer()).unwrap();
        let update = |model: &mut Model, adamw: &mut AdamW| {
            let grads: Grads = gradients(model, &trees, &[vec![-1.0; 3]]);
            adamw.step(model.params_mut(), &grads).unwrap();
        };
        (0..3).for_each(|_| update(&mut model, &mut adamw));
        let mut again = placed(&toy(), KAHAN);
        again.replace_weights(&model.to_bytes().unwrap()).unwrap();
        let mut restored = AdamW::from_bytes(&again, optimizer(), &adamw.to_bytes().unwrap()).unwrap();
        update(&mut model, &mut adamw);
        update(&mut again, &mut restored);
        assert_eq!(model.to_bytes().unwrap(), again.to_bytes().unwrap());
        assert_eq!(adamw.to_bytes().unwrap(), restored.to_bytes().unwrap());
    });
}

/// (temperature, top-p, top-k)
const SAMPLINGS: [(f64, f64, usize); 5] =
    [(1.0, 1.0, 0), (3.0, 0.8, 0), (2.0, 1.0, 5), (3.0, 0.7, 9), (0.0, 1.0, 0)];

fn sampling((temperature, top_p, top_k): (f64, f64, usize), max_new_tokens: usize) -> Sampling {
    Sampling { temperature, top_p, top_k, max_new_tokens }
}

/// The completions of prompts, `counts` of each, one list.
fn sampled(model: &Model, prompts: &[Prompt], counts: &[usize], rule: &Sampling) -> Vec<Completion> {
    let of = |p: usize, n: usize| -> Vec<Stream> {
        (0..n).map(|s| stream(1, Purpose::Rollout, &[p.into(), s.into()])).collect()
    };
    let streams = counts.iter().enumerate().map(|(p, &n)| of(p, n)).collect();
    let prompts: Vec<&Prompt> = prompts.iter().collect();
    model.generate(&prompts, streams, rule, &[END], &[IMAGE]).unwrap().concat()
}

/// Fails where the tokens are not the processor's, or their log-probabilities and entropies not close. A card's rounding may
/// change one sequence of a hundred.
#[track_caller]
fn assert_same_draws(want: &[Completion], got: &[Completion], what: &str) {
    assert_eq!(want.len(), got.len());
    let pairs = want.iter().zip(got).filter(|(want, got)| (&want.ids, want.stop) == (&got.ids, got.stop));
    let (mut same, mut error) = (0, 0.0f64);
    for (want, got) in pairs {
        same += 1;
        let scores = |c: &Completion| [c.logp.clone(), c.entropy.clone()];
        error = error.max(difference(&scores(want), &scores(got)));
    }
    let changed = if cfg!(feature = "cuda-emulation") { 0 } else { want.len().div_ceil(100) };
    assert!(same + changed >= want.len(), "{what}: {same} of {} sequences are the same", want.len());
    at_most(3e-5, &format!("{what}: difference of a drawn token's score"), error);
}

#[test]
fn the_card_draws_the_tokens_that_the_processor_draws() {
    on_card(|| {
        let model = toy();
        let card = placed(&model, F32);
        let prompts = [prompt(1, 4, 4), prompt(2, 6, 4)];
        for of in SAMPLINGS {
            let draw = |model: &Model| sampled(model, &prompts, &[5, 3], &sampling(of, 40));
            assert_same_draws(&draw(&model), &draw(&card), &format!("{of:?}"));
        }
    });
}

/// Few rows at a time: prompts, tokens and logits come in several passes.
#[test]
fn limits_of_rows_change_no_draw() {
    on_card(|| {
        let model = toy();
        let limits = RowLimits { logits: 3, sampling: 12 };
        let text = Prompt { ids: vec![4, 8, 6, 9, 3], pictures: vec![] };
        let prompts = [text.clone(), text, prompt(1, 4, 6)];
        let draw = |model: &Model| sampled(model, &prompts, &[6, 5, 4], &sampling((2.0, 0.9, 0), 12));
        let want = draw(&model);
        let cpu = Compute::cpu().with_row_limits(limits);
        assert_eq!(want, draw(&model.on(&cpu).unwrap()));
        let card = model.on(&opened(F32).with_row_limits(limits)).unwrap();
        assert_same_draws(&want, &draw(&card), "few rows at a time");
    });
}

/// A model of 700 words whose logits have few levels: the first value of the hidden state times `level(id)`.
fn levelled(level: impl Fn(usize) -> f32) -> Model {
    const WORDS: usize = 700;
    let settings = ModelSettings { tie_word_embeddings: false, ..toy_settings() };
    let mut model = Model::random(&settings, WORDS, IMAGE, 3).unwrap();
    let width = settings.hidden_size;
    let rows = (0..WORDS * width).map(|i| if i % width == 0 { level(i / width) } else { 0.0 });
    set(&mut model, "lm_head.weight", rows.collect());
    model
}

/// Replaces a parameter of a model on the processor.
fn set(model: &mut Model, name: &str, values: Vec<f32>) {
    let (id, old) = model.params().iter().enumerate().find(|(_, (n, _))| *n == name).unwrap();
    let new = Tensor::from_vec(values, old.1.shape(), old.1.device()).unwrap();
    model.params_mut().set(id, new).unwrap();
}

/// Of equal logits at the border of top-k and top-p the lowest ids stay, as on the processor.
#[test]
fn of_equal_logits_the_lowest_ids_stay() {
    on_card(|| {
        let levels: [fn(usize) -> f32; 2] = [|_| 0.0, |id| if id % 7 < 3 { 1.0 } else { -1.0 }];
        for model in levels.map(levelled) {
            let card = placed(&model, F32);
            for of in [
                (1.0, 1.0, 5),
                (1.0, 0.5, 0),
                (1.0, 0.05, 0),
                (1.0, 0.5, 301),
                (1.0, 0.9, 698),
                (0.0, 1.0, 0),
            ] {
                let draw = |model: &Model| sampled(model, &[prompt(1, 4, 4)], &[8], &sampling(of, 12));
                assert_same_draws(&draw(&model), &draw(&card), &format!("{of:?} of equal logits"));
            }
        }
    });
}

/// In bf16 tokens may be others than the processor's, but sampler and scorer still speak of one distribution, and the
/// processor's is not far.
#[test]
fn in_bf16_sampler_and_scorer_agree() {
    on_card(|| {
        let model = toy();
        let card = placed(&model, BF16);
        let prompts = [prompt(1, 4, 4), prompt(2, 6, 4)];
        for of in SAMPLINGS {
            check_sampler(&model, &card, &prompts, &[5, 3], &sampling(of, 40), [0.02, 0.1]);
        }
    });
}

/// Draws in bf16, and scores the same tokens there and on the processor; bounds are for these two.
#[track_caller]
fn check_sampler(
    model: &Model,
    card: &Model,
    prompts: &[Prompt],
    counts: &[usize],
    rule: &Sampling,
    bounds: [f64; 2],
) {
    let drawn = sampled(card, prompts, counts, rule);
    let mut rest = drawn.iter();
    let trees: Vec<Tree<'_>> = prompts
        .iter()
        .zip(counts)
        .map(|(prompt, &n)| Tree {
            prompt,
            responses: rest.by_ref().take(n).map(|c| c.ids.as_slice()).collect(),
        })
        .collect();
    let of = |pick: fn(&Completion) -> &Vec<f32>| drawn.iter().map(pick).cloned().collect::<Vec<_>>();
    let sampler = Scores { logp: of(|c| &c.logp), entropy: of(|c| &c.entropy) };
    for ((scorer, model), bound) in [("card", card), ("processor", model)].into_iter().zip(bounds) {
        let what = format!("bf16, {rule:?}: sampler from scorer on the {scorer}");
        at_most(bound, &what, score_difference(&model.score(&trees).unwrap(), &sampler));
    }
    for completion in &drawn {
        assert!(completion.ids.len() <= rule.max_new_tokens && !completion.ids.contains(&IMAGE));
    }
}

/// A weight that is not a number makes logits that are none: an error, never a token.
#[test]
fn logits_that_are_not_finite_are_an_error_on_both_devices() {
    on_card(|| {
        for value in [f32::NAN, f32::INFINITY] {
            let mut model = levelled(|id| if id == 500 { value } else { 0.5 });
            for settings in [F32, BF16] {
                check_refusal(&placed(&model, settings));
            }
            check_refusal(&model);
            // All logits at once.
            set(&mut model, "model.norm.weight", vec![value; toy_settings().hidden_size]);
            check_refusal(&model);
            check_refusal(&placed(&model, F32));
        }
    });
}

fn check_refusal(model: &Model) {
    let a = prompt(1, 4, 4);
    let trees = [Tree { prompt: &a, responses: vec![&[4, 9, END]] }];
    let refused = |error: anyhow::Error| assert!(error.to_string().contains("not finite"), "{error:#}");
    for of in SAMPLINGS {
        let streams = vec![vec![stream(1, Purpose::Rollout, &[])]];
        refused(model.generate(&[&a], streams, &sampling(of, 4), &[END], &[IMAGE]).unwrap_err());
    }
    refused(model.score(&trees).unwrap_err());
    refused(model.divergences(&trees, &trees).unwrap_err());
}

/// A whole step of VPPO and of DAPO: rollout, corrupted scoring, credit, update.
#[test]
fn a_training_step_on_the_card_is_that_of_the_processor() {
    on_card(|| {
        let (config, base) = setting();
        let card = base.clone().on(&opened(F32)).unwrap();
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
    });
}

/// The same in bf16 with layers computed again: other tokens are drawn, from nearly the same distributions.
#[test]
fn a_training_step_in_bf16_is_near_that_of_the_processor() {
    on_card(|| {
        let (config, base) = setting();
        let card = base.clone().on(&opened(ComputeSettings { recompute: true, ..KAHAN })).unwrap();
        for preset in ["vppo", "dapo"] {
            let algorithm = Algorithm::preset(preset).unwrap();
            let (want, _) = one_step(&config, &algorithm, &base);
            let (got, _) = one_step(&config, &algorithm, &card);
            for name in ["entropy", "response_tokens_mean"] {
                at_most(
                    0.15,
                    &format!("bf16, {preset}: change of {name}"),
                    (got[name] / want[name] - 1.0).abs(),
                );
            }
            at_most(0.05, &format!("bf16, {preset}: sampler from trainer"), got["logp_gap_max"]);
            assert!(got["grad_norm"] > 0.0 && got["grad_norm"].is_finite());
        }
    });
}
