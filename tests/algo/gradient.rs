//! `dloss_dlogp_t` against central differences of the loss, for every preset and every alternative of a setting.

use super::{Scene, variants};
use harness::algo::{Algorithm, Current, assign_credit, objective};

const STEP: f64 = 1e-6;

fn check(name: &str, algorithm: &Algorithm, scene: &Scene) {
    let credits = assign_credit(algorithm, &scene.batch);
    for (i, credit) in credits.iter().enumerate() {
        let at = |logp_t: &[f64]| {
            let current = Current { logp_t, entropy_t: &scene.entropy[i] };
            let old_logp_t = &scene.batch.responses[i].old_logp_t;
            objective(algorithm, credit, current, old_logp_t, Some(&scene.ref_logp[i]))
        };
        let analytic = at(&scene.logp[i]).dloss_dlogp_t;
        for t in 0..analytic.len() {
            let moved = |by: f64| {
                let mut logp_t = scene.logp[i].clone();
                logp_t[t] += by;
                at(&logp_t).loss
            };
            let numeric = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            let error = (numeric - analytic[t]).abs();
            assert!(error < 1e-7, "{name}: response {i}, token {t}: {numeric} for {}", analytic[t]);
        }
    }
}

#[test]
fn derivatives_agree_with_finite_differences_for_every_setting() {
    let scene = Scene::random(11, 3, 9);
    let variants = variants();
    for (name, algorithm) in &variants {
        check(name, algorithm, &scene);
    }
    assert!(variants.len() > 40);
}

#[test]
fn the_scene_visits_every_branch_of_the_clipped_loss() {
    let mut total = harness::algo::Metrics::default();
    let scene = Scene::random(11, 3, 9);
    scene.objectives(&Algorithm::vppo()).iter().for_each(|o| total.add(&o.metrics));
    let clipped = total.clipped_high + total.clipped_low + total.clipped_dual;
    assert!(total.clipped_high > 0.0 && total.clipped_low > 0.0 && total.clipped_dual > 0.0);
    assert!(clipped < total.tokens && total.kept_tokens > 0.0);
}
