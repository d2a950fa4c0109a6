//! From questions to graded completions, and to the same completions scored under a corrupted picture.
//!
//! A [`Policy`] is a model with the text side of its checkpoint (tokenizer, chat template, picture processor). It does
//! not know which algorithm trains it, nor which benchmark a question comes from.

use crate::grade::grade_response;
use crate::image::{Alpha, AreaRule, Patches, Processor, patches, prepare};
use crate::model::{Completion, Model, Prompt, Tree};
use crate::perturb::corrupt;
use crate::prompt::{ChatTemplate, Tokenizer, render};
use crate::rng::{Purpose, Stream, stream};
use crate::settings::{Corruption, CorruptionScope, Sampling};
use crate::types::{Example, Outcome, SampleLine};
use anyhow::{Context, Result};
use rayon::prelude::*;
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
}

/// A model that can answer questions.
#[derive(Clone)]
pub struct Policy {
    /// The network.
    pub model: Model,
    /// Its text side.
    pub renderer: Arc<Renderer>,
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
    /// The prompt of a question.
    ///
    /// # Errors
    /// Names the item: unreadable pictures, or picture places that do not match the pictures.
    pub fn prompt(&self, example: &Example) -> Result<Prompt> {
        self.render(example, |_, rgb| rgb)
    }

    /// The prompt of a question with every picture corrupted independently, by draws at `at(picture index)`.
    pub fn corrupted(
        &self,
        example: &Example,
        corruption: &Corruption,
        mut at: impl FnMut(usize) -> Stream,
    ) -> Result<Prompt> {
        self.render(example, |picture, rgb| corrupt(&rgb, corruption, &mut at(picture)))
    }

    fn render(
        &self,
        example: &Example,
        mut change: impl FnMut(usize, crate::types::Rgb) -> crate::types::Rgb,
    ) -> Result<Prompt> {
        let item = || format!("item {:?} of {}", example.id, example.benchmark);
        let pictures: Vec<Arc<Patches>> = example
            .images
            .iter()
            .enumerate()
            .map(|(i, picture)| {
                let rgb = prepare(picture, self.area, self.alpha)?;
                Ok(Arc::new(patches(&change(i, rgb), &self.processor)?))
            })
            .collect::<Result<_>>()
            .with_context(item)?;
        let text = render(&self.template, &example.problem, pictures.len(), &self.instruction).with_context(item)?;
        let grids: Vec<[usize; 3]> = pictures.iter().map(|p| p.grid_thw).collect();
        let ids = self.tokenizer.encode_prompt(&text, &grids, self.processor.merge_size).with_context(item)?;
        Ok(Prompt { ids, pictures })
    }

    /// The text of a response, special tokens left out.
    pub fn text(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode(ids)
    }
}

impl Policy {
    /// Samples `n` completions per question and grades them; `at(item, sample)` gives the random stream of each.
    pub fn sample(
        &self,
        examples: Vec<Example>,
        n: usize,
        sampling: &Sampling,
        at: impl Fn(&Example, usize) -> Stream,
    ) -> Result<Vec<Group>> {
        let renderer = &self.renderer;
        let prompts: Vec<Prompt> = examples.par_iter().map(|e| renderer.prompt(e)).collect::<Result<_>>()?;
        let streams = examples.iter().map(|e| (0..n).map(|s| at(e, s)).collect()).collect();
        let refs: Vec<&Prompt> = prompts.iter().collect();
        let done = self.model.generate(&refs, streams, sampling, &renderer.end, &renderer.forbidden)?;
        examples
            .into_par_iter()
            .zip(prompts)
            .zip(done)
            .map(|((example, prompt), completions)| {
                let samples = completions
                    .into_iter()
                    .map(|completion| {
                        let graded =
                            grade_response(&renderer.text(&completion.ids)?, &example.answer, completion.stop);
                        Ok(Sample { completion, outcome: graded.outcome, extracted: graded.extracted })
                    })
                    .collect::<Result<_>>()?;
                Ok(Group { example, prompt, samples })
            })
            .collect()
    }

    /// Prompts of a group's responses under corrupted pictures: one per response, or one for all of them.
    pub fn corrupted_prompts(&self, group: &Group, corruption: &Corruption, seed: u64, step: u64) -> Result<Vec<Prompt>> {
        let count = match corruption.scope {
            CorruptionScope::Response => group.samples.len(),
            CorruptionScope::Group => 1,
        };
        (0..count)
            .into_par_iter()
            .map(|sample| {
                self.renderer.corrupted(&group.example, corruption, |picture| {
                    let at = [step.into(), (&group.example.id).into(), sample.into(), picture.into()];
                    stream(seed, Purpose::Corruption, &at)
                })
            })
            .collect()
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
