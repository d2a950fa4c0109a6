//! Algorithms: reference numbers, finite differences, properties, settings.

use harness::algo::{
    Aggregation, Algorithm, Batch, Ceiling, Corrupted, Credit, Current, Denominator, Estimator, Guide, Mask,
    Objective, OverlongPenalty, Perception, PolicyVersion, Response, Scope, ShapingTarget, assign_credit,
    objective,
};
use harness::rng::{Purpose, Stream, stream};

mod golden;
mod gradient;
mod properties;
mod settings;

/// A batch with everything that any algorithm may ask for.
#[derive(Clone)]
struct Scene {
    batch: Batch,
    logp: Vec<Vec<f64>>,
    entropy: Vec<Vec<f64>>,
    ref_logp: Vec<Vec<f64>>,
}

/// Log-ratios of new to old policy that lie away from all clipping bounds of the presets.
const RATIOS: [f64; 8] = [-24.0, -0.5, -0.1, 0.05, 0.2, 0.4, 1.3, 0.0];
/// The same for the log-ratio of reference model to policy (the k3 clamp lies at 2.58).
const REF_RATIOS: [f64; 5] = [-21.0, -1.0, 0.1, 1.0, 3.0];

impl Scene {
    /// `groups` groups of four responses, one of them empty, one of one token, the rest up to `tokens` long.
    fn random(seed: u64, groups: usize, tokens: usize) -> Scene {
        let mut s = stream(seed, Purpose::World, &[groups.into(), tokens.into()]);
        let mut scene = Scene {
            batch: Batch {
                responses: Vec::new(),
                group_size: 4,
                mini_batch_responses: 4 * groups,
                micro_batch_responses: 4 * groups,
                max_response_tokens: tokens,
                seed,
                step: 3,
            },
            logp: Vec::new(),
            entropy: Vec::new(),
            ref_logp: Vec::new(),
        };
        for i in 0..4 * groups {
            let length = if i < 2 { i } else { 1 + s.below(tokens) };
            scene.push(&mut s, i, length);
        }
        scene
    }

    fn push(&mut self, s: &mut Stream, i: usize, length: usize) {
        let mut draw =
            |f: &mut dyn FnMut(&mut Stream) -> f64| (0..length).map(|_| f(s)).collect::<Vec<f64>>();
        let old_logp_t = draw(&mut |s| -4.0 * s.uniform());
        let near = |s: &mut Stream, of: &[f64]| *s.pick(of) + 0.01 * (s.uniform() - 0.5);
        let logp: Vec<f64> =
            old_logp_t.iter().zip(draw(&mut |s| near(s, &RATIOS))).map(|(a, b)| a + b).collect();
        self.ref_logp
            .push(logp.iter().zip(draw(&mut |s| near(s, &REF_RATIOS))).map(|(a, b)| a + b).collect());
        self.logp.push(logp);
        self.entropy.push(draw(&mut |s| 3.0 * s.uniform()));
        let corrupted = Corrupted {
            logp_t: draw(&mut |s| -4.0 * s.uniform()),
            kl_t: draw(&mut |s| 2.0 * s.uniform()),
            js_t: draw(&mut |s| 0.6 * s.uniform()),
        };
        let entropy_t = draw(&mut |s| 3.0 * s.uniform());
        self.batch.responses.push(Response {
            item: format!("item {}", i / 4),
            sample: (i % 4) as u32,
            reward: if s.chance(0.5) { 1.0 } else { 0.0 },
            old_logp_t,
            entropy_t,
            corrupted: Some(corrupted),
        });
    }

    fn objectives(&self, algorithm: &Algorithm) -> Vec<Objective> {
        let credits = assign_credit(algorithm, &self.batch);
        let one = |(i, credit): (usize, &Credit)| {
            let current = Current { logp_t: &self.logp[i], entropy_t: &self.entropy[i] };
            objective(
                algorithm,
                credit,
                current,
                &self.batch.responses[i].old_logp_t,
                Some(&self.ref_logp[i]),
            )
        };
        credits.iter().enumerate().map(one).collect()
    }
}

/// The presets, and VPPO with one setting changed for each alternative that the settings offer.
fn variants() -> Vec<(String, Algorithm)> {
    let presets = harness::algo::PRESETS.iter().filter_map(|name| Some((*name, Algorithm::preset(name)?)));
    let mut all: Vec<(String, Algorithm)> = presets.map(|(name, a)| (name.to_string(), a)).collect();
    all.push(("complete example".into(), Algorithm::complete_example()));

    let mut add = |name: String, change: &dyn Fn(&mut Algorithm)| {
        let mut changed = Algorithm::vppo();
        change(&mut changed);
        all.push((name, changed));
    };
    add("no std".into(), &|a| a.advantage.normalise_std = false);
    add("biased std".into(), &|a| a.advantage.unbiased_std = false);
    add("no dual clip".into(), &|a| a.clip.dual = None);
    add("overlong".into(), &|a| {
        a.overlong_penalty = Some(OverlongPenalty { buffer_tokens: 3, factor: 0.5 });
    });
    for aggregation in [Aggregation::Sequence, Aggregation::SequencePerMicroBatch] {
        add(format!("{aggregation:?}"), &|a| a.aggregation = aggregation);
    }
    let perception = |a: &mut Algorithm, change: &dyn Fn(&mut Perception)| {
        a.perception.iter_mut().for_each(change);
    };
    let sampled = Estimator::SampledJensenShannon { log_ratio_clamp: 20.0, value_clamp: None };
    for estimator in [Estimator::FullKl, sampled, Estimator::JensenShannon, Estimator::Top1Drop] {
        add(format!("{estimator:?}"), &|a| perception(a, &|p| p.estimator = estimator.clone()));
    }
    for guide in [Guide::Entropy, Guide::Random] {
        for entropy_of in [PolicyVersion::Old, PolicyVersion::Current] {
            for mask in [Mask::Binary, Mask::Soft] {
                for denominator in [Denominator::AllTokens, Denominator::KeptTokens] {
                    add(format!("{guide:?} {entropy_of:?} {mask:?} {denominator:?}"), &|a| {
                        perception(a, &|p| {
                            p.token_filter.iter_mut().for_each(|f| {
                                (f.guide, f.entropy_of, f.mask, f.denominator) =
                                    (guide, entropy_of, mask, denominator);
                            });
                        });
                    });
                }
            }
        }
    }
    for mask in [Mask::Binary, Mask::Soft] {
        let denominator = Denominator::KeptTokens;
        add(format!("Perception {mask:?} {denominator:?}"), &|a| {
            perception(a, &|p| {
                p.token_filter.iter_mut().for_each(|f| (f.mask, f.denominator) = (mask, denominator));
            });
        });
    }
    for ceiling in [Ceiling::Fixed { value: 1.2 }, Ceiling::Dynamic {}] {
        for applies_to in [ShapingTarget::Advantage, ShapingTarget::Reward] {
            for scope in [Scope::MicroBatch, Scope::MiniBatch, Scope::Batch] {
                add(format!("{ceiling:?} {applies_to:?} {scope:?}"), &|a| {
                    perception(a, &|p| {
                        p.shaping.iter_mut().for_each(|s| {
                            (s.ceiling, s.applies_to) = (ceiling.clone(), applies_to);
                            (s.range_scope, s.ceiling_scope) = (scope, scope);
                        });
                    });
                });
            }
        }
    }
    all
}

/// Whether any setting of the algorithm speaks of micro-batches.
fn depends_on_the_cut(algorithm: &Algorithm) -> bool {
    let shaping = algorithm.perception.as_ref().and_then(|p| p.shaping.as_ref());
    let scoped = shaping.is_some_and(|s| {
        let dynamic = s.ceiling == Ceiling::Dynamic {};
        s.range_scope == Scope::MicroBatch || (dynamic && s.ceiling_scope == Scope::MicroBatch)
    });
    scoped || algorithm.aggregation == Aggregation::SequencePerMicroBatch
}
