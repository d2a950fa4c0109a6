//! What must hold for any input: independence of the cut and of the order of groups, determinism, finiteness.

use super::{Scene, depends_on_the_cut, variants};
use harness::algo::{
    Algorithm, Batch, Guide, Objective, Perception, Scope, ShapingTarget, TokenWeights, assign_credit,
};
use proptest::prelude::*;

fn largest_difference(a: &[Objective], b: &[Objective]) -> f64 {
    let rows = a.iter().zip(b).flat_map(|(a, b)| a.dloss_dlogp_t.iter().zip(&b.dloss_dlogp_t));
    rows.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

fn with_micro_batches(scene: &Scene, micro_batch_responses: usize) -> Scene {
    let mut cut = scene.clone();
    cut.batch.micro_batch_responses = micro_batch_responses;
    cut
}

#[test]
fn the_cut_matters_exactly_where_a_setting_says_so() {
    let mut scene = Scene::random(5, 4, 12);
    scene.batch.mini_batch_responses = 8;
    for (name, algorithm) in variants() {
        let whole = scene.objectives(&algorithm);
        let change =
            |micro| largest_difference(&whole, &with_micro_batches(&scene, micro).objectives(&algorithm));
        let largest = [1, 2, 3, 5].map(change).into_iter().fold(0.0, f64::max);
        if depends_on_the_cut(&algorithm) {
            assert!(largest > 1e-6, "{name}: a micro-batch setting without effect");
        } else {
            assert!(largest < 1e-12, "{name}: changed by {largest}");
        }
    }
}

#[test]
fn the_order_of_groups_does_not_matter() {
    let scene = Scene::random(6, 4, 12);
    let order: Vec<usize> = [2, 0, 3, 1].iter().flat_map(|g| 4 * g..4 * g + 4).collect();
    let mut moved = scene.clone();
    moved.batch.responses = order.iter().map(|i| scene.batch.responses[*i].clone()).collect();
    moved.logp = order.iter().map(|i| scene.logp[*i].clone()).collect();
    moved.entropy = order.iter().map(|i| scene.entropy[*i].clone()).collect();
    moved.ref_logp = order.iter().map(|i| scene.ref_logp[*i].clone()).collect();
    for (name, algorithm) in variants() {
        let before = scene.objectives(&algorithm);
        let before: Vec<Objective> = order.iter().map(|i| before[*i].clone()).collect();
        let difference = largest_difference(&before, &moved.objectives(&algorithm));
        assert!(difference < 1e-12, "{name}: changed by {difference}");
    }
}

#[test]
fn thread_counts_give_the_same_bits() {
    let scene = Scene::random(7, 8, 40);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
        pool.install(|| assign_credit(&Algorithm::vppo(), &scene.batch))
    };
    assert_eq!(run(1), run(4));
}

#[test]
fn losses_of_a_mini_batch_sum_to_its_mean() {
    // Constant log-ratio 0 and advantages of mean 0 in equally long responses: the policy term vanishes, the
    // entropy term is the mean negative log-likelihood.
    let mut scene = Scene::random(8, 2, 1);
    for i in 0..8 {
        scene.batch.responses[i].old_logp_t = vec![-0.5; 6];
        scene.logp[i] = vec![-0.5; 6];
    }
    let loss: f64 = scene.objectives(&Algorithm::dapo()).iter().map(|o| o.loss).sum();
    assert!((loss - 0.06 * 0.5).abs() < 1e-12, "{loss}");
}

#[test]
fn equal_rewards_leave_no_policy_gradient() {
    let mut scene = Scene::random(9, 3, 10);
    scene.batch.responses.iter_mut().for_each(|r| r.reward = 1.0);
    for (name, mut algorithm) in variants() {
        let perception = algorithm.perception.as_ref();
        let shaping = perception.and_then(|p| p.shaping.as_ref());
        if shaping.is_some_and(|s| s.applies_to == ShapingTarget::Reward)
            || algorithm.overlong_penalty.is_some()
        {
            continue; // these make rewards unequal
        }
        (algorithm.kl, algorithm.entropy_penalty) = (None, None);
        for o in scene.objectives(&algorithm) {
            assert!(o.loss == 0.0 && o.dloss_dlogp_t.iter().all(|g| *g == 0.0), "{name}");
        }
    }
}

#[test]
fn shaping_the_reward_moves_the_group_mean() {
    let mut scene = Scene::random(10, 1, 8);
    for (i, response) in scene.batch.responses.iter_mut().enumerate() {
        response.reward = 1.0;
        response.old_logp_t = vec![-1.0; 4];
        let drop = 0.2 * (i + 1) as f64;
        response.corrupted.iter_mut().for_each(|c| c.logp_t = vec![-1.0 - drop; 4]);
    }
    let mut algorithm = Algorithm::reweight_only();
    let shaping = algorithm.perception.iter_mut().flat_map(|p| &mut p.shaping);
    shaping.for_each(|s| s.applies_to = ShapingTarget::Reward);
    let credits = assign_credit(&algorithm, &scene.batch);
    let mean: f64 = credits.iter().map(|c| c.advantage).sum();
    assert!(mean.abs() < 1e-12 && credits[0].advantage < 0.0 && credits[3].advantage > 0.0);
    assert!(credits.iter().all(|c| c.shaped_advantage == c.advantage));
}

fn random_guide() -> Algorithm {
    let mut algorithm = Algorithm::mask_only();
    let filters = algorithm.perception.iter_mut().flat_map(|p| &mut p.token_filter);
    filters.for_each(|filter| filter.guide = Guide::Random);
    algorithm
}

#[test]
fn random_masks_belong_to_step_item_and_sample() {
    let mut batch: Batch = Scene::random(12, 2, 30).batch;
    batch.responses.iter_mut().for_each(|r| r.old_logp_t = vec![-1.0; 30]);
    let masks = |batch: &Batch| -> Vec<TokenWeights> {
        assign_credit(&random_guide(), batch).into_iter().map(|credit| credit.weights).collect()
    };
    let first = masks(&batch);
    assert_eq!(first, masks(&batch));
    for (i, a) in first.iter().enumerate() {
        assert!(first[i + 1..].iter().all(|b| a != b), "two responses share a mask");
    }
    batch.step += 1;
    assert!(masks(&batch).iter().zip(&first).all(|(a, b)| a != b));
}

#[test]
fn wider_scopes_are_those_of_one_large_micro_batch() {
    let scene = Scene::random(13, 4, 12);
    let scoped = |scope| {
        let mut algorithm = Algorithm::vppo();
        let shaping = algorithm.perception.iter_mut().flat_map(|p: &mut Perception| &mut p.shaping);
        shaping.for_each(|s| (s.range_scope, s.ceiling_scope) = (scope, scope));
        scene.objectives(&algorithm)
    };
    assert_eq!(scoped(Scope::MicroBatch), scoped(Scope::Batch));
    assert_eq!(scoped(Scope::MiniBatch), scoped(Scope::Batch));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_is_ever_nan_or_infinite(
        seed in any::<u64>(),
        tokens in 1usize..6,
        micro in 1usize..9,
        scale in prop::sample::select(vec![0.0, 1e-9, 1.0, 100.0, 1e4]),
        rewards in prop::collection::vec(prop::sample::select(vec![0.0, 1.0, 0.1, -1e6]), 8),
    ) {
        let mut scene = Scene::random(seed, 2, tokens);
        scene.batch.micro_batch_responses = micro;
        for (response, reward) in scene.batch.responses.iter_mut().zip(rewards) {
            response.reward = reward;
            response.old_logp_t.iter_mut().for_each(|x| *x *= scale);
            response.corrupted.iter_mut().for_each(|c| c.logp_t.iter_mut().for_each(|x| *x *= scale));
        }
        scene.ref_logp.iter_mut().flatten().for_each(|x| *x *= scale);
        for (name, algorithm) in variants() {
            for credit in assign_credit(&algorithm, &scene.batch) {
                let values = [credit.advantage, credit.factor, credit.shaped_advantage];
                prop_assert!(values.iter().all(|x| x.is_finite()), "{}: {:?}", name, credit);
            }
            for o in scene.objectives(&algorithm) {
                let finite = o.loss.is_finite() && o.dloss_dlogp_t.iter().all(|g| g.is_finite());
                prop_assert!(finite, "{}: {:?}", name, o);
                let m = o.metrics;
                prop_assert!((m.approx_kl + m.kl_loss + m.policy_loss + m.entropy_loss).is_finite());
            }
        }
    }

    #[test]
    fn kept_tokens_are_the_most_dependent_ones(seed in any::<u64>(), tokens in 1usize..60) {
        let scene = Scene::random(seed, 1, tokens);
        for credit in assign_credit(&Algorithm::mask_only(), &scene.batch) {
            let TokenWeights::Given(weight_t) = credit.weights else { panic!("no weights") };
            let pairs = || credit.dependency_t.iter().zip(&weight_t);
            let kept = pairs().filter(|(_, w)| **w == 1.0).count();
            prop_assert_eq!(kept, (2 * weight_t.len()).div_ceil(5));
            let least_kept = pairs().filter(|(_, w)| **w == 1.0).map(|(s, _)| *s).fold(f64::INFINITY, f64::min);
            let most_dropped = pairs().filter(|(_, w)| **w == 0.0).map(|(s, _)| *s).fold(0.0, f64::max);
            prop_assert!(least_kept >= most_dropped || kept == weight_t.len());
        }
    }
}
