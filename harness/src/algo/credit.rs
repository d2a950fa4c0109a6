//! Credit assignment: everything that crosses sequences, settled once per rollout batch.

use super::advantage::{advantage_g, overlong};
use super::algorithm::{
    Aggregation, Algorithm, Estimator, Guide, Perception, PolicyVersion, Scope, Shaping, ShapingTarget,
    TokenFilter,
};
use super::dependency::dependency_t;
use super::shaping::{Cut, factors};
use super::token_filter::{counted_tokens, weight_t};
use crate::rng::{Purpose, stream};
use anyhow::{Result, ensure};
use rayon::prelude::*;
use std::ops::Range;

/// Added by the reference to a response's token count before it divides by it (`average_loss`, mode `seq`).
const COUNT_EPSILON: f64 = 1e-8;

/// One sampled response. Vectors over tokens include the end token; log-probabilities are those of the full
/// softmax in nats.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Response {
    /// Id of the prompt; with `sample` it names the response for random draws.
    pub item: String,
    /// Index within the group.
    pub sample: u32,
    /// Reward before any penalty or shaping (1 or 0 in the paper).
    pub reward: f64,
    /// Log-probability of each sampled token under the sampling policy.
    pub old_logp_t: Vec<f64>,
    /// Entropy of the sampling policy at each token; empty unless [`Algorithm::needs_old_entropy`].
    pub entropy_t: Vec<f64>,
    /// The scoring under a corrupted picture; `None` unless [`Algorithm::needs_corruption`].
    pub corrupted: Option<Corrupted>,
}

/// The same tokens scored by the sampling policy under a corrupted picture. Vectors that the estimator does not
/// read may be empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Corrupted {
    /// Log-probability of each sampled token; read by the sampled estimators and the probability drop.
    pub logp_t: Vec<f64>,
    /// [`full_kl`](super::dependency::full_kl) at each token.
    pub kl_t: Vec<f64>,
    /// [`jensen_shannon`](super::dependency::jensen_shannon) at each token.
    pub js_t: Vec<f64>,
}

/// A rollout batch, the responses of a group adjacent, in the order in which updates consume them: mini-batches
/// are cut from the front, micro-batches from the front of each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// All responses.
    pub responses: Vec<Response>,
    /// Responses per prompt.
    pub group_size: usize,
    /// Responses per optimiser update.
    pub mini_batch_responses: usize,
    /// Responses per forward and backward pass; matters only where a setting says `micro_batch`.
    pub micro_batch_responses: usize,
    /// Longest response that may be sampled, in tokens; read by the overlong penalty.
    pub max_response_tokens: usize,
    /// Seed of the run, for the random guide.
    pub seed: u64,
    /// Number of the rollout batch within the run, for the random guide.
    pub step: u64,
}

/// What [`assign_credit`] settles for one response.
#[derive(Clone, Debug, PartialEq)]
pub struct Credit {
    /// Advantage relative to the group, before advantage shaping (after reward shaping).
    pub advantage: f64,
    /// The paper's alpha: the shaping factor of this response, 1 without shaping.
    pub factor: f64,
    /// The advantage that the objective uses.
    pub shaped_advantage: f64,
    /// Visual dependency of each token; empty where none was needed.
    pub dependency_t: Vec<f64>,
    /// Its mean over the tokens; `None` where none was needed or the response has no tokens.
    pub dependency: Option<f64>,
    /// Which tokens carry the policy gradient.
    pub weights: TokenWeights,
    /// Multipliers that make sums over tokens into the mini-batch's means.
    pub scales: Scales,
}

/// Weights of the tokens in the policy term.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenWeights {
    /// 1 for each token.
    All,
    /// These, one per token.
    Given(Vec<f64>),
    /// To be chosen at each update, from the current policy's entropy.
    ByCurrentEntropy,
}

/// Multipliers of one response's token sums; over a mini-batch, sums of scaled terms are its means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scales {
    /// For the weighted policy losses.
    pub policy: f64,
    /// For the KL to the reference model, averaged as the policy losses are but over all tokens.
    pub kl: f64,
    /// For the negative log-likelihoods: a mean over all tokens of the mini-batch, whatever the aggregation
    /// (as in the reference).
    pub entropy: f64,
}

impl Batch {
    /// Says what, if anything, is missing or inconsistent for this algorithm.
    pub fn check(&self, algorithm: &Algorithm) -> Result<()> {
        let (group, mini, micro) = (self.group_size, self.mini_batch_responses, self.micro_batch_responses);
        ensure!(
            group > 0 && mini > 0 && micro > 0,
            "sizes of group, mini-batch and micro-batch must be positive"
        );
        let count = self.responses.len();
        ensure!(count.is_multiple_of(group), "{count} responses are not whole groups of {group}");
        for group in self.responses.chunks(group) {
            let same = group.iter().all(|r| r.item == group[0].item);
            ensure!(same, "the responses of item {} are not adjacent", group[0].item);
        }
        self.responses.iter().try_for_each(|response| response.check(algorithm))
    }

    fn cut(&self) -> Cut {
        Cut {
            responses: self.responses.len(),
            mini_batch: self.mini_batch_responses,
            micro_batch: self.micro_batch_responses,
        }
    }
}

impl Response {
    fn check(&self, algorithm: &Algorithm) -> Result<()> {
        let (item, sample) = (&self.item, self.sample);
        ensure!(self.reward.is_finite(), "item {item}, sample {sample}: the reward is {}", self.reward);
        let complete = |what: &str, values: &[f64]| -> Result<()> {
            let (got, tokens) = (values.len(), self.old_logp_t.len());
            ensure!(
                got == tokens,
                "item {item}, sample {sample}: {got} values of {what} for {tokens} tokens"
            );
            let finite = values.iter().all(|x| x.is_finite());
            ensure!(finite, "item {item}, sample {sample}: {what} has a value that is not finite");
            Ok(())
        };
        complete("old_logp_t", &self.old_logp_t)?;
        if algorithm.needs_old_entropy() {
            complete("entropy_t", &self.entropy_t)?;
        }
        if let Some(perception) = algorithm.perception.as_ref().filter(|_| algorithm.needs_corruption()) {
            let corrupted = self.corrupted.as_ref();
            ensure!(
                corrupted.is_some(),
                "item {item}, sample {sample}: no scoring under a corrupted picture"
            );
            corrupted.map_or(Ok(()), |c| match perception.estimator {
                Estimator::FullKl => complete("kl_t", &c.kl_t),
                Estimator::JensenShannon => complete("js_t", &c.js_t),
                _ => complete("the corrupted logp_t", &c.logp_t),
            })?;
        }
        Ok(())
    }

    fn tokens(&self) -> f64 {
        self.old_logp_t.len() as f64
    }
}

/// Settles advantages, shaping, token weights and normalisers of a rollout batch: one [`Credit`] per response, in
/// order. The batch is one that [`Batch::check`] accepts.
pub fn assign_credit(algorithm: &Algorithm, batch: &Batch) -> Vec<Credit> {
    let perception = algorithm.perception.as_ref();
    let filter = perception.and_then(|p| p.token_filter.as_ref());
    let shaping = perception.and_then(|p| p.shaping.as_ref());

    let dependency_bt = dependencies(algorithm, batch);
    let dependency_b: Vec<Option<f64>> = dependency_bt.iter().map(|s_t| mean(s_t)).collect();
    let factor_b = shaping.map_or(vec![1.0; dependency_b.len()], |s| factors(s, &dependency_b, batch.cut()));
    let advantage_b = advantages(algorithm, batch, &factor_b);
    let weights_b = weights(filter, batch, &dependency_bt);
    let scales_b = scales(algorithm.aggregation, filter, batch);

    let shapes_advantage = shaping.is_some_and(|s| s.applies_to == ShapingTarget::Advantage);
    let parts = dependency_bt.into_iter().zip(weights_b).zip(scales_b).enumerate();
    parts
        .map(|(i, ((dependency_t, weights), scales))| Credit {
            advantage: advantage_b[i],
            factor: factor_b[i],
            shaped_advantage: if shapes_advantage { advantage_b[i] * factor_b[i] } else { advantage_b[i] },
            dependency: dependency_b[i],
            dependency_t,
            weights,
            scales,
        })
        .collect()
}

/// Dependency of each token of each response; empty where the algorithm needs none.
fn dependencies(algorithm: &Algorithm, batch: &Batch) -> Vec<Vec<f64>> {
    let of = |perception: &Perception, response: &Response| {
        let corrupted = response.corrupted.as_ref();
        corrupted.map_or(Vec::new(), |c| dependency_t(&perception.estimator, &response.old_logp_t, c))
    };
    match algorithm.perception.as_ref().filter(|_| algorithm.needs_corruption()) {
        Some(perception) => batch.responses.par_iter().map(|response| of(perception, response)).collect(),
        None => vec![Vec::new(); batch.responses.len()],
    }
}

/// Advantage of each response, from its group's rewards after shaping and overlong penalty.
fn advantages(algorithm: &Algorithm, batch: &Batch, factor_b: &[f64]) -> Vec<f64> {
    let shaping: Option<&Shaping> = algorithm.perception.as_ref().and_then(|p| p.shaping.as_ref());
    let shapes_reward = shaping.is_some_and(|s| s.applies_to == ShapingTarget::Reward);
    let reward = |(response, factor): (&Response, &f64)| {
        let shaped = if shapes_reward { response.reward * factor } else { response.reward };
        let penalty = algorithm.overlong_penalty.as_ref();
        shaped + penalty.map_or(0.0, |p| overlong(p, response.old_logp_t.len(), batch.max_response_tokens))
    };
    let reward_b: Vec<f64> = batch.responses.iter().zip(factor_b).map(reward).collect();
    reward_b.chunks(batch.group_size.max(1)).flat_map(|g| advantage_g(&algorithm.advantage, g)).collect()
}

fn weights(filter: Option<&TokenFilter>, batch: &Batch, dependency_bt: &[Vec<f64>]) -> Vec<TokenWeights> {
    let Some(filter) = filter else {
        return vec![TokenWeights::All; batch.responses.len()];
    };
    let one = |(response, dependency_t): (&Response, &Vec<f64>)| {
        TokenWeights::Given(match (filter.guide, filter.entropy_of) {
            (Guide::Perception, _) => weight_t(filter, dependency_t),
            (Guide::Random, _) => weight_t(filter, &random_scores(batch, response)),
            (Guide::Entropy, PolicyVersion::Old) => weight_t(filter, &response.entropy_t),
            (Guide::Entropy, PolicyVersion::Current) => return TokenWeights::ByCurrentEntropy,
        })
    };
    batch.responses.par_iter().zip(dependency_bt).map(one).collect()
}

fn random_scores(batch: &Batch, response: &Response) -> Vec<f64> {
    let at = [batch.step.into(), (&response.item).into(), response.sample.into()];
    let mut draws = stream(batch.seed, Purpose::TokenMask, &at);
    response.old_logp_t.iter().map(|_| draws.uniform()).collect()
}

fn scales(aggregation: Aggregation, filter: Option<&TokenFilter>, batch: &Batch) -> Vec<Scales> {
    let tokens_b: Vec<f64> = batch.responses.iter().map(Response::tokens).collect();
    let counted = |r: &Response| counted_tokens(filter, r.old_logp_t.len());
    let counted_b: Vec<f64> = batch.responses.iter().map(counted).collect();
    let policy_b = scale(aggregation, &counted_b, &tokens_b, batch.cut());
    let kl_b = scale(aggregation, &tokens_b, &tokens_b, batch.cut());
    let entropy_b = scale(Aggregation::Token, &tokens_b, &tokens_b, batch.cut());
    let parts = policy_b.into_iter().zip(kl_b).zip(entropy_b);
    parts.map(|((policy, kl), entropy)| Scales { policy, kl, entropy }).collect()
}

/// The factor of each response's token sum, where the response counts as `counted_b` tokens of its `tokens_b`.
fn scale(aggregation: Aggregation, counted_b: &[f64], tokens_b: &[f64], cut: Cut) -> Vec<f64> {
    let ones = vec![1.0; tokens_b.len()];
    let minis = cut.parts(Scope::MiniBatch);
    match aggregation {
        Aggregation::Token => totals(counted_b, &minis).into_iter().map(inverse).collect(),
        Aggregation::Sequence => {
            let responses_b = totals(&ones, &minis);
            counted_b.iter().zip(responses_b).map(|(counted, n)| inverse(counted * n)).collect()
        }
        Aggregation::SequencePerMicroBatch => {
            let micros = cut.parts(Scope::MicroBatch);
            let (mini_b, micro_b) = (totals(tokens_b, &minis), totals(tokens_b, &micros));
            let responses_b = totals(&ones, &micros);
            let of = |i: usize| {
                micro_b[i]
                    * inverse(mini_b[i])
                    * inverse(responses_b[i])
                    * inverse(counted_b[i] + COUNT_EPSILON)
            };
            (0..tokens_b.len()).map(of).collect()
        }
    }
}

/// For each response the sum over the part that holds it.
fn totals(value_b: &[f64], parts: &[Range<usize>]) -> Vec<f64> {
    let total = |part: &Range<usize>| vec![value_b[part.clone()].iter().sum::<f64>(); part.len()];
    parts.iter().flat_map(total).collect()
}

fn inverse(x: f64) -> f64 {
    if x > 0.0 { 1.0 / x } else { 0.0 }
}

fn mean(x: &[f64]) -> Option<f64> {
    (!x.is_empty()).then(|| x.iter().sum::<f64>() / x.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUT: Cut = Cut { responses: 5, mini_batch: 3, micro_batch: 2 };
    const TOKENS: [f64; 5] = [4.0, 2.0, 1.0, 5.0, 0.0];

    fn weighted_total(aggregation: Aggregation, mini: Range<usize>) -> f64 {
        let scale_b = scale(aggregation, &TOKENS, &TOKENS, CUT);
        mini.map(|i| TOKENS[i] * scale_b[i]).sum()
    }

    #[test]
    fn scales_sum_to_one_over_a_mini_batch() {
        for aggregation in [Aggregation::Token, Aggregation::Sequence, Aggregation::SequencePerMicroBatch] {
            assert!((weighted_total(aggregation, 0..3) - 1.0).abs() < 1e-7, "{aggregation:?}");
        }
        assert_eq!(weighted_total(Aggregation::Token, 3..5), 1.0);
        assert_eq!(weighted_total(Aggregation::Sequence, 3..5), 0.5); // a response without tokens counts
    }

    #[test]
    fn each_aggregation_weighs_a_token_differently() {
        let first = |aggregation| scale(aggregation, &TOKENS, &TOKENS, CUT)[0];
        assert!((first(Aggregation::Token) - 1.0 / 7.0).abs() < 1e-15);
        assert!((first(Aggregation::Sequence) - 1.0 / 12.0).abs() < 1e-15);
        assert!((first(Aggregation::SequencePerMicroBatch) - 6.0 / 7.0 / 2.0 / 4.0).abs() < 1e-8);
    }

    #[test]
    fn the_entropy_penalty_is_a_token_mean_under_every_aggregation() {
        let of = |tokens| Response { old_logp_t: vec![-1.0; tokens], ..Response::default() };
        let responses = vec![of(4), of(1)];
        let batch =
            Batch { responses, mini_batch_responses: 2, micro_batch_responses: 1, ..Batch::default() };
        for aggregation in [Aggregation::Token, Aggregation::Sequence, Aggregation::SequencePerMicroBatch] {
            assert!(scales(aggregation, None, &batch).iter().all(|s| s.entropy == 0.2), "{aggregation:?}");
        }
    }

    #[test]
    fn a_batch_that_does_not_fit_the_algorithm_is_refused_by_name() {
        let response = Response { item: "q1".into(), old_logp_t: vec![-1.0, -2.0], ..Response::default() };
        let mut batch = Batch {
            responses: vec![response.clone(), response],
            group_size: 2,
            mini_batch_responses: 2,
            micro_batch_responses: 1,
            ..Batch::default()
        };
        assert!(batch.check(&Algorithm::dapo()).is_ok());
        let error = |batch: &Batch| batch.check(&Algorithm::vppo()).err().map(|e| e.to_string());
        assert_eq!(error(&batch).as_deref(), Some("item q1, sample 0: no scoring under a corrupted picture"));
        batch.responses[0].corrupted = Some(Corrupted { logp_t: vec![-1.0], ..Corrupted::default() });
        let message = "item q1, sample 0: 1 values of the corrupted logp_t for 2 tokens";
        assert_eq!(error(&batch).as_deref(), Some(message));
        batch.group_size = 3;
        assert_eq!(error(&batch).as_deref(), Some("2 responses are not whole groups of 3"));
    }
}
