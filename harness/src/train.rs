//! The reinforcement-learning loop: rollout, filter, credit, update. It does not know which algorithm runs.
//!
//! Source: EasyR1's `ray_trainer.py` and `dp_actor.py` as the reference uses them: groups are drawn until a step is
//! full, the surplus is thrown away; old and corrupted log-probabilities are computed once per step and kept for all of
//! its updates. Deviation, a setting: `old_logp = "rollout"` keeps the sampler's log-probabilities (of the full
//! softmax) where the reference computes them again.

mod record;
mod update;

use crate::algo::{Algorithm, keep_group};
use crate::model::AdamW;
use crate::progress::Progress;
use crate::rng::{Purpose, stream};
use crate::rollout::{Group, Policy};
use crate::settings::{OptimizerSettings, Sampling, TrainSettings};
use crate::types::{Example, Outcome, RolloutLine, StopReason};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;

/// After this many draws for one step, and every time so many are added, the user is told.
const TOLD_DRAWS: usize = 10;

/// Named figures of one step, all deterministic.
pub type Figures = BTreeMap<String, f64>;

/// Training questions by number.
pub trait TrainingData: Sync {
    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The question with this number, `0 .. len`.
    fn example(&self, index: usize) -> Result<Example>;
}

/// The settings of a training run.
#[derive(Clone, Copy, Debug)]
pub struct Recipe<'a> {
    /// What to optimise.
    pub algorithm: &'a Algorithm,
    /// The loop.
    pub train: &'a TrainSettings,
    /// Sampling of rollouts.
    pub sampling: &'a Sampling,
    /// The optimiser.
    pub optimizer: &'a OptimizerSettings,
    /// Seed of every draw.
    pub seed: u64,
}

/// Where a run stands, apart from weights and optimiser state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Finished steps.
    pub step: u64,
    /// Training questions drawn so far, over all epochs.
    pub drawn: u64,
}

/// A run in progress.
pub struct Trainer<'a> {
    recipe: Recipe<'a>,
    data: &'a dyn TrainingData,
    policy: Policy,
    /// Frozen copy of the initial policy, where the algorithm asks for one.
    reference: Option<Policy>,
    optimizer: AdamW,
    position: Position,
}

/// Names of a checkpoint's files.
const WEIGHTS: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const POSITION: &str = "position.json";

impl<'a> Trainer<'a> {
    /// A fresh run from the base policy.
    pub fn new(recipe: Recipe<'a>, data: &'a dyn TrainingData, base: Policy) -> Result<Self> {
        let (policy, reference) = Self::start(&recipe, data, base)?;
        let optimizer = AdamW::new(policy.model.params(), recipe.optimizer.clone())?;
        Ok(Self { recipe, data, policy, reference, optimizer, position: Position::default() })
    }

    /// The policy, and a frozen copy of it where one is needed.
    fn start(recipe: &Recipe<'_>, data: &dyn TrainingData, base: Policy) -> Result<(Policy, Option<Policy>)> {
        ensure!(!data.is_empty(), "there are no training questions");
        let reference = recipe.algorithm.needs_reference().then(|| base.clone());
        Ok((base, reference))
    }

    /// A run that goes on from a checkpoint's files; `base` is the policy it started from.
    pub fn resume(
        recipe: Recipe<'a>,
        data: &'a dyn TrainingData,
        base: Policy,
        files: &[(String, Vec<u8>)],
    ) -> Result<Self> {
        let file = |name: &str| {
            let found = files.iter().find(|(n, _)| n == name);
            found
                .map(|(_, bytes)| bytes.as_slice())
                .with_context(|| format!("the checkpoint has no file {name}"))
        };
        let (mut policy, reference) = Self::start(&recipe, data, base)?;
        policy.model.replace_weights(file(WEIGHTS)?)?;
        let optimizer = AdamW::from_bytes(&policy.model, recipe.optimizer.clone(), file(OPTIMIZER)?)?;
        let position =
            serde_json::from_slice(file(POSITION)?).with_context(|| format!("checkpoint: {POSITION}"))?;
        Ok(Self { recipe, data, policy, reference, optimizer, position })
    }

    /// The files of a checkpoint at the current position.
    pub fn checkpoint(&self) -> Result<Vec<(String, Vec<u8>)>> {
        Ok(vec![
            (WEIGHTS.into(), self.policy.model.to_bytes()?),
            (OPTIMIZER.into(), self.optimizer.to_bytes()?),
            (POSITION.into(), serde_json::to_vec(&self.position)?),
        ])
    }

    /// Finished steps.
    pub fn step(&self) -> u64 {
        self.position.step
    }

    /// The policy as it stands.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// One step: fills a rollout batch, updates the policy, returns the step's figures, and its rollouts where the settings
    /// ask for them.
    ///
    /// # Errors
    /// [`crate::progress::Interrupted`] if the user asked to stop before the batch was full: the step is then not begun.
    pub fn run_step(&mut self, progress: &dyn Progress) -> Result<(Figures, Option<Vec<RolloutLine>>)> {
        let mut figures = Figures::new();
        let (groups, drawn) = self.collect(&mut figures, progress)?;
        let step = self.position.step + 1;
        let every = self.recipe.train.record_every;
        let kept = every > 0 && (step == 1 || step.is_multiple_of(every));
        let rollouts = kept.then(|| self.record(&groups)).transpose()?;
        self.update(&groups, &mut figures)?;
        self.position = Position { step, drawn };
        Ok((figures, rollouts))
    }

    /// Draws groups until enough pass the algorithm's filter; the surplus is thrown away.
    fn collect(&self, figures: &mut Figures, progress: &dyn Progress) -> Result<(Vec<Group>, u64)> {
        let TrainSettings { prompts_per_step, refill_prompts, max_refills, group_size, .. } =
            *self.recipe.train;
        let (mut kept, mut drawn, mut draws) = (vec![], self.position.drawn, 0);
        let mut all = Tally::default();
        let stop = || progress.stop_requested();
        while kept.len() < prompts_per_step && (max_refills == 0 || draws < max_refills) {
            let examples = self.questions(drawn..drawn + refill_prompts as u64)?;
            let step = self.position.step;
            let rules = self.policy.rules(group_size, self.recipe.sampling, &stop);
            let groups = self.policy.sample_all(examples, &rules, |example, sample| {
                // A question can come twice in a step where a new epoch begins; its place keeps the draws apart.
                stream(
                    self.recipe.seed,
                    Purpose::Rollout,
                    &[step.into(), draws.into(), (&example.id).into(), sample.into()],
                )
            })?;
            drawn += refill_prompts as u64;
            draws += 1;
            all.add(&groups);
            kept.extend(groups.into_iter().filter(|g| keep_group(self.recipe.algorithm, &g.rewards_g())));
            if draws % TOLD_DRAWS == 0 {
                progress.note(&format!(
                    "step {}: {} of {prompts_per_step} groups kept after {draws} draws of {refill_prompts} prompts",
                    step + 1,
                    kept.len()
                ));
            }
        }
        ensure!(
            !kept.is_empty(),
            "after {draws} draws no group has both right and wrong answers: train.max_refills is reached and there is \
             nothing to learn from"
        );
        let passed = kept.len();
        kept.truncate(prompts_per_step);
        // With a refill limit a step can be short; whole mini-batches keep the optimiser's scale.
        let mini = self.recipe.train.mini_batch_prompts.min(kept.len());
        kept.truncate(kept.len() / mini * mini);
        all.write(figures);
        figures.insert("draws".into(), draws as f64);
        figures.insert("kept_groups_frac".into(), passed as f64 / all.groups);
        figures.insert("train_groups".into(), kept.len() as f64);
        Ok((kept, drawn))
    }

    /// Training questions by their number since the start: every epoch has its own order, the same for all arms.
    fn questions(&self, numbers: Range<u64>) -> Result<Vec<Example>> {
        let len = self.data.len() as u64;
        let mut orders = BTreeMap::new();
        numbers
            .map(|n| {
                let order = orders.entry(n / len).or_insert_with_key(|epoch| {
                    let mut order: Vec<usize> = (0..self.data.len()).collect();
                    stream(self.recipe.seed, Purpose::DataOrder, &[(*epoch).into()]).shuffle(&mut order);
                    order
                });
                self.data.example(order[(n % len) as usize])
            })
            .collect()
    }
}

/// Sums over all completions that were sampled, kept or not.
#[derive(Default)]
struct Tally {
    groups: f64,
    completions: f64,
    outcomes: BTreeMap<Outcome, f64>,
    truncated: f64,
    tokens: f64,
    entropy: f64,
}

impl Tally {
    fn add(&mut self, groups: &[Group]) {
        self.groups += groups.len() as f64;
        for sample in groups.iter().flat_map(|g| &g.samples) {
            self.completions += 1.0;
            *self.outcomes.entry(sample.outcome).or_default() += 1.0;
            self.truncated += f64::from(u8::from(sample.completion.stop == StopReason::Length));
            self.tokens += sample.completion.ids.len() as f64;
            self.entropy += sample.completion.entropy.iter().map(|&e| f64::from(e)).sum::<f64>();
        }
    }

    fn write(&self, figures: &mut Figures) {
        for outcome in Outcome::ALL {
            let count = self.outcomes.get(&outcome).copied().unwrap_or(0.0);
            figures.insert(format!("{}_frac", outcome.name()), count / self.completions);
        }
        figures.insert("length_limit_frac".into(), self.truncated / self.completions);
        figures.insert("response_tokens_mean".into(), self.tokens / self.completions);
        figures.insert("entropy".into(), self.entropy / self.tokens);
        figures.insert("sampled_tokens".into(), self.tokens);
    }
}
