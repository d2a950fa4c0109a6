//! Two algorithms on the same rollouts: how far their gradients differ, without a model.
//!
//! The gradient meant is that of the loss with respect to the log-probabilities of the sampled tokens, all of a step in one
//! vector, at the sampling policy itself (every ratio 1), where the first update of a step begins. What the network makes of
//! it, a linear map that both share, is not in it.

use super::algorithm::Algorithm;
use super::credit::{Batch, assign_credit};
use super::objective::{Current, Metrics, objective};

/// What one algorithm makes of the rollouts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Effect {
    /// Euclidean norm of the gradient.
    pub norm: f64,
    /// Mean token weight: the share of the tokens that carry the policy gradient.
    pub kept_frac: f64,
    /// Mean of the advantages' absolute values, shaping included.
    pub abs_advantage: f64,
    /// Smallest shaping factor.
    pub factor_min: f64,
    /// Largest shaping factor.
    pub factor_max: f64,
}

/// Two algorithms on the same rollouts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Responses.
    pub responses: usize,
    /// Their tokens.
    pub tokens: usize,
    /// The one.
    pub one: Effect,
    /// The other.
    pub other: Effect,
    /// Cosine of the angle between the two gradients; `None` where one of them is zero.
    pub cosine: Option<f64>,
    /// Share of the tokens whose derivatives have the same sign, both zero included.
    pub same_sign_frac: f64,
}

/// Compares two algorithms on a batch that [`Batch::check`] accepts for both. `reference_t` are the log-probabilities of a
/// frozen reference, response by response, which an algorithm with a KL penalty needs.
pub fn compare(
    batch: &Batch,
    reference_t: Option<&[Vec<f64>]>,
    one: &Algorithm,
    other: &Algorithm,
) -> Comparison {
    let (one, a) = effect(batch, reference_t, one);
    let (other, b) = effect(batch, reference_t, other);
    let dot: f64 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
    let norms = one.norm * other.norm;
    let same = a.iter().zip(&b).filter(|(a, b)| sign(**a) == sign(**b)).count();
    Comparison {
        responses: batch.responses.len(),
        tokens: a.len(),
        one,
        other,
        cosine: (norms > 0.0).then(|| dot / norms),
        same_sign_frac: same as f64 / a.len().max(1) as f64,
    }
}

fn sign(x: f64) -> i8 {
    i8::from(x > 0.0) - i8::from(x < 0.0)
}

/// An algorithm's effect, and its gradient.
fn effect(batch: &Batch, reference_t: Option<&[Vec<f64>]>, algorithm: &Algorithm) -> (Effect, Vec<f64>) {
    let credits = assign_credit(algorithm, batch);
    let (mut metrics, mut gradient) = (Metrics::default(), vec![]);
    for (i, (response, credit)) in batch.responses.iter().zip(&credits).enumerate() {
        let current = Current { logp_t: &response.old_logp_t, entropy_t: &response.entropy_t };
        let reference_t = reference_t.map(|responses| responses[i].as_slice());
        let result = objective(algorithm, credit, current, &response.old_logp_t, reference_t);
        metrics.add(&result.metrics);
        gradient.extend(result.dloss_dlogp_t);
    }
    let factors = || credits.iter().map(|credit| credit.factor);
    let effect = Effect {
        norm: gradient.iter().map(|g| g * g).sum::<f64>().sqrt(),
        kept_frac: metrics.finish(1).kept_frac,
        abs_advantage: credits.iter().map(|c| c.shaped_advantage.abs()).sum::<f64>()
            / credits.len().max(1) as f64,
        factor_min: factors().fold(f64::INFINITY, f64::min),
        factor_max: factors().fold(f64::NEG_INFINITY, f64::max),
    };
    (effect, gradient)
}

#[cfg(test)]
mod tests {
    use super::super::credit::{Corrupted, Response};
    use super::*;

    /// One group of two responses of two tokens, the first right; the picture matters to its first token only.
    fn batch() -> Batch {
        let response = |sample, reward, corrupted_t: [f64; 2]| Response {
            item: "a".into(),
            sample,
            reward,
            old_logp_t: vec![-0.5, -0.25],
            entropy_t: vec![0.7, 0.2],
            corrupted: Some(Corrupted { logp_t: corrupted_t.into(), kl_t: vec![0.0; 2], js_t: vec![0.0; 2] }),
        };
        Batch {
            responses: vec![response(0, 1.0, [-2.5, -0.25]), response(1, 0.0, [-0.5, -0.25])],
            group_size: 2,
            mini_batch_responses: 2,
            micro_batch_responses: 2,
            max_response_tokens: 4,
            seed: 1,
            step: 0,
        }
    }

    #[test]
    fn an_algorithm_agrees_with_itself() {
        let dapo = Algorithm::dapo();
        let found = compare(&batch(), None, &dapo, &dapo);
        assert_eq!(found.one, found.other);
        assert!((found.cosine.unwrap() - 1.0).abs() < 1e-12);
        assert_eq!((found.same_sign_frac, found.responses, found.tokens), (1.0, 2, 4));
    }

    /// Advantages are +-1/sqrt(2) (unbiased deviation); without the entropy penalty each of the 4 tokens of DAPO's
    /// gradient is -+0.707.../4. The filter at 0.4 keeps one token of two in each response, so the cosine is
    /// 2 / (sqrt(4) sqrt(2)).
    #[test]
    fn masking_half_of_the_tokens_by_hand() {
        let mut mask = Algorithm::mask_only();
        mask.entropy_penalty = None;
        let found = compare(&batch(), None, &Algorithm::dapo_no_entropy_penalty(), &mask);
        let token = 1.0 / 2f64.sqrt() / 4.0;
        assert!((found.one.norm - 2.0 * token).abs() < 1e-5, "{found:?}");
        assert!((found.other.norm - 2f64.sqrt() * token).abs() < 1e-5, "{found:?}");
        assert!((found.cosine.unwrap() - 1.0 / 2f64.sqrt()).abs() < 1e-9);
        assert_eq!((found.one.kept_frac, found.other.kept_frac), (1.0, 0.5));
        assert_eq!(found.same_sign_frac, 0.5);
        assert_eq!((found.other.factor_min, found.other.factor_max), (1.0, 1.0));
    }

    #[test]
    fn equal_rewards_give_no_gradient_and_no_angle() {
        let mut batch = batch();
        batch.responses.iter_mut().for_each(|response| response.reward = 0.0);
        let found = compare(&batch, None, &Algorithm::grpo(), &Algorithm::dapo_no_entropy_penalty());
        assert_eq!((found.one.norm, found.other.norm, found.cosine), (0.0, 0.0, None));
    }
}
