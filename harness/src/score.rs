//! Scores given responses: the log-probability and entropy of every token under the policy, and, with a corruption,
//! how much every token depends on the picture, by every estimator that the algorithms know.
//!
//! Teacher-forced: the response's tokens follow the prompt as training and rollout render it, in full softmax at
//! temperature 1. The comparison with the corrupted picture is VPPO's (paper eq. 3, section 3; reference
//! `dp_actor.py`). A response is scored by its own prompt and pictures alone: what stands beside it in the file
//! changes at most the last digits, and the draws of its corruption not at all. They are those of step 0 and sample 0
//! of the item, which is named by the row's `id`, or by its prompt where it has none; so responses to one question
//! are compared under one and the same corrupted picture.
//!
//! It does not know where responses come from, where results go, or which algorithm will use them.

use crate::algo::dependency::{dependency_t, full_kl, jensen_shannon};
use crate::algo::{Corrupted, Estimator};
use crate::bench::responses::{Given, Response};
use crate::model::{Prompt, Tree, entropy};
use crate::progress::{Interrupted, Progress};
use crate::rng::{Purpose, stream};
use crate::rollout::{Policy, Renderer};
use crate::settings::{Corruption, CorruptionKind, CorruptionScope};
use crate::types::Example;
use anyhow::{Context, Result, bail, ensure};
use rayon::prelude::*;
use serde::Serialize;

/// Prompts and pictures that are prepared at a time; this many are in memory.
const PREPARED: usize = 16;

/// What to compute.
#[derive(Clone, Debug)]
pub struct ScoreSettings {
    /// The corruption under which responses are scored a second time.
    pub corruption: Option<CorruptionKind>,
    /// Seed of the corruption's draws.
    pub seed: u64,
    /// Most tokens of prompts and responses in one forward pass; a longer response has a pass of its own.
    pub batch_tokens: usize,
}

/// The scores of one response; lists over tokens have one entry per entry of `response_ids`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScoreLine {
    /// Its line in the input, from 1.
    pub line: usize,
    /// The row's id, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Tokens of the prompt, with one picture token per visual token.
    pub prompt_ids: Vec<u32>,
    /// Tokens of the response, the end token last where it was appended.
    pub response_ids: Vec<u32>,
    /// Patches of each picture in time, height and width.
    pub image_grid_thw: Vec<[usize; 3]>,
    /// Log-probability of each token, in nats.
    pub logp: Vec<f32>,
    /// Entropy of the distribution that each token is drawn from, in nats.
    pub entropy: Vec<f32>,
    /// The most probable token in its place; of equal ones the smallest id.
    pub argmax: Vec<u32>,
    /// What the corruption changes.
    #[serde(flatten)]
    pub corrupted: Option<CorruptedScores>,
}

/// The scores of the same tokens under corrupted pictures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CorruptedScores {
    /// The corruption.
    pub corruption: CorruptionKind,
    /// Seed of its draws.
    pub seed: u64,
    /// Log-probability of each token under the corrupted pictures, in nats.
    pub corrupted_logp: Vec<f32>,
    /// Entropy under the corrupted pictures, in nats.
    pub corrupted_entropy: Vec<f32>,
    /// Visual dependency of each token.
    pub dependency: Dependency,
}

/// Visual dependency per token by each [`Estimator`], under its name in the settings; p is the distribution under the
/// true pictures, p' that under the corrupted ones. All zero where the corruption changes nothing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dependency {
    /// One-sample estimate of KL(p || p') with the reference's clamps (`low_var_kl`): what trains VPPO.
    pub sampled_k3: Vec<f64>,
    /// KL(p || p') over the whole vocabulary, in nats.
    pub full_kl: Vec<f64>,
    /// One-sample estimate of the Jensen-Shannon divergence with the same clamps.
    pub sampled_jensen_shannon: Vec<f64>,
    /// Jensen-Shannon divergence over the whole vocabulary, in nats.
    pub jensen_shannon: Vec<f64>,
    /// Drop of the token's probability, p - p'.
    pub top1_drop: Vec<f64>,
}

/// Limit of the log-ratio in the sampled estimators (reference `core_algos.py`, `low_var_kl`).
const LOG_RATIO_CLAMP: f64 = 20.0;
/// Largest value of the sampled estimators (same place).
const VALUE_CLAMP: f64 = 10.0;

/// Scores responses in their order and hands each line to `sink` as soon as it is there.
///
/// # Errors
/// Names file and line: a picture that cannot be read or prepared, a response without tokens or with tokens that the
/// model does not have or that stand for pictures, scores that are not finite. [`Interrupted`] where the user asks to
/// stop, and the errors of `sink`.
pub fn score(
    policy: &Policy,
    given: &[Given],
    settings: &ScoreSettings,
    progress: &dyn Progress,
    mut sink: impl FnMut(&ScoreLine) -> Result<()>,
) -> Result<()> {
    progress.begin("score", 0, given.len() as u64);
    let (mut done, mut tokens) = (0, 0);
    for chunk in given.chunks(PREPARED) {
        let items = prepare(policy, chunk, settings)?;
        let mut rest = items.as_slice();
        while !rest.is_empty() {
            if progress.stop_requested() {
                return Err(Interrupted.into());
            }
            let (batch, after) = rest.split_at(batch_len(rest, settings.batch_tokens));
            for line in score_batch(policy, batch, settings)? {
                tokens += line.logp.len();
                sink(&line)?;
            }
            done += batch.len() as u64;
            progress.advance(done, &format!("{tokens} tokens"));
            rest = after;
        }
    }
    progress.end();
    Ok(())
}

/// A response ready for the model.
struct Item<'a> {
    given: &'a Given,
    prompt: Prompt,
    corrupted: Option<Prompt>,
    response: Vec<u32>,
}

/// In parallel; of several faults the first in the file is told.
fn prepare<'a>(policy: &Policy, given: &'a [Given], settings: &ScoreSettings) -> Result<Vec<Item<'a>>> {
    let one = |given: &'a Given| Item::new(policy, given, settings).with_context(|| given.place());
    let items: Vec<Result<Item<'a>>> = given.par_iter().map(one).collect();
    items.into_iter().collect()
}

/// How many items from the front fit one forward pass; at least one.
fn batch_len(items: &[Item<'_>], budget: usize) -> usize {
    let mut total = 0;
    let fits = items.iter().take_while(|item| {
        total += item.prompt.ids.len() + item.response.len();
        total <= budget
    });
    fits.count().max(1)
}

impl<'a> Item<'a> {
    fn new(policy: &Policy, given: &'a Given, settings: &ScoreSettings) -> Result<Item<'a>> {
        let renderer = &policy.renderer;
        let response = response_ids(renderer, &given.response)?;
        let vocab = policy.model.config().text.vocab_size;
        if let Some(id) = response.iter().find(|&&id| id as usize >= vocab) {
            bail!("response token {id} is outside the model's vocabulary of {vocab}");
        }
        let example = Example {
            id: given.id.clone().unwrap_or_else(|| given.prompt.clone()),
            benchmark: String::new(),
            cluster: String::new(),
            problem: given.prompt.clone(),
            answer: String::new(),
            images: given.pictures()?,
        };
        let prompt = renderer.prompt(&example)?;
        let corrupted = settings.corruption.as_ref().map(|kind| {
            let corruption = Corruption { kind: kind.clone(), scope: CorruptionScope::Response };
            renderer.corrupted(&prompt, &renderer.pictures(&example)?, &corruption, |picture| {
                let at = [0usize.into(), (&example.id).into(), 0usize.into(), picture.into()];
                stream(settings.seed, Purpose::Corruption, &at)
            })
        });
        Ok(Item { given, prompt, corrupted: corrupted.transpose()?, response })
    }

    fn tree<'t>(&'t self, prompt: &'t Prompt) -> Tree<'t> {
        Tree { prompt, responses: vec![&self.response] }
    }

    /// # Errors
    /// Where a score is not finite, which JSON cannot hold and no sound model gives.
    fn line(&self, tokens: Vec<Token>, corrupted: Option<CorruptedScores>) -> Result<ScoreLine> {
        let second = corrupted.iter().flat_map(|c| c.corrupted_logp.iter().chain(&c.corrupted_entropy));
        let finite =
            tokens.iter().all(|t| (t.logp + t.entropy).is_finite()) && second.clone().all(|x| x.is_finite());
        ensure!(
            finite,
            "{}: the model's scores are not finite; are the weights damaged?",
            self.given.place()
        );
        Ok(ScoreLine {
            line: self.given.line,
            id: self.given.id.clone(),
            prompt_ids: self.prompt.ids.clone(),
            response_ids: self.response.clone(),
            image_grid_thw: self.prompt.pictures.iter().map(|picture| picture.grid_thw).collect(),
            logp: tokens.iter().map(|t| t.logp).collect(),
            entropy: tokens.iter().map(|t| t.entropy).collect(),
            argmax: tokens.iter().map(|t| t.argmax).collect(),
            corrupted,
        })
    }
}

/// The tokens of a response, with the end token where it is asked for and not there.
fn response_ids(renderer: &Renderer, response: &Response) -> Result<Vec<u32>> {
    let ids = match response {
        Response::Ids(ids) => ids.clone(),
        Response::Text { text, append_end } => {
            let mut ids = renderer.tokenizer.encode(text)?;
            let ended = ids.last().is_some_and(|id| renderer.end.contains(id));
            ids.extend(renderer.end.first().filter(|_| *append_end && !ended));
            ids
        }
    };
    ensure!(!ids.is_empty(), "the response has no tokens: there is nothing to score");
    if let Some(id) = ids.iter().find(|id| renderer.forbidden.contains(id)) {
        bail!("the response holds token {id}, which stands for a picture");
    }
    Ok(ids)
}

/// What one row of log-probabilities says about its token.
struct Token {
    logp: f32,
    entropy: f32,
    argmax: u32,
}

impl Token {
    fn read(token: usize, row: &[f32]) -> Token {
        let best = (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
        Token { logp: row[token], entropy: entropy(row), argmax: best as u32 }
    }
}

/// What two rows say about their token.
struct TokenPair {
    clean: Token,
    corrupted: Token,
    kl: f64,
    js: f64,
}

impl TokenPair {
    fn read(token: usize, clean: &[f32], corrupted: &[f32]) -> TokenPair {
        TokenPair {
            clean: Token::read(token, clean),
            corrupted: Token::read(token, corrupted),
            kl: full_kl(clean, corrupted),
            js: jensen_shannon(clean, corrupted),
        }
    }
}

fn score_batch(policy: &Policy, items: &[Item<'_>], settings: &ScoreSettings) -> Result<Vec<ScoreLine>> {
    let places = || {
        let ends =
            [items.first(), items.last()].map(|item| item.map_or_else(String::new, |i| i.given.place()));
        format!("scoring {} to {}", ends[0], ends[1])
    };
    let clean: Vec<Tree<'_>> = items.iter().map(|item| item.tree(&item.prompt)).collect();
    let Some(kind) = &settings.corruption else {
        let rows = policy.model.distributions(&clean, Token::read).with_context(places)?;
        return items.iter().zip(rows).map(|(item, tokens)| item.line(tokens, None)).collect();
    };
    let corrupted: Vec<Tree<'_>> =
        items.iter().filter_map(|item| Some(item.tree(item.corrupted.as_ref()?))).collect();
    let rows = policy.model.compare(&clean, &corrupted, TokenPair::read).with_context(places)?;
    let line = |(item, pairs): (&Item<'_>, Vec<TokenPair>)| {
        let scores = corrupted_scores(kind, settings.seed, &pairs);
        item.line(pairs.into_iter().map(|pair| pair.clean).collect(), Some(scores))
    };
    items.iter().zip(rows).map(line).collect()
}

fn corrupted_scores(kind: &CorruptionKind, seed: u64, pairs: &[TokenPair]) -> CorruptedScores {
    let logp_t: Vec<f64> = pairs.iter().map(|pair| pair.clean.logp.into()).collect();
    let corrupted = Corrupted {
        logp_t: pairs.iter().map(|pair| pair.corrupted.logp.into()).collect(),
        kl_t: pairs.iter().map(|pair| pair.kl).collect(),
        js_t: pairs.iter().map(|pair| pair.js).collect(),
    };
    let by = |estimator: Estimator| dependency_t(&estimator, &logp_t, &corrupted);
    let (log_ratio_clamp, value_clamp) = (LOG_RATIO_CLAMP, Some(VALUE_CLAMP));
    CorruptedScores {
        corruption: kind.clone(),
        seed,
        corrupted_logp: pairs.iter().map(|pair| pair.corrupted.logp).collect(),
        corrupted_entropy: pairs.iter().map(|pair| pair.corrupted.entropy).collect(),
        dependency: Dependency {
            sampled_k3: by(Estimator::SampledK3 { log_ratio_clamp, value_clamp }),
            full_kl: by(Estimator::FullKl),
            sampled_jensen_shannon: by(Estimator::SampledJensenShannon { log_ratio_clamp, value_clamp }),
            jensen_shannon: by(Estimator::JensenShannon),
            top1_drop: by(Estimator::Top1Drop),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_probabilities_the_smallest_id_is_the_argmax() {
        let row = [-3.0, -1.0, -1.0, -2.0];
        assert_eq!(Token::read(3, &row).argmax, 1);
        assert_eq!(Token::read(3, &row).logp, -2.0);
    }

    #[test]
    fn dependency_stands_under_the_names_of_the_estimators() {
        let (log_ratio_clamp, value_clamp) = (LOG_RATIO_CLAMP, Some(VALUE_CLAMP));
        let estimators = [
            Estimator::SampledK3 { log_ratio_clamp, value_clamp },
            Estimator::FullKl,
            Estimator::SampledJensenShannon { log_ratio_clamp, value_clamp },
            Estimator::JensenShannon,
            Estimator::Top1Drop,
        ];
        let mut names =
            estimators.map(|e| serde_json::to_value(e).unwrap()["name"].as_str().unwrap().to_owned());
        names.sort();
        let kind = CorruptionKind::Full { level: 128 };
        let scores = serde_json::to_value(corrupted_scores(&kind, 1, &[])).unwrap();
        let written: Vec<&String> = scores["dependency"].as_object().unwrap().keys().collect();
        assert_eq!(written, names.iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_pass_holds_what_fits_and_at_least_one() {
        let given = Vec::from([3, 4, 2, 9, 1]).into_iter().map(|length| {
            let prompt = Prompt { ids: vec![0; length - 1], pictures: vec![] };
            (prompt, vec![0])
        });
        let row = r#"{"prompt": "p", "response": "r"}"#;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        std::fs::write(&path, row).unwrap();
        let line = &crate::bench::responses::read(&path).unwrap()[0];
        let items: Vec<Item<'_>> =
            given.map(|(prompt, response)| Item { given: line, prompt, corrupted: None, response }).collect();
        let lengths: Vec<usize> = (0..5).map(|from| batch_len(&items[from..], 7)).collect();
        assert_eq!(lengths, [2, 2, 1, 1, 1]);
    }
}
