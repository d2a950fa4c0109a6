//! Responses token by token, for people and for offline analysis: what the policy said, how sure it was, and how much each
//! token depends on the picture.
//!
//! The divergences are those of the sampling policy's distribution under the picture from that under the corrupted one
//! (paper eq. 3, 4). It does not know which algorithm trained the policy.

use crate::algo::Corrupted;
use crate::image::png;
use crate::model::Tree;
use crate::perturb::corrupt;
use crate::rng::{Purpose, Stream, stream};
use crate::rollout::{Group, Policy, Renderer};
use crate::settings::{Corruption, CorruptionScope};
use crate::types::{Rgb, RolloutLine, SpotlightItem};
use anyhow::{Context, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

/// Longest side of a kept picture, in pixels.
const LONGEST_SIDE: usize = 512;

/// A response as it is kept. `logp_t` and `reference_t` are log-probabilities of its tokens under the sampling policy and
/// the frozen first one, `corrupted` what was found under the corrupted picture.
///
/// # Errors
/// A token that the tokenizer does not know; a sample that is not there.
pub fn record(
    renderer: &Renderer,
    group: &Group,
    sample: usize,
    logp_t: &[f64],
    reference_t: Option<&[f64]>,
    corrupted: &Corrupted,
) -> Result<RolloutLine> {
    let of = group.samples.get(sample).context("no such sample")?;
    let text = |&id: &u32| renderer.tokenizer.decode(&[id]);
    Ok(RolloutLine {
        item: group.example.id.clone(),
        sample: sample as u32,
        outcome: of.outcome,
        extracted: of.extracted.clone(),
        text_t: of.completion.ids.iter().map(text).collect::<Result<_>>()?,
        logp_t: narrow(logp_t),
        entropy_t: of.completion.entropy.clone(),
        reference_logp_t: reference_t.map_or(vec![], narrow),
        corrupted_logp_t: narrow(&corrupted.logp_t),
        kl_t: narrow(&corrupted.kl_t),
        js_t: narrow(&corrupted.js_t),
    })
}

/// Log-probabilities were f32 before they were widened.
fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

/// An evaluated item with its responses, scored again under one corruption of its pictures.
///
/// # Errors
/// Pictures that cannot be read, and those of the model's scoring.
pub fn spotlight(
    policy: &Policy,
    group: &Group,
    corruption: &Corruption,
    seed: u64,
) -> Result<SpotlightItem> {
    let renderer = &policy.renderer;
    let corruption = Corruption { scope: CorruptionScope::Group, ..corruption.clone() };
    let at = |picture: usize| draws(seed, group, picture);
    let pictures = renderer.pictures(&group.example)?;
    let corrupted: Vec<Rgb> =
        pictures.iter().enumerate().map(|(i, rgb)| corrupt(rgb, &corruption, &mut at(i))).collect();
    let prompt = renderer.corrupted(&group.prompt, &pictures, &corruption, at)?;
    let tree = Tree { prompt: &prompt, responses: group.responses().collect() };
    let rows = policy.model.divergences(&[group.tree()], &[tree])?;
    let responses = rows.iter().enumerate().map(|(sample, row)| {
        let column = |i: usize| row.iter().map(|token| token[i]).collect();
        let scores = Corrupted { logp_t: column(0), kl_t: column(1), js_t: column(2) };
        let logp = group.samples.get(sample).map(|of| &of.completion.logp).context("no such sample")?;
        let logp: Vec<f64> = logp.iter().map(|&x| f64::from(x)).collect();
        record(renderer, group, sample, &logp, None, &scores)
    });
    let example = &group.example;
    Ok(SpotlightItem {
        benchmark: example.benchmark.clone(),
        item: example.id.clone(),
        problem: example.problem.clone(),
        answer: example.answer.clone(),
        responses: responses.collect::<Result<_>>()?,
        pictures: shown(&pictures)?,
        corrupted: shown(&corrupted)?,
        corruption: corruption.kind,
    })
}

/// Draws of an evaluation have no step: that coordinate is a word.
fn draws(seed: u64, group: &Group, picture: usize) -> Stream {
    let example = &group.example;
    let at = ["evaluation".into(), (&example.benchmark).into(), (&example.id).into(), picture.into()];
    stream(seed, Purpose::Corruption, &at)
}

fn shown(pictures: &[Rgb]) -> Result<Vec<String>> {
    pictures.iter().map(|rgb| Ok(BASE64_STANDARD.encode(png(rgb, LONGEST_SIDE)?))).collect()
}
