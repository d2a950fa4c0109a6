//! The tiny base model: supervised training on the teacher's worked solutions.
//!
//! It stands in for the pre-training of Qwen2.5-VL and gives reinforcement learning something to start from. The
//! teacher errs (settings `world.misread`, `world.slip`), so a model that imitates it well errs as often: the room that
//! reinforcement learning has. Only training questions are used.

use crate::bench::tiny::{FAMILIES, Split, generate, solution};
use crate::model::{AdamW, Grads, Model, Prompt, Tree};
use crate::rng::{Purpose, stream};
use crate::rollout::Renderer;
use crate::settings::{OptimizerSettings, WarmStart, WorldSettings};
use anyhow::Result;
use rayon::prelude::*;

/// Optimiser of the warm start; the learning rate follows the schedule.
fn optimizer(settings: &WarmStart) -> OptimizerSettings {
    OptimizerSettings {
        learning_rate: settings.learning_rate,
        beta1: 0.9,
        beta2: 0.98,
        epsilon: 1e-8,
        weight_decay: 0.01,
        max_grad_norm: 1.0,
    }
}

/// Lessons for a model: the n-th lesson is the same whatever was interrupted or resumed before it.
pub struct Lessons<'a> {
    /// The questions.
    pub world: &'a WorldSettings,
    /// The course.
    pub settings: &'a WarmStart,
    /// How questions become prompts.
    pub renderer: &'a Renderer,
}

/// A warm start in progress.
pub struct Apprentice {
    /// The model as it stands.
    pub model: Model,
    optimizer: AdamW,
}

impl Apprentice {
    /// A model that has had no lesson.
    pub fn new(model: Model, settings: &WarmStart) -> Result<Self> {
        let optimizer = AdamW::new(model.params(), optimizer(settings))?;
        Ok(Self { model, optimizer })
    }

    /// State from [`Apprentice::state`], in place of a fresh one.
    pub fn restore(mut self, weights: &[u8], state: &[u8], settings: &WarmStart) -> Result<Self> {
        self.model.replace_weights(weights)?;
        self.optimizer = AdamW::from_bytes(&self.model, optimizer(settings), state)?;
        Ok(self)
    }

    /// Weights and optimiser state.
    pub fn state(&self) -> Result<(Vec<u8>, Vec<u8>)> {
        Ok((self.model.to_bytes()?, self.optimizer.to_bytes()?))
    }

    /// Updates made so far.
    pub fn step(&self) -> u64 {
        self.optimizer.updates()
    }

    /// One update on a batch of worked solutions; returns the mean negative log-likelihood per token, in nats.
    pub fn learn(&mut self, lessons: &Lessons<'_>) -> Result<f64> {
        let step = self.step();
        let batch: Vec<(Prompt, Vec<u32>)> =
            (0..lessons.settings.batch).into_par_iter().map(|i| lessons.lesson(step, i)).collect::<Result<_>>()?;
        let trees: Vec<Tree<'_>> =
            batch.iter().map(|(prompt, ids)| Tree { prompt, responses: vec![ids.as_slice()] }).collect();
        let forward = self.model.forward(&trees)?;
        let tokens: usize = batch.iter().map(|(_, ids)| ids.len()).sum();
        let dlogp: Vec<Vec<f64>> = batch.iter().map(|(_, ids)| vec![-1.0 / tokens as f64; ids.len()]).collect();
        let mut grads = Grads::new(self.model.params().len());
        self.model.backward(&forward, &dlogp, &mut grads)?;
        self.optimizer.set_learning_rate(learning_rate(lessons.settings, step));
        self.optimizer.step(self.model.params_mut(), &grads)?;
        Ok(-forward.scores.logp.iter().flatten().map(|&l| f64::from(l)).sum::<f64>() / tokens as f64)
    }
}

impl Lessons<'_> {
    /// The `i`-th lesson of an update: prompt and worked solution with the end token.
    fn lesson(&self, step: u64, i: usize) -> Result<(Prompt, Vec<u32>)> {
        let mut draws = stream(self.settings.seed, Purpose::WarmStart, &[step.into(), i.into()]);
        let index = draws.below(self.world.train_items);
        let item = generate(self.world.seed, Split::Train, i % FAMILIES.len(), index);
        let text = solution(&item, &mut draws, self.world.misread, self.world.slip);
        let mut ids = self.renderer.tokenizer.encode(&text)?;
        ids.extend(self.renderer.end.first());
        Ok((self.renderer.prompt(&item.example)?, ids))
    }
}

/// Linear warm-up, then a cosine from the peak to a tenth of it.
fn learning_rate(settings: &WarmStart, step: u64) -> f64 {
    let peak = settings.learning_rate;
    if step < settings.warmup_steps {
        return peak * (step + 1) as f64 / settings.warmup_steps as f64;
    }
    let span = settings.steps.saturating_sub(settings.warmup_steps).max(1) as f64;
    let passed = (step - settings.warmup_steps) as f64 / span;
    peak * (0.55 + 0.45 * libm::cos(std::f64::consts::PI * passed.min(1.0)))
}
