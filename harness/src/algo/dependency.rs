//! Visual dependency: how far the policy's next-token distribution p moves to p' when the picture is corrupted.
//!
//! Row-level functions take the log-probabilities of one token, or of one position's whole vocabulary; the model
//! calls the latter where an estimator asks for whole distributions. [`dependency_t`] puts them together per
//! response. Source: paper eq. 3, App. G and Table 12; reference `dp_actor.py`.

use super::algorithm::Estimator;
use super::credit::Corrupted;

/// Log-probabilities below this count as this, so that a token impossible under p' gives a large, finite value.
const LEAST_LOGP: f64 = -1e4;

/// One-sample estimate of KL(p || p') from a token sampled from p: `exp(d) - d - 1` with `d = log p' - log p`
/// held within plus and minus `log_ratio_clamp`, then at most `value_clamp`. Never negative.
pub fn sampled_k3(logp: f64, corrupted_logp: f64, log_ratio_clamp: f64, value_clamp: Option<f64>) -> f64 {
    let d = log_ratio(logp, corrupted_logp, log_ratio_clamp);
    limit(libm::expm1(d) - d, value_clamp)
}

/// One-sample estimate of the Jensen-Shannon divergence of p and p' from a token sampled from p, in nats:
/// with `u = p'/p`, half of `u log u - (1 + u) log((1 + u) / 2)`. Both of its KL terms are k3 estimates to
/// the mixture, the second weighted by u; so the expectation under p is the divergence. Never negative.
pub fn sampled_jensen_shannon(
    logp: f64,
    corrupted_logp: f64,
    log_ratio_clamp: f64,
    value_clamp: Option<f64>,
) -> f64 {
    let d = log_ratio(logp, corrupted_logp, log_ratio_clamp);
    let u = libm::exp(d);
    let mixture = libm::log1p(0.5 * libm::expm1(d));
    limit(0.5 * (u * (d - mixture) - mixture), value_clamp)
}

/// Drop of the sampled token's probability, p - p', in -1..=1.
pub fn top1_drop(logp: f64, corrupted_logp: f64) -> f64 {
    libm::exp(logp) - libm::exp(corrupted_logp)
}

/// KL(p || p') in nats from the log-probabilities of a whole vocabulary, paired by token.
pub fn full_kl(logp: &[f32], corrupted_logp: &[f32]) -> f64 {
    sum_rows(logp, corrupted_logp, |p, logp, _, corrupted| p * (logp - corrupted)).max(0.0)
}

/// Jensen-Shannon divergence of p and p' in nats (at most ln 2), from whole vocabularies paired by token.
pub fn jensen_shannon(logp: &[f32], corrupted_logp: &[f32]) -> f64 {
    let half = sum_rows(logp, corrupted_logp, |p, logp, q, corrupted| {
        let mixture = 0.5 * (p + q);
        if logp == corrupted || mixture == 0.0 {
            return 0.0; // exactly, also where the logarithm would round
        }
        let log_mixture = libm::log(mixture);
        p * (logp - log_mixture) + q * (corrupted - log_mixture)
    });
    (0.5 * half).clamp(0.0, std::f64::consts::LN_2)
}

/// Dependency of each token of a response. `old_logp_t` are the sampled tokens' log-probabilities under the
/// true picture. Lengths agree ([`Batch::check`](super::Batch::check)); a missing tail gives no entries.
pub fn dependency_t(estimator: &Estimator, old_logp_t: &[f64], corrupted: &Corrupted) -> Vec<f64> {
    let pairs = old_logp_t.iter().zip(&corrupted.logp_t);
    match *estimator {
        Estimator::SampledK3 { log_ratio_clamp, value_clamp } => {
            pairs.map(|(&p, &q)| sampled_k3(p, q, log_ratio_clamp, value_clamp)).collect()
        }
        Estimator::SampledJensenShannon { log_ratio_clamp, value_clamp } => {
            pairs.map(|(&p, &q)| sampled_jensen_shannon(p, q, log_ratio_clamp, value_clamp)).collect()
        }
        Estimator::Top1Drop => pairs.map(|(&p, &q)| top1_drop(p, q)).collect(),
        Estimator::FullKl => corrupted.kl_t.clone(),
        Estimator::JensenShannon => corrupted.js_t.clone(),
    }
}

fn log_ratio(logp: f64, corrupted_logp: f64, clamp: f64) -> f64 {
    (corrupted_logp - logp).max(-clamp).min(clamp)
}

fn limit(value: f64, largest: Option<f64>) -> f64 {
    value.max(0.0).min(largest.unwrap_or(f64::INFINITY))
}

/// Sum over the vocabulary of `term(p, log p, p', log p')`.
fn sum_rows(logp: &[f32], corrupted_logp: &[f32], term: impl Fn(f64, f64, f64, f64) -> f64) -> f64 {
    let read = |x: &f32| f64::from(*x).max(LEAST_LOGP);
    let pairs = logp.iter().zip(corrupted_logp).map(|(a, b)| (read(a), read(b)));
    pairs.map(|(a, b)| term(libm::exp(a), a, libm::exp(b), b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: [f64; 4] = [0.5, 0.25, 0.2, 0.05];
    const Q: [f64; 4] = [0.1, 0.3, 0.2, 0.4];

    fn rows() -> (Vec<f32>, Vec<f32>) {
        (P.map(|x| libm::log(x) as f32).to_vec(), Q.map(|x| libm::log(x) as f32).to_vec())
    }

    #[test]
    fn whole_rows_agree_with_hand_computed_values() {
        let (p, q) = rows();
        let kl: f64 = P.iter().zip(Q).map(|(p, q)| p * (p / q).ln()).sum();
        let kl_m = |x: &[f64; 4]| -> f64 {
            x.iter().zip(P.iter().zip(Q)).map(|(x, (p, q))| x * (2.0 * x / (p + q)).ln()).sum()
        };
        assert!((full_kl(&p, &q) - kl).abs() < 1e-6);
        assert!((jensen_shannon(&p, &q) - 0.5 * (kl_m(&P) + kl_m(&Q))).abs() < 1e-6);
        assert_eq!(jensen_shannon(&p, &q), jensen_shannon(&q, &p));
        for row in (1..1_000).map(|i| [-1e-3 * i as f32]) {
            assert_eq!((full_kl(&row, &row), jensen_shannon(&row, &row)), (0.0, 0.0), "{row:?}");
        }
    }

    #[test]
    fn sampled_estimates_have_the_divergence_as_expectation() {
        let (p, q) = rows();
        let mean = |f: fn(f64, f64, f64, Option<f64>) -> f64| -> f64 {
            P.iter().zip(Q).map(|(p, q)| p * f(libm::log(*p), libm::log(q), 20.0, None)).sum()
        };
        assert!((mean(sampled_k3) - full_kl(&p, &q)).abs() < 1e-6);
        assert!((mean(sampled_jensen_shannon) - jensen_shannon(&p, &q)).abs() < 1e-6);
    }

    #[test]
    fn clamps_are_those_of_the_settings() {
        assert_eq!(sampled_k3(-30.0, 0.0, 20.0, Some(10.0)), 10.0);
        assert!((sampled_k3(-1.0, -1.0 + 2.3, 20.0, Some(10.0)) - (2.3f64.exp() - 3.3)).abs() < 1e-12);
        assert_eq!(sampled_k3(-30.0, 0.0, 20.0, None), libm::expm1(20.0) - 20.0);
        assert_eq!(sampled_k3(0.0, f64::NEG_INFINITY, 20.0, None), libm::expm1(-20.0) + 20.0);
        assert!((top1_drop(libm::log(0.7), libm::log(0.2)) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn impossible_tokens_give_finite_values() {
        let (certain, other) = ([0.0, f32::NEG_INFINITY], [f32::NEG_INFINITY, 0.0]);
        assert!(full_kl(&certain, &other).is_finite());
        assert!((jensen_shannon(&certain, &other) - std::f64::consts::LN_2).abs() < 1e-9);
    }
}
