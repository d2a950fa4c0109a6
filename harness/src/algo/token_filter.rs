//! TGF: from one score per token to one weight per token (paper eq. 4, App. I; reference `dp_actor.py`).

use super::algorithm::{Denominator, Mask, TokenFilter};

/// Halvings of the interval that holds the soft mask's shift: to the last bit of an `f64`.
const HALVINGS: usize = 60;
/// Added to the standard deviation of the scores ("epsilon" in App. I, without a value).
const STD_EPSILON: f64 = 1e-8;

/// Weights of a response's tokens, 0..=1, from their scores.
pub(super) fn weight_t(filter: &TokenFilter, score_t: &[f64]) -> Vec<f64> {
    match filter.mask {
        Mask::Binary => highest(score_t, kept_tokens(filter, score_t.len())),
        Mask::Soft => soft(score_t, filter.fraction),
    }
}

/// What a response of `tokens` tokens counts in the policy term's denominator. It depends on the scores in no case:
/// the weights of a binary mask sum to the rounded-up fraction, those of a soft one to the fraction.
pub(super) fn counted_tokens(filter: Option<&TokenFilter>, tokens: usize) -> f64 {
    match filter {
        Some(filter) if filter.denominator == Denominator::KeptTokens => match filter.mask {
            Mask::Binary => kept_tokens(filter, tokens) as f64,
            Mask::Soft => filter.fraction.clamp(0.0, 1.0) * tokens as f64,
        },
        _ => tokens as f64,
    }
}

fn kept_tokens(filter: &TokenFilter, tokens: usize) -> usize {
    ((tokens as f64 * filter.fraction).ceil() as usize).min(tokens)
}

/// 1 for the `keep` highest scores, else 0; of equal scores (0 and -0 are equal) the earlier is kept.
fn highest(score_t: &[f64], keep: usize) -> Vec<f64> {
    if keep == 0 || keep >= score_t.len() {
        return vec![if keep == 0 { 0.0 } else { 1.0 }; score_t.len()];
    }
    let mut sorted: Vec<f64> = score_t.iter().map(|s| s + 0.0).collect(); // -0 becomes 0
    let (above, threshold, _) = sorted.select_nth_unstable_by(keep - 1, |a, b| b.total_cmp(a));
    let threshold = *threshold;
    let mut equals = keep - above.iter().filter(|s| **s > threshold).count();
    let mut keeps = |score: f64| {
        let equal = score == threshold && equals > 0;
        equals -= usize::from(equal);
        score > threshold || equal
    };
    score_t.iter().map(|s| f64::from(u8::from(keeps(*s)))).collect()
}

/// `sigmoid(z - c)` with z the standardised score and c such that the mean weight is `fraction`.
fn soft(score_t: &[f64], fraction: f64) -> Vec<f64> {
    if score_t.is_empty() || fraction <= 0.0 || fraction >= 1.0 {
        return vec![fraction.clamp(0.0, 1.0); score_t.len()];
    }
    let z_t = standardise(score_t);
    let logit = libm::log(fraction / (1.0 - fraction));
    // At `low` every weight is at least the fraction, at `high` at most.
    let mut low = z_t.iter().copied().fold(f64::INFINITY, f64::min) - logit;
    let mut high = z_t.iter().copied().fold(f64::NEG_INFINITY, f64::max) - logit;
    for _ in 0..HALVINGS {
        let middle = 0.5 * (low + high);
        let total: f64 = z_t.iter().map(|z| sigmoid(z - middle)).sum();
        if total > fraction * z_t.len() as f64 { low = middle } else { high = middle }
    }
    z_t.iter().map(|z| sigmoid(z - 0.5 * (low + high))).collect()
}

/// Minus the mean, over the standard deviation (of n, not n - 1; App. I does not say).
fn standardise(x: &[f64]) -> Vec<f64> {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
    let scale = libm::sqrt(variance) + STD_EPSILON;
    x.iter().map(|x| (x - mean) / scale).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::algo::{Guide, PolicyVersion};

    fn filter(fraction: f64, mask: Mask, denominator: Denominator) -> TokenFilter {
        TokenFilter { guide: Guide::Perception, entropy_of: PolicyVersion::Old, fraction, mask, denominator }
    }

    fn binary(fraction: f64, score_t: &[f64]) -> Vec<f64> {
        weight_t(&filter(fraction, Mask::Binary, Denominator::AllTokens), score_t)
    }

    #[test]
    fn the_highest_scores_are_kept_rounded_up() {
        assert_eq!(binary(0.4, &[0.1, 5.0, -1.0, 3.0, 2.0]), [0.0, 1.0, 0.0, 1.0, 0.0]);
        assert_eq!(binary(0.4, &[1.0, 2.0, 3.0]), [0.0, 1.0, 1.0]);
        assert_eq!(binary(0.4, &[7.0]), [1.0]);
        assert_eq!(binary(1.0, &[7.0, 1.0]), [1.0, 1.0]);
        assert!(binary(0.4, &[]).is_empty());
    }

    #[test]
    fn of_equal_scores_the_earlier_is_kept() {
        assert_eq!(binary(0.4, &[0.0, 2.0, -0.0, 0.0, 0.0]), [1.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(binary(0.5, &[10.0; 4]), [1.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn soft_weights_follow_the_scores_and_have_the_fraction_as_mean() {
        let score_t = [0.01, 0.0, 3.0, 0.5, 9.9, 0.02, 0.0];
        for fraction in [0.01, 0.4, 0.99] {
            let weight_t = weight_t(&filter(fraction, Mask::Soft, Denominator::AllTokens), &score_t);
            let mean = weight_t.iter().sum::<f64>() / 7.0;
            assert!((mean - fraction).abs() < 1e-12, "{mean}");
            for (i, j) in [(1, 0), (0, 5), (5, 3), (3, 2), (2, 4)] {
                assert!(weight_t[i] < weight_t[j]);
            }
        }
        let equal = weight_t(&filter(0.4, Mask::Soft, Denominator::AllTokens), &[2.0; 5]);
        assert!(equal.iter().all(|w| (w - 0.4).abs() < 1e-12));
    }

    #[test]
    fn the_denominator_is_the_sum_of_the_weights_where_asked() {
        let score_t = [0.3, 0.1, 0.7, 0.9, 0.2];
        for mask in [Mask::Binary, Mask::Soft] {
            let filter = filter(0.5, mask, Denominator::KeptTokens);
            let total: f64 = weight_t(&filter, &score_t).iter().sum();
            assert!((counted_tokens(Some(&filter), 5) - total).abs() < 1e-12);
        }
        assert_eq!(counted_tokens(Some(&filter(0.5, Mask::Soft, Denominator::AllTokens)), 5), 5.0);
        assert_eq!(counted_tokens(None, 5), 5.0);
    }
}
