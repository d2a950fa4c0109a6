//! The tiny base model: supervised training on the teacher's worked solutions.
//!
//! It stands in for the pre-training of Qwen2.5-VL and gives reinforcement learning something to start from. The
//! teacher errs (settings `world.misread`, `world.slip`), so a model that imitates it well errs as often: the room that
//! reinforcement learning has. Only training questions are used.

use crate::bench::tiny::{FAMILIES, Split, drill, generate, solution, words};
use crate::image::Processor;
use crate::model::checkpoint::{
    CHAT_TEMPLATE, CONFIG, GENERATION, PREPROCESSOR, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS,
};
use crate::model::{AdamW, Grads, Model, Prompt, Tree};
use crate::prompt::{IMAGE_TOKEN, Tokenizer, tiny};
use crate::rng::{Purpose, stream};
use crate::rollout::Policy;
use crate::rollout::Renderer;
use crate::settings::ModelSettings;
use crate::settings::{OptimizerSettings, WarmStart, WorldSettings};
use anyhow::Result;
use rayon::prelude::*;
use serde_json::json;

/// A policy with random weights and everything a checkpoint directory of the hub holds.
pub fn untrained(model: &ModelSettings, instruction: &str, seed: u64) -> Result<Policy> {
    let tokenizer_json = tiny::tokenizer([words()])?;
    let tokenizer = Tokenizer::from_json(&tokenizer_json)?;
    let (end, pad) = (tokenizer.id_of("<|im_end|>")?, tokenizer.id_of("<|endoftext|>")?);
    let network = Model::random(model, tokenizer.vocab_size(), tokenizer.id_of(IMAGE_TOKEN)?, seed)?;
    let template = json!({ "chat_template": tiny::CHAT_TEMPLATE });
    let tokenizer_config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": tiny::CHAT_TEMPLATE,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
    });
    let generation = json!({ "bos_token_id": pad, "eos_token_id": [end, pad], "pad_token_id": pad });
    let files = [
        (CONFIG, network.config().to_json(end, pad)?),
        (TOKENIZER, tokenizer_json),
        (TOKENIZER_CONFIG, serde_json::to_string_pretty(&tokenizer_config)?),
        (CHAT_TEMPLATE, serde_json::to_string_pretty(&template)?),
        (PREPROCESSOR, Processor::for_model(model).to_json()?),
        (GENERATION, serde_json::to_string_pretty(&generation)?),
    ];
    let mut files: Vec<(String, Vec<u8>)> = files.map(|(name, text)| (name.into(), text.into_bytes())).into();
    files.push((WEIGHTS.into(), network.to_bytes()?));
    Policy::from_files(files, instruction, None)
}

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
        let batch: Vec<(Prompt, Vec<u32>)> = (0..lessons.settings.batch)
            .into_par_iter()
            .map(|i| lessons.lesson(step, i))
            .collect::<Result<_>>()?;
        let trees: Vec<Tree<'_>> =
            batch.iter().map(|(prompt, ids)| Tree { prompt, responses: vec![ids.as_slice()] }).collect();
        let forward = self.model.forward(&trees)?;
        let tokens: usize = batch.iter().map(|(_, ids)| ids.len()).sum();
        let dlogp: Vec<Vec<f64>> =
            batch.iter().map(|(_, ids)| vec![-1.0 / tokens as f64; ids.len()]).collect();
        let mut grads = Grads::new(self.model.params());
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
        let (example, text) = if step < self.settings.drill_steps {
            drill(
                &item,
                i / FAMILIES.len() + i % FAMILIES.len(),
                &mut draws,
                1 + (8 * step / self.settings.drill_steps) as usize,
            )
        } else {
            let text = solution(&item, &mut draws, self.world.misread, self.world.slip);
            (item.example, text)
        };
        let mut ids = self.renderer.tokenizer.encode(&text)?;
        ids.extend(self.renderer.end.first());
        Ok((self.renderer.prompt(&example)?, ids))
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
