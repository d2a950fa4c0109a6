//! A small model with the proportions of the 7B one: heads of 128, seven query heads to one head of keys, vision heads of 80;
//! more rows than a block of a sum has, weights larger than one run of a sum of squares, and logits in several chunks.

use super::compare::{Named, at_most, score_difference};
use super::driver::{on_card, opened};
use super::{
    BF16, F32, ROUNDING, all_weights, assert_same_draws, check_sampler, optimizer, sampled, sampling,
};
use crate::model::{IMAGE, distance, gradients, prompt, toy_settings, weights};
use harness::model::{AdamW, Model, Prompt, RowLimits, Tree};
use harness::rng::{Purpose, stream};
#[cfg(feature = "merged-attention")]
use harness::settings::Attention;
use harness::settings::{ComputeSettings, ModelSettings};

const WORDS: usize = 700;
/// Three chunks of logits; two prompts, then the one with a picture.
const LIMITS: RowLimits = RowLimits { logits: 40, sampling: 24 };

fn model() -> Model {
    let settings = ModelSettings {
        hidden_size: 7 * 128,
        intermediate_size: 160,
        layers: 1,
        heads: 7,
        kv_heads: 1,
        mrope_section: [16, 24, 24],
        tie_word_embeddings: false,
        vision_hidden_size: 2 * 80,
        vision_intermediate_size: 100,
        vision_heads: 2,
        vision_window_pixels: 112,
        ..toy_settings()
    };
    Model::random(&settings, WORDS, IMAGE, 5).unwrap()
}

fn placed(model: &Model, settings: ComputeSettings) -> Model {
    model.on(&opened(settings).with_row_limits(LIMITS)).unwrap()
}

fn response(seed: u64, tokens: usize) -> Vec<u32> {
    let mut draws = stream(seed, Purpose::World, &["response".into()]);
    (0..tokens).map(|_| 3 + (draws.uniform() * (WORDS - 3) as f64) as u32).collect()
}

fn prompts() -> [Prompt; 3] {
    let text = |ids: [u32; 9]| Prompt { ids: ids.to_vec(), pictures: vec![] };
    [text([4, 8, 6, 600, 77, 31, 5, 9, 699]), text([4, 8, 6, 11, 12, 13, 14, 15, 16]), prompt(1, 12, 16)]
}

/// 180 rows of text, 192 of a picture, 112 of logits.
fn check_trees(check: impl FnOnce(&[Tree<'_>])) {
    let [text, _, picture] = prompts();
    let responses = [response(1, 44), response(2, 38), response(3, 1), response(4, 29)];
    let [a, b, c, d] = responses.each_ref().map(Vec::as_slice);
    check(&[Tree { prompt: &picture, responses: vec![a, b, c] }, Tree { prompt: &text, responses: vec![d] }]);
}

fn named(model: &Model, trees: &[Tree<'_>]) -> Named {
    Named::new(model, &gradients(model, trees, &weights(trees)))
}

#[test]
fn the_shape_of_7b_has_the_processors_scores_gradients_and_updates() {
    on_card(|| {
        let model = model();
        let card = placed(&model, F32);
        check_trees(|trees| {
            let (want, got) = (model.score(trees).unwrap(), card.score(trees).unwrap());
            at_most(2e-5, "7B's shape: difference of a score", score_difference(&want, &got));
            let update = |mut model: Model| {
                let grads = gradients(&model, trees, &weights(trees));
                let named = Named::new(&model, &grads);
                let mut adamw = AdamW::new(model.params(), optimizer()).unwrap();
                let norm = adamw.step(model.params_mut(), &grads).unwrap();
                (named, norm, all_weights(&model))
            };
            let (want, got) = (update(model.clone()), update(card.clone()));
            want.0.close(&got.0, ROUNDING, "7B's shape");
            at_most(1e-5, "7B's shape: difference of the gradient norm", (want.1 / got.1 - 1.0).abs());
            for ((want, got), before) in want.2.iter().zip(&got.2).zip(all_weights(&model)) {
                let moved = distance(want, &before);
                assert!(distance(want, got) < 2e-2 * moved, "{} of {moved}", distance(want, got));
            }
        });
    });
}

#[test]
fn the_shape_of_7b_in_bf16_is_near_the_processors() {
    on_card(|| {
        let model = model();
        let card = placed(&model, BF16);
        check_trees(|trees| {
            let (want, got) = (model.score(trees).unwrap(), card.score(trees).unwrap());
            at_most(0.1, "7B's shape, bf16: difference of a score", score_difference(&want, &got));
            let want = named(&model, trees);
            let own = named(&card, trees);
            want.aligned(&own, 0.999, 0.02, "7B's shape, bf16");
            #[cfg(feature = "merged-attention")]
            check_merged(&model, &want, &own, trees);
        });
    });
}

/// FlashAttention-2 on a card, heads of 128 and of 80: against the processor and against the project's own attention.
#[cfg(feature = "merged-attention")]
fn check_merged(model: &Model, want: &Named, own: &Named, trees: &[Tree<'_>]) {
    let card = placed(model, ComputeSettings { attention: Attention::Flash, ..BF16 });
    let (scores, got) = (model.score(trees).unwrap(), card.score(trees).unwrap());
    at_most(0.1, "7B's shape, merged, bf16: difference of a score", score_difference(&scores, &got));
    let merged = named(&card, trees);
    want.aligned(&merged, 0.999, 0.02, "7B's shape, merged, bf16");
    own.aligned(&merged, 0.999, 0.02, "7B's shape, merged against own, bf16");
    assert!(merged.values() == named(&card, trees).values(), "another run gives other bits");
}

#[test]
fn the_shape_of_7b_draws_the_processors_tokens() {
    on_card(|| {
        let model = model();
        let card = placed(&model, F32);
        for of in [(1.0, 0.99, 0), (1.0, 0.5, 60)] {
            let draw = |model: &Model| sampled(model, &prompts(), &[3, 3, 3], &sampling(of, 8));
            assert_same_draws(&draw(&model), &draw(&card), &format!("7B's shape, {of:?}"));
        }
        let card = placed(&model, BF16);
        check_sampler(&model, &card, &prompts(), &[3, 3, 3], &sampling((1.0, 0.99, 0), 8), [0.05, 0.1]);
    });
}
