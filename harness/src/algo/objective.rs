//! The loss of one sequence and its derivative with respect to the sampled tokens' log-probabilities.
//!
//! Source: paper eq. 2 and 6; reference `core_algos.py` (`compute_policy_loss`, `compute_kl`) and `dp_actor.py`
//! (entropy penalty). Token weights, advantages and dependencies are constants here, as in the reference.

use super::algorithm::{Algorithm, Clip};
use super::credit::{Credit, TokenWeights};
use super::token_filter::weight_t;
use std::borrow::Cow;

/// Log-ratios are held within plus and minus this before they are exponentiated (`core_algos.py`).
const LOG_RATIO_CLAMP: f64 = 20.0;
/// Largest k3 value of a token's KL to the reference model (`core_algos.py`, `compute_kl`).
const KL_CLAMP: f64 = 10.0;

/// The policy that is being trained, on the tokens of one response.
#[derive(Clone, Copy, Debug)]
pub struct Current<'a> {
    /// Log-probability of each sampled token, in nats.
    pub logp_t: &'a [f64],
    /// Entropy at each token; empty unless [`Algorithm::needs_current_entropy`].
    pub entropy_t: &'a [f64],
}

/// One sequence's share of its mini-batch's loss.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    /// Share of the loss that the update minimises; the shares of a mini-batch's sequences sum to its loss.
    pub loss: f64,
    /// Derivative of that loss with respect to each current log-probability.
    pub dloss_dlogp_t: Vec<f64>,
    /// For the log.
    pub metrics: Metrics,
}

/// Sums over tokens or sequences, which add over sequences in any grouping; [`Metrics::finish`] makes means.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Metrics {
    /// Sequences.
    pub sequences: f64,
    /// Response tokens.
    pub tokens: f64,
    /// Sum of the token weights.
    pub kept_tokens: f64,
    /// Share of the whole loss.
    pub loss: f64,
    /// Share of the policy term.
    pub policy_loss: f64,
    /// Share of the mean KL to the reference model, without its coefficient; 0 without a reference.
    pub kl_loss: f64,
    /// Share of the mean negative log-likelihood, without the penalty's coefficient; counted in every case.
    pub entropy_loss: f64,
    /// Tokens with positive advantage whose ratio is above `1 + high`.
    pub clipped_high: f64,
    /// Tokens with negative advantage whose ratio is below `1 - low`.
    pub clipped_low: f64,
    /// Tokens with negative advantage whose ratio is above `dual`.
    pub clipped_dual: f64,
    /// Sum of old minus current log-probability, clamped: estimates KL(old || current).
    pub approx_kl: f64,
}

/// What a log line shows. Fractions and the KL estimate are per response token, filtered or not.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MetricMeans {
    /// Mean response length in tokens.
    pub response_tokens: f64,
    /// Mean token weight.
    pub kept_frac: f64,
    /// Loss per update.
    pub loss: f64,
    /// Policy term per update.
    pub policy_loss: f64,
    /// Mean KL to the reference model per update, without coefficient.
    pub kl_loss: f64,
    /// Mean negative log-likelihood per update, without coefficient.
    pub entropy_loss: f64,
    /// Part of the tokens clipped from above.
    pub clip_high_frac: f64,
    /// Part clipped from below. The reference logs this plus the former as `pg_clipfrac_higher`.
    pub clip_low_frac: f64,
    /// Part limited by the dual clip (the reference's `pg_clipfrac_lower`).
    pub clip_dual_frac: f64,
    /// Mean of old minus current log-probability (the reference's `ppo_kl`).
    pub approx_kl: f64,
}

impl Metrics {
    /// Adds another sequence's, or another update's, sums.
    pub fn add(&mut self, other: &Metrics) {
        self.sequences += other.sequences;
        self.tokens += other.tokens;
        self.kept_tokens += other.kept_tokens;
        self.loss += other.loss;
        self.policy_loss += other.policy_loss;
        self.kl_loss += other.kl_loss;
        self.entropy_loss += other.entropy_loss;
        self.clipped_high += other.clipped_high;
        self.clipped_low += other.clipped_low;
        self.clipped_dual += other.clipped_dual;
        self.approx_kl += other.approx_kl;
    }

    /// Means of sums that hold all sequences of `updates` mini-batches. Loss shares already carry their
    /// normaliser, so they are divided by the number of updates, counts by the number of tokens.
    pub fn finish(&self, updates: usize) -> MetricMeans {
        let per = |sum: f64, count: f64| sum / count.max(1.0);
        let (tokens, updates) = (self.tokens, updates as f64);
        MetricMeans {
            response_tokens: per(tokens, self.sequences),
            kept_frac: per(self.kept_tokens, tokens),
            loss: per(self.loss, updates),
            policy_loss: per(self.policy_loss, updates),
            kl_loss: per(self.kl_loss, updates),
            entropy_loss: per(self.entropy_loss, updates),
            clip_high_frac: per(self.clipped_high, tokens),
            clip_low_frac: per(self.clipped_low, tokens),
            clip_dual_frac: per(self.clipped_dual, tokens),
            approx_kl: per(self.approx_kl, tokens),
        }
    }
}

/// Loss, derivative and metrics of one sequence. `old_logp_t` is the response's
/// [`old_logp_t`](super::Response::old_logp_t); `ref_logp_t` are the reference model's log-probabilities, which
/// [`Algorithm::needs_reference`] asks for and other algorithms ignore. All slices have the response's length.
pub fn objective(
    algorithm: &Algorithm,
    credit: &Credit,
    current: Current<'_>,
    old_logp_t: &[f64],
    ref_logp_t: Option<&[f64]>,
) -> Objective {
    let mut sums = Metrics { sequences: 1.0, tokens: current.logp_t.len() as f64, ..Metrics::default() };
    let mut dloss_dlogp_t = policy(algorithm, credit, current, old_logp_t, &mut sums);
    let mut loss = sums.policy_loss;
    if let (Some(kl), Some(ref_logp_t)) = (&algorithm.kl, ref_logp_t) {
        add_kl(kl.coef, credit.scales.kl, current.logp_t, ref_logp_t, &mut dloss_dlogp_t, &mut sums);
        loss += kl.coef * sums.kl_loss;
    }
    sums.entropy_loss = -credit.scales.entropy * current.logp_t.iter().sum::<f64>();
    if let Some(penalty) = &algorithm.entropy_penalty {
        dloss_dlogp_t.iter_mut().for_each(|g| *g -= penalty.coef * credit.scales.entropy);
        loss += penalty.coef * sums.entropy_loss;
    }
    Objective { loss, dloss_dlogp_t, metrics: Metrics { loss, ..sums } }
}

/// The clipped policy term: fills its sums, returns its derivative.
fn policy(
    algorithm: &Algorithm,
    credit: &Credit,
    current: Current<'_>,
    old_logp_t: &[f64],
    sums: &mut Metrics,
) -> Vec<f64> {
    let surrogate = Surrogate::new(&algorithm.clip, credit.shaped_advantage);
    let weight_t = weights(algorithm, credit, current);
    let scale = credit.scales.policy;
    let mut weighted_loss = 0.0;
    let mut derivative_t = Vec::with_capacity(current.logp_t.len());
    for ((logp, old_logp), weight) in current.logp_t.iter().zip(old_logp_t).zip(weight_t.iter()) {
        let token = surrogate.at(logp - old_logp);
        weighted_loss += weight * token.loss;
        derivative_t.push(scale * weight * token.derivative);
        sums.kept_tokens += weight;
        sums.approx_kl -= token.log_ratio;
        match token.clipped {
            Clipped::No => {}
            Clipped::High => sums.clipped_high += 1.0,
            Clipped::Low => sums.clipped_low += 1.0,
            Clipped::Dual => sums.clipped_dual += 1.0,
        }
    }
    sums.policy_loss = scale * weighted_loss;
    derivative_t
}

fn weights<'a>(algorithm: &Algorithm, credit: &'a Credit, current: Current<'_>) -> Cow<'a, [f64]> {
    let filter = algorithm.perception.as_ref().and_then(|p| p.token_filter.as_ref());
    match (&credit.weights, filter) {
        (TokenWeights::Given(weight_t), _) => Cow::Borrowed(weight_t),
        (TokenWeights::ByCurrentEntropy, Some(filter)) => Cow::Owned(weight_t(filter, current.entropy_t)),
        _ => Cow::Owned(vec![1.0; current.logp_t.len()]),
    }
}

/// The clipped loss of one token as a function of its log-ratio, for one advantage.
struct Surrogate {
    advantage: f64,
    /// Bounds of the log-ratio, of which the advantage's sign makes one effective.
    low: f64,
    high: f64,
    /// Log-ratio from which the dual clip holds.
    dual: f64,
}

enum Clipped {
    No,
    High,
    Low,
    Dual,
}

struct Token {
    loss: f64,
    derivative: f64,
    log_ratio: f64,
    clipped: Clipped,
}

impl Surrogate {
    fn new(clip: &Clip, advantage: f64) -> Self {
        let infinite = f64::INFINITY;
        let (low, high) = (libm::log(1.0 - clip.low), libm::log(1.0 + clip.high));
        let dual = clip.dual.map_or(infinite, libm::log);
        match advantage {
            a if a > 0.0 => Surrogate { advantage, low: -infinite, high, dual: infinite },
            a if a < 0.0 => Surrogate { advantage, low, high: infinite, dual },
            _ => Surrogate { advantage: 0.0, low: -infinite, high: infinite, dual: infinite },
        }
    }

    fn at(&self, raw_log_ratio: f64) -> Token {
        let log_ratio = raw_log_ratio.clamp(-LOG_RATIO_CLAMP, LOG_RATIO_CLAMP);
        let clipped = match log_ratio {
            d if d > self.high => Clipped::High,
            d if d < self.low => Clipped::Low,
            d if d > self.dual => Clipped::Dual,
            _ => Clipped::No,
        };
        let loss = -self.advantage * libm::exp(log_ratio.max(self.low).min(self.high).min(self.dual));
        let moves = matches!(clipped, Clipped::No) && raw_log_ratio.abs() <= LOG_RATIO_CLAMP;
        Token { loss, derivative: if moves { loss } else { 0.0 }, log_ratio, clipped }
    }
}

/// Adds `coef` times the k3 estimate of KL(current || reference model): fills its sum, adds its derivative.
fn add_kl(
    coef: f64,
    scale: f64,
    logp_t: &[f64],
    ref_logp_t: &[f64],
    derivative_t: &mut [f64],
    sums: &mut Metrics,
) {
    let mut total = 0.0;
    for ((logp, ref_logp), derivative) in logp_t.iter().zip(ref_logp_t).zip(derivative_t) {
        let raw = ref_logp - logp;
        let log_ratio = raw.clamp(-LOG_RATIO_CLAMP, LOG_RATIO_CLAMP);
        let slope = libm::expm1(log_ratio);
        let value = slope - log_ratio;
        total += value.min(KL_CLAMP);
        if value <= KL_CLAMP && raw.abs() <= LOG_RATIO_CLAMP {
            *derivative -= coef * scale * slope;
        }
    }
    sums.kl_loss = scale * total;
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIP: Clip = Clip { low: 0.2, high: 0.28, dual: Some(3.0) };

    fn loss(advantage: f64, ratio: f64) -> f64 {
        Surrogate::new(&CLIP, advantage).at(libm::log(ratio)).loss
    }

    #[test]
    fn the_surrogate_is_clipped_on_the_side_that_the_advantage_names() {
        let cases = [
            (1.0, 0.5, -0.5),
            (1.0, 1.2, -1.2),
            (1.0, 2.0, -1.28),
            (-1.0, 0.5, 0.8),
            (-1.0, 2.0, 2.0),
            (-1.0, 5.0, 3.0),
            (0.0, 5.0, 0.0),
        ];
        for (advantage, ratio, expected) in cases {
            assert!((loss(advantage, ratio) - expected).abs() < 1e-12, "{advantage} {ratio}");
        }
    }

    #[test]
    fn beyond_the_clamps_the_loss_stands_still() {
        let far = Surrogate::new(&Clip { dual: None, ..CLIP }, -1.0).at(25.0);
        assert_eq!((far.loss, far.derivative, far.log_ratio), (libm::exp(20.0), 0.0, 20.0));
        let kl = |ref_logp: f64| {
            let (mut derivative_t, mut sums) = ([0.0], Metrics::default());
            add_kl(0.5, 2.0, &[-5.0], &[ref_logp], &mut derivative_t, &mut sums);
            (sums.kl_loss, derivative_t[0])
        };
        assert_eq!(kl(-4.0), (2.0 * (libm::expm1(1.0) - 1.0), -libm::expm1(1.0)));
        assert_eq!(kl(-2.0), (20.0, 0.0));
    }

    #[test]
    fn metrics_of_two_updates_become_means() {
        let one = Metrics { sequences: 2.0, tokens: 8.0, kept_tokens: 4.0, loss: 1.0, ..Metrics::default() };
        let mut both = one;
        both.add(&Metrics { loss: 3.0, clipped_low: 4.0, ..one });
        let means = both.finish(2);
        assert_eq!((means.loss, means.response_tokens, means.kept_frac), (2.0, 4.0, 0.5));
        assert_eq!(means.clip_low_frac, 0.25);
        assert_eq!(Metrics::default().finish(0), MetricMeans::default());
    }
}
