//! One step of reinforcement learning on random tokens and pictures, timed phase by phase.
//!
//! Lengths are exact: nothing ends early and nothing is drawn again, so that two programs or two commits do the same
//! work. It knows no algorithm: the derivative of the loss is random. One round warms up and is not counted. Source of
//! shapes and phases: the step in PyTorch that it is run beside, which computes every response with a prompt of its
//! own. Here a prompt is computed once for its group; under one corrupted picture per response it cannot be. Pictures
//! are corrupted outside the timed part, as there.

use crate::cost::Lengths;
use crate::cost::flops::{self, Sequences, Vision};
use crate::cost::memory::{Load, Training, Turn};
use crate::cost::time::decode_bytes;
use crate::image::Patches;
use crate::model::checkpoint::PictureMarks;
use crate::model::config::VlConfig;
use crate::model::machine::wait_for;
use crate::model::{AdamW, DecodeRules, Grads, Model, Prompt, Tree};
use crate::rng::{At, Purpose, Stream, stream};
use crate::settings::{
    ComputeSettings, CorruptionScope, DecodeLimits, ModelSettings, OptimizerSettings, PixelRange, Sampling,
};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// Text tokens are drawn from here on; those before stand for padding and ends in many vocabularies.
const FIRST_TOKEN: usize = 3;
/// Text tokens are drawn below this id.
const LAST_TOKEN: usize = 1000;
/// Pixels of a patch.
const PATCH_PIXELS: usize = 14 * 14;
/// Values of a patch: 3 channels x 2 frames x pixels.
const PATCH_VALUES: usize = 3 * 2 * PATCH_PIXELS;
/// Patches along a side of a visual token.
const MERGE: usize = 2;
/// Seed of every draw.
const SEED: u64 = 0;

/// A part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Sampling of all responses.
    Rollout,
    /// Log-probabilities of all responses.
    Score,
    /// The same under corrupted pictures.
    Corrupt,
    /// Forward and backward pass over all micro-batches, clipping, optimiser.
    Update,
}

impl Phase {
    /// All of them, in the order in which they run.
    pub const ALL: [Phase; 4] = [Phase::Rollout, Phase::Score, Phase::Corrupt, Phase::Update];

    /// Its name in tables and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Rollout => "rollout",
            Phase::Score => "score",
            Phase::Corrupt => "corrupt",
            Phase::Update => "update",
        }
    }
}

/// What a step consists of.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Prompts.
    pub prompts: usize,
    /// Responses per prompt.
    pub group: usize,
    /// Patches of a prompt's picture: rows, columns.
    pub grid: [usize; 2],
    /// Tokens of a prompt besides those of its picture and the mark after it.
    pub prompt_tokens: usize,
    /// Tokens of a response.
    pub response_tokens: usize,
    /// Responses per pass of scoring and updating.
    pub micro: usize,
    /// One corrupted picture per response or per group.
    pub corrupted: CorruptionScope,
    /// What is timed, in this order.
    pub phases: Vec<Phase>,
}

impl Shape {
    fn check(&self) -> Result<()> {
        for (name, size) in [
            ("prompts", self.prompts),
            ("group", self.group),
            ("prompt-tokens", self.prompt_tokens),
            ("response-tokens", self.response_tokens),
            ("micro", self.micro),
        ] {
            ensure!(size > 0, "{name} is 0: give at least 1");
        }
        let [rows, columns] = self.grid;
        ensure!(
            rows > 0 && columns > 0 && rows % MERGE == 0 && columns % MERGE == 0,
            "a grid of {rows}x{columns} patches: both sides must be even, since {MERGE} x {MERGE} patches make a visual token"
        );
        ensure!(!self.phases.is_empty(), "no phase to time");
        Ok(())
    }

    /// Sizes of the model of a configuration.
    pub fn sizes(&self, config: &VlConfig) -> Result<ModelSettings> {
        let pixels = self.grid[0] * self.grid[1] * PATCH_PIXELS;
        config.to_settings(PixelRange { min_pixels: pixels, max_pixels: pixels })
    }

    /// Visual tokens of a prompt.
    pub fn vision_tokens(&self) -> usize {
        self.grid[0] * self.grid[1] / (MERGE * MERGE)
    }

    /// Tokens of a prompt with those of its picture and the mark after it.
    pub fn whole_prompt_tokens(&self) -> usize {
        self.prompt_tokens + self.vision_tokens() + 1
    }

    /// All responses.
    pub fn responses(&self) -> usize {
        self.prompts * self.group
    }

    /// What the step asks of a device, for the formulas of memory and time.
    pub fn load<'a>(
        &self,
        model: &'a ModelSettings,
        vocab_size: usize,
        compute: &'a ComputeSettings,
    ) -> Load<'a> {
        Load {
            model,
            vocab_size,
            compute,
            lengths: Lengths {
                prompt: self.whole_prompt_tokens() as u64,
                visual: self.vision_tokens() as u64,
                response: self.response_tokens as u64,
            },
            group: self.group as u64,
            micro: self.micro.min(self.responses()) as u64,
            sequences: self.responses() as u64,
            training: Some(Training {
                reference: false,
                apart: self.phases.contains(&Phase::Corrupt) && self.corrupted == CorruptionScope::Response,
            }),
            gpus: 1,
        }
    }

    /// Most bytes that are there in one of the timed phases, by formula.
    pub fn peak(&self, load: &Load<'_>) -> u64 {
        let memory = load.memory();
        let turn = |phase: &Phase| match phase {
            Phase::Rollout => Turn::Sampling,
            Phase::Score | Phase::Corrupt => Turn::Scoring,
            Phase::Update => Turn::Updating,
        };
        memory.constant() + self.phases.iter().map(|phase| memory.of(turn(phase))).max().unwrap_or(0)
    }
}

/// Seconds per phase, one entry per counted round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timings {
    /// The rounds.
    pub rounds: Vec<BTreeMap<Phase, f64>>,
}

impl Timings {
    /// Median over the rounds, the higher of the two in the middle; `None` where the phase was not timed.
    pub fn median(&self, phase: Phase) -> Option<f64> {
        let mut seconds: Vec<f64> =
            self.rounds.iter().filter_map(|round| round.get(&phase).copied()).collect();
        seconds.sort_by(f64::total_cmp);
        seconds.get(seconds.len() / 2).copied()
    }

    /// Sum of the medians.
    pub fn step(&self) -> f64 {
        Phase::ALL.iter().filter_map(|&phase| self.median(phase)).sum()
    }
}

/// A model and a batch, ready to be timed.
pub struct Bench {
    shape: Shape,
    model: Model,
    optimizer: AdamW,
    sampling: Sampling,
    limits: DecodeLimits,
    /// Never sampled, so that pictures stay where they are and responses have the asked length.
    forbidden: Vec<u32>,
    /// Text tokens are drawn below this id.
    tokens: usize,
    prompts: Vec<Prompt>,
    /// d loss / d log-probability, per response and token.
    derivatives: Vec<Vec<f64>>,
}

impl Bench {
    /// Draws prompts, pictures and derivatives. Rollouts keep to the limits.
    ///
    /// # Errors
    /// On sizes that are zero, an odd grid, and a model with other patches than the published ones.
    pub fn new(model: Model, marks: &PictureMarks, shape: Shape, limits: DecodeLimits) -> Result<Self> {
        shape.check()?;
        let config = model.config();
        ensure!(
            config.patch_values() == PATCH_VALUES && config.vision.spatial_merge_size == MERGE,
            "the model's patches are not those of the published checkpoints: 14 x 14 pixels, 2 frames, merged {MERGE} x {MERGE}"
        );
        let image = config.image_token_id;
        let special = [Some(image), marks.start].into_iter().flatten().map(|id| id as usize);
        let tokens = special.chain([LAST_TOKEN, config.text.vocab_size]).min().unwrap_or(LAST_TOKEN);
        ensure!(tokens > FIRST_TOKEN, "config.json: no text tokens from {FIRST_TOKEN} to the picture's");
        let forbidden = [Some(image), marks.start, marks.video].into_iter().flatten();
        let forbidden = forbidden.chain(marks.eos.iter().copied()).collect();
        let optimizer = AdamW::new(model.params(), OPTIMIZER)?;
        let max_new_tokens = shape.response_tokens;
        let mut bench = Self {
            sampling: Sampling { temperature: 1.0, top_p: 1.0, top_k: 0, max_new_tokens },
            limits,
            shape,
            model,
            optimizer,
            forbidden,
            tokens,
            prompts: vec![],
            derivatives: vec![],
        };
        bench.prompts = (0..bench.shape.prompts).map(|i| bench.prompt(i, image, marks)).collect();
        bench.derivatives = (0..bench.shape.responses()).map(|i| bench.derivative(i)).collect();
        Ok(bench)
    }

    /// The batch.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Number of the model's weights.
    pub fn weights(&self) -> usize {
        self.model.params().elements()
    }

    /// Necessary operations of each timed phase.
    pub fn flops(&self) -> Result<BTreeMap<Phase, u64>> {
        let (model, vocab, step) = (self.sizes()?, self.model.config().text.vocab_size, self.sequences()?);
        let corrupted = match self.shape.corrupted {
            CorruptionScope::Response => step.apart(),
            CorruptionScope::Group => step,
        };
        let of = |phase| match phase {
            Phase::Rollout | Phase::Score => flops::forward(&model, vocab, &step).total(),
            Phase::Corrupt => flops::forward(&model, vocab, &corrupted).total(),
            Phase::Update => flops::update(&model, vocab, &step),
        };
        Ok(self.shape.phases.iter().map(|&phase| (phase, of(phase))).collect())
    }

    /// Operations of one forward pass over the batch, by part.
    pub fn forward_flops(&self) -> Result<flops::Flops> {
        Ok(flops::forward(&self.sizes()?, self.model.config().text.vocab_size, &self.sequences()?))
    }

    /// Sizes of the model.
    pub fn sizes(&self) -> Result<ModelSettings> {
        self.shape.sizes(self.model.config())
    }

    /// Bytes that decoding all responses reads, by formula.
    pub fn decode_bytes(&self, compute: &ComputeSettings) -> Result<f64> {
        let sizes = self.sizes()?;
        Ok(decode_bytes(
            &self.shape.load(&sizes, self.model.config().text.vocab_size, compute),
            &self.sequences()?,
        ))
    }

    fn sequences(&self) -> Result<Sequences> {
        let [rows, columns] = self.shape.grid;
        Ok(Sequences {
            prompts: self.shape.prompts as u64,
            group: self.shape.group as u64,
            prompt_tokens: self.shape.whole_prompt_tokens() as u64,
            response_tokens: self.shape.response_tokens as u64,
            vision: Vision::of_grid(&self.sizes()?, rows, columns),
        })
    }

    /// Runs one round to warm up and `repeats` that count. `told` hears of every phase that ends: round (0 warms up),
    /// phase, seconds.
    pub fn run(&mut self, repeats: usize, mut told: impl FnMut(usize, Phase, f64)) -> Result<Timings> {
        ensure!(repeats > 0, "repeats is 0: give at least 1");
        let mut timings = Timings::default();
        for round in 0..=repeats {
            let mut seconds = BTreeMap::new();
            let mut responses = self.drawn_responses();
            for phase in self.shape.phases.clone() {
                let taken = self.phase(phase, round, &mut responses).context(phase.name())?;
                told(round, phase, taken);
                seconds.insert(phase, taken);
            }
            if round > 0 {
                timings.rounds.push(seconds);
            }
        }
        Ok(timings)
    }

    /// Seconds of one phase. A rollout replaces the responses.
    fn phase(&mut self, phase: Phase, round: usize, responses: &mut Vec<Vec<u32>>) -> Result<f64> {
        let mut seconds = 0.0;
        match phase {
            Phase::Rollout => *responses = timed(&mut seconds, &self.model, || self.rollout(round))?,
            Phase::Score => {
                for micro in self.micro_batches() {
                    let trees = self.trees(responses, micro);
                    timed(&mut seconds, &self.model, || self.model.score(&trees))?;
                }
            }
            Phase::Corrupt => {
                for micro in self.micro_batches() {
                    let prompts = self.corrupted(micro.clone());
                    let trees = self.corrupted_trees(responses, &prompts, micro);
                    timed(&mut seconds, &self.model, || self.model.score(&trees))?;
                }
            }
            Phase::Update => {
                let start = Instant::now();
                self.update(responses)?;
                wait_for(&self.model)?;
                seconds = start.elapsed().as_secs_f64();
            }
        }
        Ok(seconds)
    }

    fn rollout(&self, round: usize) -> Result<Vec<Vec<u32>>> {
        let prompts: Vec<&Prompt> = self.prompts.iter().collect();
        let at =
            |prompt: usize, sample: usize| draws("rollout", &[round.into(), prompt.into(), sample.into()]);
        let streams = (0..prompts.len()).map(|p| (0..self.shape.group).map(|s| at(p, s)).collect()).collect();
        let rules = DecodeRules {
            sampling: &self.sampling,
            end: &[],
            forbidden: &self.forbidden,
            limits: self.limits,
            stop: &|| false,
        };
        let (groups, _) = self.model.generate_within(&prompts, streams, &rules)?;
        Ok(groups.into_iter().flatten().map(|completion| completion.ids).collect())
    }

    fn update(&mut self, responses: &[Vec<u32>]) -> Result<()> {
        let mut grads = Grads::new(self.model.params());
        for micro in self.micro_batches() {
            let forward = self.model.forward(&self.trees(responses, micro.clone()))?;
            self.model.backward(&forward, &self.derivatives[micro], &mut grads)?;
        }
        self.optimizer.step(self.model.params_mut(), &grads)?;
        Ok(())
    }

    fn micro_batches(&self) -> Vec<Range<usize>> {
        let all = self.shape.responses();
        (0..all).step_by(self.shape.micro).map(|at| at..all.min(at + self.shape.micro)).collect()
    }

    /// The responses of a micro-batch; those of one group share its prompt.
    fn trees<'a>(&'a self, responses: &'a [Vec<u32>], micro: Range<usize>) -> Vec<Tree<'a>> {
        let group = self.shape.group;
        let groups = micro.start / group..micro.end.div_ceil(group);
        let tree = |number: usize| {
            let own = (number * group).max(micro.start)..((number + 1) * group).min(micro.end);
            Tree {
                prompt: &self.prompts[number],
                responses: responses[own].iter().map(Vec::as_slice).collect(),
            }
        };
        groups.map(tree).collect()
    }

    /// The corrupted prompts of a micro-batch: one per response, or one per group that it touches.
    fn corrupted(&self, micro: Range<usize>) -> Vec<Prompt> {
        let group = self.shape.group;
        match self.shape.corrupted {
            CorruptionScope::Response => micro.map(|i| corrupted(&self.prompts[i / group], i)).collect(),
            CorruptionScope::Group => {
                let groups = micro.start / group..micro.end.div_ceil(group);
                groups.map(|number| corrupted(&self.prompts[number], number)).collect()
            }
        }
    }

    fn corrupted_trees<'a>(
        &'a self,
        responses: &'a [Vec<u32>],
        prompts: &'a [Prompt],
        micro: Range<usize>,
    ) -> Vec<Tree<'a>> {
        match self.shape.corrupted {
            CorruptionScope::Response => prompts
                .iter()
                .zip(&responses[micro])
                .map(|(prompt, response)| Tree { prompt, responses: vec![response] })
                .collect(),
            CorruptionScope::Group => {
                let clean = self.trees(responses, micro);
                clean.into_iter().zip(prompts).map(|(tree, prompt)| Tree { prompt, ..tree }).collect()
            }
        }
    }

    /// Mark, visual tokens, mark, text; where the model has no marks, text stands in their place.
    fn prompt(&self, number: usize, image: u32, marks: &PictureMarks) -> Prompt {
        let mut draws = draws("prompt", &[number.into()]);
        let mut ids = vec![marks.start.unwrap_or_else(|| self.token(&mut draws))];
        ids.extend(std::iter::repeat_n(image, self.shape.vision_tokens()));
        ids.push(marks.end.unwrap_or_else(|| self.token(&mut draws)));
        ids.extend((1..self.shape.prompt_tokens).map(|_| self.token(&mut draws)));
        let [rows, columns] = self.shape.grid;
        let values = (0..rows * columns * PATCH_VALUES).map(|_| draws.normal() as f32).collect();
        Prompt { ids, pictures: vec![Arc::new(Patches { values, grid_thw: [1, rows, columns] })] }
    }

    fn token(&self, draws: &mut Stream) -> u32 {
        (FIRST_TOKEN + draws.below(self.tokens - FIRST_TOKEN)) as u32
    }

    /// Responses for the phases that follow no rollout.
    fn drawn_responses(&self) -> Vec<Vec<u32>> {
        let response = |i: usize| {
            let mut draws = draws("response", &[i.into()]);
            (0..self.shape.response_tokens).map(|_| self.token(&mut draws)).collect()
        };
        (0..self.shape.responses()).map(response).collect()
    }

    /// Of a mean over all tokens of the batch, with standard normal factors.
    fn derivative(&self, response: usize) -> Vec<f64> {
        let mut draws = draws("derivative", &[response.into()]);
        let tokens = (self.shape.responses() * self.shape.response_tokens) as f64;
        (0..self.shape.response_tokens).map(|_| -draws.normal() / tokens).collect()
    }
}

/// As the step that this one is run beside: PyTorch's defaults, gradients clipped to norm 1.
const OPTIMIZER: OptimizerSettings = OptimizerSettings {
    learning_rate: 1e-6,
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weight_decay: 0.01,
    max_grad_norm: 1.0,
};

fn draws(what: &str, which: &[At<'_>]) -> Stream {
    stream(SEED, Purpose::Timing, &[&[what.into()], which].concat())
}

/// The prompt with half of its picture's patches black.
fn corrupted(prompt: &Prompt, number: usize) -> Prompt {
    let mut draws = draws("corruption", &[number.into()]);
    let blacken = |picture: &Arc<Patches>| {
        let mut patches = Patches::clone(picture);
        for patch in patches.values.chunks_mut(PATCH_VALUES) {
            if draws.chance(0.5) {
                patch.fill(0.0);
            }
        }
        Arc::new(patches)
    };
    Prompt { ids: prompt.ids.clone(), pictures: prompt.pictures.iter().map(blacken).collect() }
}

/// Runs `work` and adds its seconds to `total`, the device's work included.
fn timed<T>(total: &mut f64, model: &Model, work: impl FnOnce() -> Result<T>) -> Result<T> {
    wait_for(model)?;
    let start = Instant::now();
    let done = work()?;
    wait_for(model)?;
    *total += start.elapsed().as_secs_f64();
    Ok(done)
}
