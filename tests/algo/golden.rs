//! The reference's own `update_policy`, run on random numbers: advantages, derivatives and metrics must agree.
//! `HARNESS_EXTRA_GOLDEN` may name a folder with further `policy_gradient*.json`.

use harness::algo::{
    Aggregation, Algorithm, Batch, Corrupted, Credit, Current, EntropyPenalty, KlPenalty, Objective,
    Perception, Response, assign_credit, objective,
};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct File {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    group_size: usize,
    rewards: Vec<f64>,
    settings: Settings,
    logp: Vec<Vec<f64>>,
    old_logp: Vec<Vec<f64>>,
    aug_logp: Vec<Vec<f64>>,
    ref_logp: Vec<Vec<f64>>,
    advantage: Vec<f64>,
    dloss_dlogp: Vec<Vec<Vec<f64>>>,
    metrics: BTreeMap<String, Vec<f64>>,
}

/// The reference's flags, by the reference's names.
#[derive(Deserialize)]
struct Settings {
    clip_ratio_low: f64,
    clip_ratio_high: f64,
    clip_ratio_dual: f64,
    loss_avg_mode: String,
    kl_coef: Option<f64>,
    advantage_eps: f64,
    micro_batch_responses: usize,
    mini_batch_responses: usize,
    #[serde(default)]
    use_vppo_on_perception: bool,
    top_p_perception_tokens: Option<f64>,
    #[serde(default)]
    use_advantage_shaping: bool,
    advantage_scaling_min: Option<f64>,
    #[serde(default)]
    use_entropy_penalty: bool,
    entropy_penalty_coef: Option<f64>,
}

impl Case {
    fn algorithm(&self) -> Algorithm {
        let settings = &self.settings;
        let mut algorithm = Algorithm::dapo();
        algorithm.advantage.epsilon = settings.advantage_eps;
        algorithm.clip.low = settings.clip_ratio_low;
        algorithm.clip.high = settings.clip_ratio_high;
        algorithm.clip.dual = Some(settings.clip_ratio_dual);
        algorithm.aggregation = match settings.loss_avg_mode.as_str() {
            "token" => Aggregation::Token,
            "seq" => Aggregation::SequencePerMicroBatch,
            mode => panic!("{}: unknown loss_avg_mode {mode}", self.name),
        };
        algorithm.kl = settings.kl_coef.map(|coef| KlPenalty { coef });
        let coef = settings.entropy_penalty_coef.filter(|_| settings.use_entropy_penalty);
        algorithm.entropy_penalty = coef.map(|coef| EntropyPenalty { coef });
        algorithm.perception = settings.use_vppo_on_perception.then(|| self.perception());
        algorithm
    }

    fn perception(&self) -> Perception {
        let mut perception = Perception::vppo();
        let fraction = self.settings.top_p_perception_tokens.expect("top_p_perception_tokens");
        perception.token_filter.iter_mut().for_each(|filter| filter.fraction = fraction);
        perception.shaping = perception.shaping.filter(|_| self.settings.use_advantage_shaping);
        if let Some(shaping) = &mut perception.shaping {
            shaping.floor = self.settings.advantage_scaling_min.expect("advantage_scaling_min");
        }
        perception
    }

    fn batch(&self) -> Batch {
        let response = |i: usize| Response {
            item: (i / self.group_size).to_string(),
            sample: (i % self.group_size) as u32,
            reward: self.rewards[i],
            old_logp_t: self.old_logp[i].clone(),
            entropy_t: Vec::new(),
            corrupted: Some(Corrupted { logp_t: self.aug_logp[i].clone(), ..Corrupted::default() }),
        };
        Batch {
            responses: (0..self.rewards.len()).map(response).collect(),
            group_size: self.group_size,
            mini_batch_responses: self.settings.mini_batch_responses,
            micro_batch_responses: self.settings.micro_batch_responses,
            ..Batch::default()
        }
    }

    fn check(&self) {
        let (algorithm, batch) = (self.algorithm(), self.batch());
        algorithm.check().expect("a valid algorithm");
        batch.check(&algorithm).expect("a valid batch");
        let credits = assign_credit(&algorithm, &batch);
        let advantages: Vec<f64> = credits.iter().map(|credit| credit.advantage).collect();
        agree(&advantages, &self.advantage, 1e-8, || format!("{}: advantages", self.name));

        let objective_of = |(i, credit): (usize, &Credit)| {
            let current = Current { logp_t: &self.logp[i], entropy_t: &[] };
            objective(&algorithm, credit, current, &self.old_logp[i], Some(&self.ref_logp[i]))
        };
        let objectives: Vec<Objective> = credits.iter().enumerate().map(objective_of).collect();
        let tolerance = if self.settings.kl_coef.is_some() { 1e-6 } else { 1e-8 };
        let expected: Vec<&Vec<f64>> = self.dloss_dlogp.iter().flatten().collect();
        assert_eq!(objectives.len(), expected.len(), "{}: rows", self.name);
        for (i, (got, want)) in objectives.iter().zip(expected).enumerate() {
            agree(&got.dloss_dlogp_t, want, tolerance, || {
                format!("{}: derivative of response {i}", self.name)
            });
        }
        self.check_metrics(&credits, &objectives);
    }

    fn check_metrics(&self, credits: &[Credit], objectives: &[Objective]) {
        let mut got: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        let (mini, micro) = (self.settings.mini_batch_responses, self.settings.micro_batch_responses);
        for (credits, objectives) in credits.chunks(mini).zip(objectives.chunks(mini)) {
            let tokens = sum(objectives, |o| o.metrics.tokens);
            for (credits, objectives) in credits.chunks(micro).zip(objectives.chunks(micro)) {
                for (name, value) in self.micro_batch_metrics(tokens, credits, objectives) {
                    got.entry(name).or_default().push(value);
                }
            }
        }
        for (name, got) in got {
            let Some(want) = self.metrics.get(&format!("actor/{name}")) else { continue };
            let got = &got[got.len() - want.len()..]; // the reference keeps only the last value of some
            agree(got, want, 1e-6, || format!("{}: metric {name}", self.name));
        }
    }

    /// The reference's metrics that this harness also knows, of one micro-batch.
    fn micro_batch_metrics(
        &self,
        mini_tokens: f64,
        credits: &[Credit],
        o: &[Objective],
    ) -> Vec<(&'static str, f64)> {
        let tokens = sum(o, |o| o.metrics.tokens);
        let n = credits.len() as f64;
        let mut metrics = vec![
            ("pg_loss", sum(o, |o| o.metrics.policy_loss) * mini_tokens / tokens),
            ("kl_loss", sum(o, |o| o.metrics.kl_loss) * mini_tokens / tokens),
            ("ppo_kl", sum(o, |o| o.metrics.approx_kl) / tokens),
            ("pg_clipfrac_higher", sum(o, |o| o.metrics.clipped_high + o.metrics.clipped_low) / tokens),
            ("pg_clipfrac_lower", sum(o, |o| o.metrics.clipped_dual) / tokens),
            ("perception_token_fraction", sum(o, |o| o.metrics.kept_tokens) / tokens),
            ("scaling_factor_mean", sum(credits, |c| c.factor) / n),
            ("sensitivity_score_mean", sum(credits, |c| c.dependency.unwrap_or(0.0)) / n),
        ];
        if self.settings.loss_avg_mode == "token" {
            metrics.push(("entropy_loss", sum(o, |o| o.metrics.entropy_loss) * mini_tokens / tokens));
        }
        metrics
    }
}

fn sum<T>(items: &[T], f: impl Fn(&T) -> f64) -> f64 {
    items.iter().map(f).sum()
}

/// Equal up to `tolerance` times the largest expected magnitude.
fn agree(got: &[f64], want: &[f64], tolerance: f64, what: impl Fn() -> String) {
    assert_eq!(got.len(), want.len(), "{}", what());
    let scale = want.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance * scale + 1e-15, "{}, entry {i}: {g} for {w}", what());
    }
}

fn check_file(path: &Path) -> usize {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file: File = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    file.cases.iter().for_each(Case::check);
    file.cases.len()
}

fn is_policy_gradient(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with("policy_gradient") && name.ends_with(".json")
}

#[test]
fn golden_policy_gradients_agree_with_the_reference() {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/algo/policy_gradient.json");
    assert_eq!(check_file(Path::new(own)), 33);
}

#[test]
fn golden_policy_gradients_of_the_extra_folder_agree_too() {
    let Some(folder) = std::env::var_os("HARNESS_EXTRA_GOLDEN") else { return };
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("HARNESS_EXTRA_GOLDEN {folder:?}: {e}"));
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| is_policy_gradient(path));
    files.sort();
    files.iter().for_each(|path| assert!(check_file(path) > 0, "{}: no cases", path.display()));
}
