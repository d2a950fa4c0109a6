//! Ranges: what the types cannot say. All violations are reported together.

use super::layer::Origins;
use super::{Origin, Presets, RunConfig};
use crate::settings::{
    Attention, CheckpointSettings, ComputeSettings, DataSettings, Device, Dtype, ModelSettings,
    OptimizerState, Protocol, Sampling, WarmStart, WorldSettings,
};
use anyhow::{Result, ensure};
use serde::Serialize;

/// Side in pixels of one square of the picture that becomes one token (14-pixel patches, merged 2 by 2).
const TOKEN_PIXELS: usize = 28;

struct Checks<'a> {
    origins: &'a Origins,
    problems: Vec<String>,
}

impl Checks<'_> {
    /// Notes a problem with `key` unless `ok`; `rule` says what it must be.
    fn require<T: Serialize>(&mut self, ok: bool, key: &str, value: T, rule: &str) {
        if !ok {
            let value = serde_json::to_string(&value).unwrap_or_default();
            self.problems.push(format!("`{key}` = {value}{}: {rule}", self.origins.shown(key)));
        }
    }

    fn positive(&mut self, key: &str, value: u64) {
        self.require(value >= 1, key, value, "must be 1 or more");
    }

    fn positive_number(&mut self, key: &str, value: f64) {
        self.require(value > 0.0, key, value, "must be greater than 0");
    }

    fn probability(&mut self, key: &str, value: f64) {
        self.require((0.0..=1.0).contains(&value), key, value, "is a probability: must be from 0 to 1");
    }

    /// Fails with all problems noted.
    fn finish(self) -> Result<()> {
        ensure!(self.problems.is_empty(), "settings out of range:\n  {}", self.problems.join("\n  "));
        Ok(())
    }
}

/// Fails with all settings that are out of range.
pub(super) fn check<A: Presets>(config: &RunConfig<A>, origins: &Origins) -> Result<()> {
    let mut checks = Checks { origins, problems: Vec::new() };
    check_model(&config.model, &mut checks);
    check_vision(&config.model, &mut checks);
    check_origin(config, &mut checks);
    check_train(config, &mut checks);
    check_optimizer(config, &mut checks);
    check_compute(&config.compute, &mut checks);
    check_sampling(config, &mut checks);
    if let Some(Err(problem)) = config.algorithm.as_ref().map(A::check) {
        checks.problems.push(format!("algorithm.{problem}"));
    }
    checks.finish()
}

fn check_model(model: &ModelSettings, checks: &mut Checks<'_>) {
    checks.positive("model.hidden_size", model.hidden_size as u64);
    checks.positive("model.intermediate_size", model.intermediate_size as u64);
    checks.positive("model.layers", model.layers as u64);
    checks.positive("model.heads", model.heads as u64);
    checks.positive("model.kv_heads", model.kv_heads as u64);
    checks.positive_number("model.rope_theta", model.rope_theta);
    let (width, heads) = (model.hidden_size, model.heads.max(1));
    checks.require(
        width % heads == 0,
        "model.heads",
        heads,
        &format!("must divide model.hidden_size ({width})"),
    );
    let shared = heads % model.kv_heads.max(1) == 0;
    checks.require(shared, "model.kv_heads", model.kv_heads, &format!("must divide model.heads ({heads})"));
    let sections = model.mrope_section;
    let half = width / heads / 2;
    let fits = width % heads != 0 || 2 * sections.iter().sum::<usize>() == width / heads;
    let rule = format!("must sum to half the head size ({half} = hidden_size / heads / 2)");
    checks.require(fits, "model.mrope_section", sections, &rule);
}

fn check_vision(model: &ModelSettings, checks: &mut Checks<'_>) {
    checks.positive("model.vision_hidden_size", model.vision_hidden_size as u64);
    checks.positive("model.vision_intermediate_size", model.vision_intermediate_size as u64);
    checks.positive("model.vision_depth", model.vision_depth as u64);
    checks.positive("model.vision_heads", model.vision_heads as u64);
    let (width, heads) = (model.vision_hidden_size, model.vision_heads.max(1));
    let rule = format!(
        "must split model.vision_hidden_size ({width}) into heads of a multiple of 4 (rows, columns)"
    );
    checks.require(width % (4 * heads) == 0, "model.vision_heads", heads, &rule);
    let blocks = &model.vision_full_attention_blocks;
    let rule = format!("blocks are counted from 0 and model.vision_depth is {}", model.vision_depth);
    let known = blocks.iter().all(|&block| block < model.vision_depth);
    checks.require(known, "model.vision_full_attention_blocks", blocks, &rule);
    let window = model.vision_window_pixels;
    let whole = window > 0 && window.is_multiple_of(TOKEN_PIXELS);
    checks.require(whole, "model.vision_window_pixels", window, "must be a positive multiple of 28");
    let (min, max) = (model.min_pixels, model.max_pixels);
    let smallest = TOKEN_PIXELS * TOKEN_PIXELS;
    checks.require(min >= smallest, "model.min_pixels", min, "must be 784 (one 28 x 28 square) or more");
    checks.require(min <= max, "model.max_pixels", max, &format!("must be model.min_pixels ({min}) or more"));
}

fn check_origin<A: Presets>(config: &RunConfig<A>, checks: &mut Checks<'_>) {
    match config.origin() {
        Ok(Origin::Made { world, warm_start }) => {
            check_world(world, checks);
            check_warm_start(warm_start, checks);
        }
        Ok(Origin::Hub { checkpoint, data }) => {
            check_checkpoint(checkpoint, checks);
            check_data(data, checks);
        }
        Err(problem) => checks.problems.push(problem.to_string()),
    }
}

fn check_world(world: &WorldSettings, checks: &mut Checks<'_>) {
    checks.positive("world.train_items", world.train_items as u64);
    checks.positive("world.eval_items", world.eval_items as u64);
    checks.probability("world.misread", world.misread);
    checks.probability("world.slip", world.slip);
}

fn check_warm_start(warm: &WarmStart, checks: &mut Checks<'_>) {
    checks.positive("warm_start.batch", warm.batch as u64);
    checks.positive_number("warm_start.learning_rate", warm.learning_rate);
    let rule = format!("must be warm_start.steps ({}) or less", warm.steps);
    checks.require(warm.warmup_steps <= warm.steps, "warm_start.warmup_steps", warm.warmup_steps, &rule);
    checks.require(warm.drill_steps <= warm.steps, "warm_start.drill_steps", warm.drill_steps, &rule);
}

fn check_checkpoint(checkpoint: &CheckpointSettings, checks: &mut Checks<'_>) {
    let parts: Vec<&str> = checkpoint.repo.split('/').collect();
    let named = parts.len() == 2 && parts.iter().all(|part| !part.is_empty());
    checks.require(named, "checkpoint.repo", &checkpoint.repo, "must be a repository, owner/name");
    checks.positive("checkpoint.vocab_size", checkpoint.vocab_size as u64);
}

/// Fails where the settings of `[compute]` contradict each other.
pub fn consistent_compute(compute: &ComputeSettings) -> Result<()> {
    let mut checks = Checks { origins: &Origins::default(), problems: Vec::new() };
    check_compute(compute, &mut checks);
    checks.finish()
}

fn check_compute(compute: &ComputeSettings, checks: &mut Checks<'_>) {
    let ComputeSettings { device, dtype, gradient_dtype, optimizer_state, attention, .. } = *compute;
    if device == Device::Cpu {
        let rule = "must be \"f32\" where compute.device is \"cpu\"";
        checks.require(dtype == Dtype::F32, "compute.dtype", dtype, rule);
        checks.require(gradient_dtype == Dtype::F32, "compute.gradient_dtype", gradient_dtype, rule);
        checks.require(
            optimizer_state == OptimizerState::F32,
            "compute.optimizer_state",
            optimizer_state,
            rule,
        );
    }
    if dtype == Dtype::F32 {
        let rule = "must be \"f32\" where compute.dtype is \"f32\"";
        checks.require(
            optimizer_state == OptimizerState::F32,
            "compute.optimizer_state",
            optimizer_state,
            rule,
        );
        checks.require(gradient_dtype == Dtype::F32, "compute.gradient_dtype", gradient_dtype, rule);
    }
    let flash = device == Device::Cuda && dtype == Dtype::Bf16;
    let rule = "needs compute.device = \"cuda\" and compute.dtype = \"bf16\"; \"own\" runs everywhere";
    checks.require(attention == Attention::Own || flash, "compute.attention", attention, rule);
}

fn check_data(data: &DataSettings, checks: &mut Checks<'_>) {
    let rule = "must name one benchmark or more";
    checks.require(!data.benchmarks.is_empty(), "data.benchmarks", &data.benchmarks, rule);
    checks.positive("data.max_prompt_tokens", data.max_prompt_tokens as u64);
}

fn check_train<A>(config: &RunConfig<A>, checks: &mut Checks<'_>) {
    let train = &config.train;
    checks.positive("train.steps", train.steps);
    checks.positive("train.prompts_per_step", train.prompts_per_step as u64);
    let rule = "must be 2 or more: advantages compare the responses to one prompt";
    checks.require(train.group_size >= 2, "train.group_size", train.group_size, rule);
    let mini = train.mini_batch_prompts;
    let divides = mini >= 1 && train.prompts_per_step.is_multiple_of(mini);
    let rule = format!("must divide train.prompts_per_step ({})", train.prompts_per_step);
    checks.require(divides, "train.mini_batch_prompts", mini, &rule);
    checks.positive("train.micro_batch_responses", train.micro_batch_responses as u64);
    checks.positive("train.refill_prompts", train.refill_prompts as u64);
    checks.positive("train.checkpoint_every", train.checkpoint_every);
}

fn check_optimizer<A>(config: &RunConfig<A>, checks: &mut Checks<'_>) {
    let optimizer = &config.optimizer;
    checks.positive_number("optimizer.learning_rate", optimizer.learning_rate);
    checks.positive_number("optimizer.epsilon", optimizer.epsilon);
    for (key, beta) in [("optimizer.beta1", optimizer.beta1), ("optimizer.beta2", optimizer.beta2)] {
        checks.require((0.0..1.0).contains(&beta), key, beta, "must be 0 or more and less than 1");
    }
    let decay = optimizer.weight_decay;
    checks.require(decay >= 0.0, "optimizer.weight_decay", decay, "must be 0 or more");
    let norm = optimizer.max_grad_norm;
    checks.require(norm >= 0.0, "optimizer.max_grad_norm", norm, "must be 0 (no clipping) or more");
}

fn check_sampling<A>(config: &RunConfig<A>, checks: &mut Checks<'_>) {
    one_sampling("sampling", &config.sampling, checks);
    one_sampling("eval.sampling", &config.eval.sampling, checks);
    let rule = "must be greater than 0: greedy responses to one prompt are all the same";
    let temperature = config.sampling.temperature;
    checks.require(temperature > 0.0, "sampling.temperature", temperature, rule);
    checks.positive("eval.samples", config.eval.samples.into());
    checks.positive("eval.batch", config.eval.batch as u64);
    let varied = config.eval.sampling.temperature > 0.0 || config.eval.samples <= 1;
    if let Some(protocol) = config.eval.protocol {
        let longest = config.sampling.max_new_tokens;
        let same_length = protocol != Protocol::Paper || config.eval.sampling.max_new_tokens == longest;
        let rule = format!(
            "stands for [{}]{}, and other settings of [eval] were asked for; \"own\" is the name of any \
             (--protocol own)",
            protocol.settings().join(", "),
            if protocol == Protocol::Paper {
                ", 2048 or 4096 new tokens as in training, no pictures"
            } else {
                ""
            },
        );
        let followed = protocol.is_followed_by(&config.eval) && same_length;
        checks.require(followed, "eval.protocol", protocol, &rule);
    }
    if let Some(range) = config.eval.pictures {
        let rule = format!("must be eval.pictures.min_pixels ({}) or more", range.min_pixels);
        let fits = 0 < range.min_pixels && range.min_pixels <= range.max_pixels;
        checks.require(fits, "eval.pictures.max_pixels", range.max_pixels, &rule);
    }
    let rule = "must be 1 where eval.sampling.temperature is 0: greedy samples are all the same";
    checks.require(varied, "eval.samples", config.eval.samples, rule);
}

fn one_sampling(section: &str, sampling: &Sampling, checks: &mut Checks<'_>) {
    let temperature = sampling.temperature;
    let rule = "must be 0 (greedy) or more";
    checks.require(temperature >= 0.0, &format!("{section}.temperature"), temperature, rule);
    let mass = sampling.top_p;
    let rule = "must be greater than 0 and at most 1 (the whole vocabulary)";
    checks.require(mass > 0.0 && mass <= 1.0, &format!("{section}.top_p"), mass, rule);
    checks.positive(&format!("{section}.max_new_tokens"), sampling.max_new_tokens as u64);
}
