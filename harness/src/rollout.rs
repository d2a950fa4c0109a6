//! From questions to graded completions, and to the same completions scored under a corrupted picture.
//!
//! A [`Policy`] is a model with the text side of its checkpoint (tokenizer, chat template, picture processor). It does
//! not know which algorithm trains it, nor which benchmark a question comes from.

use crate::grade::grade_response;
use crate::image::{Alpha, AreaRule, Patches, Processor, grid, patches, prepare};
use crate::model::checkpoint::{
    self, CHAT_TEMPLATE, CHAT_TEMPLATE_JINJA, CONFIG, Files, GENERATION, PREPROCESSOR, PROCESSOR,
    SaveSettings, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS, WeightType,
};
use crate::model::{Completion, Compute, DecodeClient, DecodeGroup, DecodeRules, Model, Prompt, Tree};
use crate::perturb::corrupt;
use crate::prompt::{ChatTemplate, Tokenizer, encode_prompt};
use crate::rng::{Purpose, Stream, stream};
use crate::settings::{Corruption, CorruptionScope, DecodeLimits, Sampling};
use crate::types::{Example, Outcome, Rgb, SampleLine};
use anyhow::{Context, Result};
use rayon::prelude::*;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

/// How questions become prompts: everything of a checkpoint but the model.
#[derive(Clone)]
pub struct Renderer {
    /// The checkpoint's tokenizer.
    pub tokenizer: Tokenizer,
    /// The checkpoint's chat template.
    pub template: ChatTemplate,
    /// The checkpoint's picture processor.
    pub processor: Processor,
    /// Sentence appended to every question.
    pub instruction: String,
    /// Allowed picture area before the processor.
    pub area: AreaRule,
    /// What becomes of transparency.
    pub alpha: Alpha,
    /// Tokens that end a response.
    pub end: Vec<u32>,
    /// Tokens that stand for pictures and are never sampled.
    pub forbidden: Vec<u32>,
    /// The checkpoint's files except the weights, to be stored beside new weights.
    files: Files,
}

/// Length of a prompt in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptSize {
    /// All of them.
    pub tokens: usize,
    /// Those of its pictures.
    pub visual: usize,
}

/// A model that can answer questions.
#[derive(Clone)]
pub struct Policy {
    /// The network.
    pub model: Model,
    /// Its text side.
    pub renderer: Arc<Renderer>,
    /// How much it decodes at the same time; no limits unless set.
    pub limits: DecodeLimits,
}

/// How completions are sampled.
#[derive(Clone, Copy)]
pub struct SampleRules<'a> {
    /// Completions per question.
    pub samples: usize,
    /// How tokens are drawn.
    pub sampling: &'a Sampling,
    /// How much is decoded at the same time.
    pub limits: DecodeLimits,
    /// Asked before every decoding step; `true` ends the work with [`crate::progress::Interrupted`].
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

/// Questions as the model's decoder asks for them.
struct Questions<'a> {
    renderer: &'a Renderer,
    examples: &'a [Example],
    finished: &'a mut (dyn FnMut(usize, Prompt, Vec<Completion>) -> Result<()> + Send),
}

impl DecodeClient for Questions<'_> {
    fn prompts(&mut self, groups: &[usize]) -> Result<Vec<Prompt>> {
        groups.par_iter().map(|&group| self.renderer.prompt(&self.examples[group])).collect()
    }

    fn finished(&mut self, group: usize, prompt: Prompt, completions: Vec<Completion>) -> Result<()> {
        (self.finished)(group, prompt, completions)
    }
}

/// One completion with its verdict.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Tokens, log-probabilities, entropies.
    pub completion: Completion,
    /// Verdict of the grader.
    pub outcome: Outcome,
    /// Content of the last box.
    pub extracted: Option<String>,
}

/// A question with its prompt and graded completions.
#[derive(Clone, Debug)]
pub struct Group {
    /// The question.
    pub example: Example,
    /// The prompt as the model saw it.
    pub prompt: Prompt,
    /// Its completions, by sample index.
    pub samples: Vec<Sample>,
}

impl Renderer {
    /// The text side of a checkpoint's files. `area` replaces the processor's own limits before it sees a picture.
    pub fn from_files(files: Files, instruction: &str, area: Option<AreaRule>) -> Result<Self> {
        let text = |name: &str| text_of(&files, name);
        let needed = |name: &str| text(name)?.with_context(|| format!("the checkpoint has no {name}"));
        let tokenizer = Tokenizer::from_json(needed(TOKENIZER)?).context(TOKENIZER)?;
        let template = chat_template(&files)?;
        let processor = picture_processor(&files)?;
        let config: Value = serde_json::from_str(needed(CONFIG)?).context(CONFIG)?;
        let generation: Value =
            serde_json::from_str(text(GENERATION)?.unwrap_or("{}")).context(GENERATION)?;
        let end = [&generation, &config]
            .into_iter()
            .map(|file| ids(&file["eos_token_id"]))
            .find(|ids| !ids.is_empty());
        let forbidden =
            ["image_token_id", "video_token_id"].iter().flat_map(|key| ids(&config[*key])).collect();
        let area =
            area.unwrap_or(AreaRule { min_pixels: processor.min_pixels, max_pixels: processor.max_pixels });
        Ok(Self {
            tokenizer,
            template,
            processor,
            instruction: instruction.to_owned(),
            area,
            alpha: Alpha::Drop,
            end: end.with_context(|| format!("neither {GENERATION} nor {CONFIG} names an eos_token_id"))?,
            forbidden,
            files: files.into_iter().filter(|(name, _)| name != WEIGHTS).collect(),
        })
    }

    /// The prompt of a question.
    ///
    /// # Errors
    /// Names the item: unreadable pictures, or picture places that do not match the pictures.
    pub fn prompt(&self, example: &Example) -> Result<Prompt> {
        let item = || named(example);
        let pictures: Vec<Arc<Patches>> = self
            .pictures(example)?
            .iter()
            .map(|rgb| Ok(Arc::new(patches(rgb, &self.processor)?)))
            .collect::<Result<_>>()
            .with_context(item)?;
        let text =
            self.template.render(&example.problem, pictures.len(), &self.instruction).with_context(item)?;
        let grids: Vec<[usize; 3]> = pictures.iter().map(|p| p.grid_thw).collect();
        let tokens =
            encode_prompt(&self.tokenizer, &text, &grids, self.processor.merge_size).with_context(item)?;
        Ok(Prompt { ids: tokens.ids, pictures })
    }

    /// The pictures of a question as the policy sees them: decoded, and resized where the area rule says so.
    ///
    /// # Errors
    /// Names the item whose picture cannot be read.
    pub fn pictures(&self, example: &Example) -> Result<Vec<Rgb>> {
        let pictures = example.images.iter().map(|picture| prepare(picture, self.area, self.alpha));
        pictures.collect::<Result<_>>().with_context(|| named(example))
    }

    /// A prompt with every one of its pictures corrupted independently, by draws at `at(picture index)`.
    pub fn corrupted(
        &self,
        clean: &Prompt,
        pictures: &[Rgb],
        corruption: &Corruption,
        at: impl Fn(usize) -> Stream,
    ) -> Result<Prompt> {
        let pictures = pictures
            .iter()
            .enumerate()
            .map(|(i, rgb)| Ok(Arc::new(patches(&corrupt(rgb, corruption, &mut at(i)), &self.processor)?)));
        Ok(Prompt { ids: clean.ids.clone(), pictures: pictures.collect::<Result<_>>()? })
    }

    /// Prompts of a group's responses under corrupted pictures: one per response, or one for all of them.
    ///
    /// # Errors
    /// Those of [`Renderer::pictures`].
    pub fn corrupted_prompts(
        &self,
        group: &Group,
        corruption: &Corruption,
        seed: u64,
        step: u64,
    ) -> Result<Vec<Prompt>> {
        let count = match corruption.scope {
            CorruptionScope::Response => group.samples.len(),
            CorruptionScope::Group => 1,
        };
        let pictures = self.pictures(&group.example)?;
        (0..count)
            .into_par_iter()
            .map(|sample| {
                self.corrupted(&group.prompt, &pictures, corruption, |picture| {
                    let at = [step.into(), (&group.example.id).into(), sample.into(), picture.into()];
                    stream(seed, Purpose::Corruption, &at)
                })
            })
            .collect()
    }

    /// Length of a question's prompt, without decoding its pictures' pixels.
    ///
    /// # Errors
    /// As for [`Renderer::prompt`], as far as a picture's header tells.
    pub fn prompt_size(&self, example: &Example) -> Result<PromptSize> {
        let item = || named(example);
        let grids: Vec<[usize; 3]> = example
            .images
            .iter()
            .map(|picture| grid(picture, self.area, &self.processor))
            .collect::<Result<_>>()
            .with_context(item)?;
        let text =
            self.template.render(&example.problem, grids.len(), &self.instruction).with_context(item)?;
        let merge = self.processor.merge_size;
        let tokens = encode_prompt(&self.tokenizer, &text, &grids, merge).with_context(item)?.ids.len();
        let patches: usize = grids.iter().map(|grid| grid.iter().product::<usize>()).sum();
        Ok(PromptSize { tokens, visual: patches / (merge * merge).max(1) })
    }

    /// The text of a response, special tokens left out.
    pub fn text(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode_text(ids)
    }
}

/// The text of one of a checkpoint's files.
fn text_of<'a>(files: &'a Files, name: &str) -> Result<Option<&'a str>> {
    let file = files.iter().find(|(found, _)| found == name);
    file.map(|(_, bytes)| std::str::from_utf8(bytes).with_context(|| format!("{name} is not UTF-8")))
        .transpose()
}

/// The chat template, looked for in the order of transformers' processor, then in the tokenizer's configuration.
fn chat_template(files: &Files) -> Result<ChatTemplate> {
    if let Some(template) = text_of(files, CHAT_TEMPLATE)? {
        return ChatTemplate::from_json(template).context(CHAT_TEMPLATE);
    }
    if let Some(template) = text_of(files, CHAT_TEMPLATE_JINJA)? {
        return ChatTemplate::new(template).context(CHAT_TEMPLATE_JINJA);
    }
    let config = text_of(files, TOKENIZER_CONFIG)?.with_context(|| {
        format!("the checkpoint has no chat template: no {CHAT_TEMPLATE}, {CHAT_TEMPLATE_JINJA} or {TOKENIZER_CONFIG}")
    })?;
    ChatTemplate::from_json(config).context(TOKENIZER_CONFIG)
}

/// The picture processor: as in transformers, the file of all processors goes before that of this one.
fn picture_processor(files: &Files) -> Result<Processor> {
    let all = text_of(files, PROCESSOR)?.filter(|text| text.contains("\"image_processor\""));
    match (all, text_of(files, PREPROCESSOR)?) {
        (Some(all), _) => Processor::from_json(all).context(PROCESSOR),
        (None, Some(own)) => Processor::from_json(own).context(PREPROCESSOR),
        (None, None) => anyhow::bail!(
            "the checkpoint describes no picture processor: no {PREPROCESSOR}, and no image_processor in {PROCESSOR}"
        ),
    }
}

/// A question in an error message.
fn named(example: &Example) -> String {
    match example.benchmark.as_str() {
        "" => format!("item {:?}", example.id),
        benchmark => format!("item {:?} of {benchmark}", example.id),
    }
}

/// One id or a list of them.
fn ids(value: &Value) -> Vec<u32> {
    let one = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    value
        .as_array()
        .map_or_else(|| one(value).into_iter().collect(), |list| list.iter().filter_map(one).collect())
}

impl Policy {
    /// Opens a checkpoint directory in the hub's layout, old or new. `area` replaces the picture processor's own
    /// limits. Peak memory is little more than the model's, in f32.
    ///
    /// # Errors
    /// Those of [`checkpoint::open`], and files of the text side that are missing or unusable.
    pub fn open(dir: &Path, instruction: &str, area: Option<AreaRule>) -> Result<Self> {
        Self::open_on(dir, instruction, area, &Compute::cpu())
    }

    /// As [`Policy::open`], with the model in the numbers and on the device of `compute`.
    ///
    /// # Errors
    /// Those of [`Policy::open`], and a device without room.
    pub fn open_on(dir: &Path, instruction: &str, area: Option<AreaRule>, compute: &Compute) -> Result<Self> {
        Self::of_directory(dir, instruction, area, || checkpoint::open_on(dir, compute))
    }

    /// As [`Policy::open_on`], with random weights where the directory holds none ([`checkpoint::open_or_fill`]).
    ///
    /// # Errors
    /// Those of [`Policy::open_on`].
    pub fn open_or_fill(
        dir: &Path,
        instruction: &str,
        area: Option<AreaRule>,
        compute: &Compute,
    ) -> Result<Self> {
        Self::of_directory(dir, instruction, area, || Ok(checkpoint::open_or_fill(dir, 0, compute)?.0))
    }

    fn of_directory(
        dir: &Path,
        instruction: &str,
        area: Option<AreaRule>,
        model: impl FnOnce() -> Result<Model>,
    ) -> Result<Self> {
        let renderer = || Renderer::from_files(checkpoint::read_companions(dir)?, instruction, area);
        let renderer = renderer().with_context(|| format!("checkpoint {}", dir.display()))?;
        let model = model()?;
        let limits = model.params().compute().limits();
        Ok(Self { model, renderer: Arc::new(renderer), limits })
    }

    /// The same policy with its model in the numbers and on the device of `compute`, and its limits.
    ///
    /// # Errors
    /// A device without room.
    pub fn on(self, compute: &Compute) -> Result<Self> {
        Ok(Self { model: self.model.on(compute)?, limits: compute.limits(), ..self })
    }

    /// Writes a checkpoint directory in the hub's original layout, which transformers opens as well: the files this
    /// policy came with, and its present weights.
    ///
    /// # Errors
    /// Those of [`checkpoint::save`].
    pub fn save(&self, dir: &Path, settings: &SaveSettings) -> Result<()> {
        checkpoint::save(dir, &self.renderer.files, &self.model, settings)
    }

    /// The policy of a checkpoint's files in memory; the weights are one file.
    pub fn from_files(files: Files, instruction: &str, area: Option<AreaRule>) -> Result<Self> {
        let file = |name: &str| {
            let found = files.iter().find(|(n, _)| n == name);
            found.map(|(_, bytes)| bytes.as_slice()).with_context(|| format!("the checkpoint has no {name}"))
        };
        let config = std::str::from_utf8(file(CONFIG)?).context("config.json is not UTF-8")?;
        let model = Model::from_bytes(config, file(WEIGHTS)?)?;
        let renderer = Arc::new(Renderer::from_files(files, instruction, area)?);
        Ok(Self { model, renderer, limits: DecodeLimits::default() })
    }

    /// The files of a checkpoint with the model's present weights, in f32 and in one file.
    pub fn to_files(&self) -> Result<Files> {
        let mut files = checkpoint::files_for(&self.renderer.files, WeightType::F32)?;
        files.push((WEIGHTS.into(), self.model.to_bytes()?));
        Ok(files)
    }

    /// Shows pictures within another range of areas.
    pub fn set_area(&mut self, area: AreaRule) {
        Arc::make_mut(&mut self.renderer).area = area;
    }

    /// Treats transparency in another way.
    pub fn set_alpha(&mut self, alpha: Alpha) {
        Arc::make_mut(&mut self.renderer).alpha = alpha;
    }

    /// Samples `n` completions per question and grades them; `at(item, sample)` gives the random stream of each.
    pub fn sample(
        &self,
        examples: Vec<Example>,
        n: usize,
        sampling: &Sampling,
        at: impl Fn(&Example, usize) -> Stream,
    ) -> Result<Vec<Group>> {
        self.sample_all(examples, &self.rules(n, sampling, &|| false), at)
    }

    /// The rules of sampling under this policy's own limits.
    pub fn rules<'a>(
        &self,
        samples: usize,
        sampling: &'a Sampling,
        stop: &'a (dyn Fn() -> bool + Sync),
    ) -> SampleRules<'a> {
        SampleRules { samples, sampling, limits: self.limits, stop }
    }

    /// Samples completions of questions and grades them, in the order of the questions; `at(item, sample)` gives the
    /// random stream of each.
    ///
    /// # Errors
    /// Those of [`Model::decode`] and [`Renderer::prompt`].
    pub fn sample_all(
        &self,
        examples: Vec<Example>,
        rules: &SampleRules<'_>,
        at: impl Fn(&Example, usize) -> Stream,
    ) -> Result<Vec<Group>> {
        let mut done: Vec<Option<(Prompt, Vec<Completion>)>> = examples.iter().map(|_| None).collect();
        self.decode(&examples, rules, at, &mut |i, prompt, completions| {
            done[i] = Some((prompt, completions));
            Ok(())
        })?;
        examples
            .into_par_iter()
            .zip(done)
            .map(|(example, done)| {
                let (prompt, completions) =
                    done.with_context(|| format!("no completion of {} was asked for", named(&example)))?;
                self.graded(example, prompt, completions)
            })
            .collect()
    }

    /// As [`Policy::sample_all`], for lists of any length: each question's group is handed over, with the question's
    /// index, as soon as its last completion has ended, in any order.
    ///
    /// # Errors
    /// Those of [`Policy::sample_all`] and of `each`.
    pub fn sample_each(
        &self,
        examples: &[Example],
        rules: &SampleRules<'_>,
        at: impl Fn(&Example, usize) -> Stream,
        each: &mut (dyn FnMut(usize, Group) -> Result<()> + Send),
    ) -> Result<()> {
        self.decode(examples, rules, at, &mut |i, prompt, completions| {
            each(i, self.graded(examples[i].clone(), prompt, completions)?)
        })
    }

    fn decode(
        &self,
        examples: &[Example],
        rules: &SampleRules<'_>,
        at: impl Fn(&Example, usize) -> Stream,
        finished: &mut (dyn FnMut(usize, Prompt, Vec<Completion>) -> Result<()> + Send),
    ) -> Result<()> {
        let renderer = self.renderer.as_ref();
        let lengths: Vec<usize> =
            examples.par_iter().map(|e| Ok(renderer.prompt_size(e)?.tokens)).collect::<Result<_>>()?;
        let groups = examples
            .iter()
            .zip(lengths)
            .map(|(example, prompt_tokens)| DecodeGroup {
                prompt_tokens,
                streams: (0..rules.samples).map(|sample| at(example, sample)).collect(),
            })
            .collect();
        let rules = DecodeRules {
            sampling: rules.sampling,
            end: &renderer.end,
            forbidden: &renderer.forbidden,
            limits: rules.limits,
            stop: rules.stop,
        };
        self.model.decode(groups, &rules, &mut Questions { renderer, examples, finished })?;
        Ok(())
    }

    /// A question with its completions and their verdicts.
    fn graded(&self, example: Example, prompt: Prompt, completions: Vec<Completion>) -> Result<Group> {
        let samples = completions
            .into_par_iter()
            .map(|completion| {
                let text = self.renderer.text(&completion.ids)?;
                let graded = grade_response(&text, &example.answer, completion.stop);
                Ok(Sample { completion, outcome: graded.outcome, extracted: graded.extracted })
            })
            .collect::<Result<_>>()?;
        Ok(Group { example, prompt, samples })
    }
}

impl Group {
    /// Accuracy of each completion, by sample index.
    pub fn rewards_g(&self) -> Vec<f64> {
        self.samples.iter().map(|s| s.outcome.reward()).collect()
    }

    /// The prompt with all responses.
    pub fn tree(&self) -> Tree<'_> {
        Tree { prompt: &self.prompt, responses: self.responses().collect() }
    }

    /// Token ids of the responses.
    pub fn responses(&self) -> impl Iterator<Item = &[u32]> {
        self.samples.iter().map(|s| s.completion.ids.as_slice())
    }

    /// The lines that record this group's completions.
    pub fn lines(&self) -> Vec<SampleLine> {
        let example = &self.example;
        self.samples
            .iter()
            .zip(0..)
            .map(|(sample, index)| SampleLine {
                benchmark: example.benchmark.clone(),
                item: example.id.clone(),
                cluster: example.cluster.clone(),
                sample: index,
                outcome: sample.outcome,
                extracted: sample.extracted.clone(),
                tokens: sample.completion.ids.len() as u32,
                stop: sample.completion.stop,
            })
            .collect()
    }
}
