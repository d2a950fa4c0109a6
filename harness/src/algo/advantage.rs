//! From rewards to advantages: dynamic sampling, the overlong penalty, the group-relative advantage.
//!
//! Source: paper eq. 1; reference `core_algos.py` (advantage), `ray_trainer.py` (filter); EasyR1
//! `examples/reward_function/dapo.py` (overlong penalty).

use super::algorithm::{Advantage, Algorithm, OverlongPenalty};

/// Whether dynamic sampling keeps a group with these accuracies (one per response, unshaped). Without a
/// filter every group is kept; with one, a group without responses is not.
pub fn keep_group(algorithm: &Algorithm, accuracy_g: &[f64]) -> bool {
    algorithm.group_filter.as_ref().is_none_or(|filter| {
        let mean = mean(accuracy_g);
        !accuracy_g.is_empty() && filter.low < mean && mean < filter.high
    })
}

/// What a response of `tokens` tokens loses (0 or negative); `max_tokens` is the length limit.
pub(super) fn overlong(penalty: &OverlongPenalty, tokens: usize, max_tokens: usize) -> f64 {
    let over = tokens.saturating_sub(max_tokens.saturating_sub(penalty.buffer_tokens));
    -penalty.factor * (over as f64 / penalty.buffer_tokens.max(1) as f64).min(1.0)
}

/// Advantages of one group, in its order. Exactly 0 where all rewards are equal.
pub(super) fn advantage_g(settings: &Advantage, reward_g: &[f64]) -> Vec<f64> {
    if reward_g.iter().all(|r| *r == reward_g[0]) {
        return vec![0.0; reward_g.len()];
    }
    let centre = mean(reward_g);
    let scale = if settings.normalise_std { std(reward_g, centre, settings) + settings.epsilon } else { 1.0 };
    reward_g.iter().map(|r| if scale > 0.0 { (r - centre) / scale } else { 0.0 }).collect()
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len().max(1) as f64
}

fn std(x: &[f64], mean: f64, settings: &Advantage) -> f64 {
    let squares: f64 = x.iter().map(|x| (x - mean) * (x - mean)).sum();
    let degrees = if settings.unbiased_std { x.len().saturating_sub(1) } else { x.len() };
    libm::sqrt(squares / degrees.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advantages_of_known_groups() {
        let mut settings = Advantage { normalise_std: true, unbiased_std: true, epsilon: 0.0 };
        let close = |a: Vec<f64>, b: [f64; 4]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12);
        let half = 3f64.sqrt() / 2.0;
        assert!(close(advantage_g(&settings, &[1.0, 1.0, 0.0, 0.0]), [half, half, -half, -half]));
        settings.unbiased_std = false;
        assert!(close(advantage_g(&settings, &[1.0, 1.0, 0.0, 0.0]), [1.0, 1.0, -1.0, -1.0]));
        settings.normalise_std = false;
        assert!(close(advantage_g(&settings, &[1.0, 1.0, 0.0, 0.0]), [0.5, 0.5, -0.5, -0.5]));
    }

    #[test]
    fn equal_rewards_give_exactly_zero() {
        let settings = Advantage { normalise_std: true, unbiased_std: true, epsilon: 0.0 };
        assert_eq!(advantage_g(&settings, &[0.1; 3]), [0.0; 3]);
        assert_eq!(advantage_g(&settings, &[1.0]), [0.0]);
        assert!(advantage_g(&settings, &[]).is_empty());
    }

    #[test]
    fn filter_bounds_are_exclusive() {
        let mut algorithm = Algorithm::dapo();
        assert!(keep_group(&algorithm, &[1.0, 0.0]));
        for dropped in [&[0.0, 0.0][..], &[1.0, 1.0], &[0.01], &[0.99], &[]] {
            assert!(!keep_group(&algorithm, dropped), "{dropped:?}");
        }
        algorithm.group_filter = None;
        assert!(keep_group(&algorithm, &[1.0, 1.0]) && keep_group(&algorithm, &[]));
    }

    #[test]
    fn overlong_penalty_is_a_ramp() {
        let penalty = OverlongPenalty { buffer_tokens: 20, factor: 0.5 };
        let at = |tokens| overlong(&penalty, tokens, 100);
        assert_eq!([at(0), at(80), at(90), at(100), at(120)], [0.0, 0.0, -0.25, -0.5, -0.5]);
        assert_eq!(overlong(&OverlongPenalty { buffer_tokens: 0, factor: 1.0 }, 100, 100), 0.0);
    }
}
