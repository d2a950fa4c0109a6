//! Generation: paged keys and values, prompts computed once per group, finished sequences replaced at once.
//!
//! `schedule` decides who runs and owns which pages, `pages` holds them; here the model runs. In every
//! step each running sequence feeds the tokens that are not yet in its pages: the newest one, or all it has after it had
//! to give back its pages. A row's arithmetic does not depend on the rows beside it, so limits on memory and on the
//! number of sequences change speed and never a draw.

use super::kernels::Rotary as Angles;
use super::network::{Model, Prompt, Tree};
use super::ops::{Rotary, draw, gather_rows};
use super::pages::{LayerPages, PageTable, Slots};
use super::positions::{rotary_at, text_rotary};
use super::schedule::{GroupSize, PAGE, Scheduler, Sequence};
use crate::progress::Interrupted;
use crate::rng::Stream;
use crate::settings::{DecodeLimits, Sampling};
use crate::types::StopReason;
use anyhow::{Context, Result, ensure};
use candle_core::Tensor;

/// A sampled completion.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// Response tokens; the end token, where it was written, is the last one.
    pub ids: Vec<u32>,
    /// log pi(token) under the full softmax at temperature 1, never the truncated one.
    pub logp: Vec<f32>,
    /// Entropy in nats of the full distribution before each token.
    pub entropy: Vec<f32>,
    /// Why it ended.
    pub stop: StopReason,
}

/// What is drawn, and within which limits.
#[derive(Clone, Copy)]
pub struct DecodeRules<'a> {
    /// How tokens are drawn.
    pub sampling: &'a Sampling,
    /// Tokens that end a completion.
    pub end: &'a [u32],
    /// Tokens (of pictures) that are never drawn; they keep their place in the softmax.
    pub forbidden: &'a [u32],
    /// How much is decoded at the same time.
    pub limits: DecodeLimits,
    /// Asked before every step; `true` ends the work with [`Interrupted`].
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

/// A prompt to be continued.
#[derive(Clone, Debug)]
pub struct DecodeGroup {
    /// Length of the prompt in tokens.
    pub prompt_tokens: usize,
    /// The random stream of each sequence that continues it; every token consumes one draw.
    pub streams: Vec<Stream>,
}

/// Where prompts come from and completions go. Groups are known by their index.
pub trait DecodeClient: Send {
    /// The prompts of some groups, each asked for once, when its first sequence is about to run.
    fn prompts(&mut self, groups: &[usize]) -> Result<Vec<Prompt>>;

    /// All sequences of a group have ended. Groups end in any order.
    fn finished(&mut self, group: usize, prompt: Prompt, completions: Vec<Completion>) -> Result<()>;
}

/// What a job needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecodeStats {
    /// Steps, each with one draw per running sequence.
    pub steps: u64,
    /// Size of the cache in tokens.
    pub kv_tokens: usize,
    /// Most tokens of the cache that were taken at a time, in whole pages.
    pub peak_kv_tokens: usize,
    /// How often a sequence had to give back its keys and values and compute them again.
    pub preemptions: u64,
}

/// A group in work.
struct Group {
    tokens: usize,
    /// Number of its first sequence.
    first: usize,
    sequences: usize,
    prompt: Option<Prompt>,
    /// Position of the token after the prompt.
    next: u32,
    /// The normed hidden state (1, D) that predicts the first token.
    hidden: Option<Tensor>,
}

/// A sequence: its draws and what it has written.
struct Writer {
    stream: Stream,
    completion: Completion,
}

struct Engine<'a> {
    model: &'a Model,
    rules: DecodeRules<'a>,
    scheduler: Scheduler,
    cache: Vec<LayerPages>,
    groups: Vec<Group>,
    writers: Vec<Writer>,
    /// Angles of all text positions that can occur.
    angles: Angles,
    stats: DecodeStats,
}

/// Everything but the tokens' vectors that one pass over rows of own tokens needs.
#[derive(Default)]
struct Pass {
    ids: Vec<u32>,
    positions: Vec<u32>,
    slots: Slots,
    table: PageTable,
    /// Rows that are the newest token of their sequence.
    newest: Vec<u32>,
}

impl Model {
    /// Samples completions, all at the same time: `streams[i]` are the random streams of the sequences that continue
    /// `prompts[i]`, one per sequence, of which every token consumes one draw. Returns completions in the same shape.
    ///
    /// `forbidden` tokens (picture tokens) are never sampled; they keep their place in the softmax.
    pub fn generate(
        &self,
        prompts: &[&Prompt],
        streams: Vec<Vec<Stream>>,
        sampling: &Sampling,
        end: &[u32],
        forbidden: &[u32],
    ) -> Result<Vec<Vec<Completion>>> {
        let limits = DecodeLimits::default();
        let rules = DecodeRules { sampling, end, forbidden, limits, stop: &|| false };
        Ok(self.generate_within(prompts, streams, &rules)?.0)
    }

    /// As [`Model::generate`], within limits: the same completions, computed in another order.
    ///
    /// # Errors
    /// Those of [`Model::decode`].
    pub fn generate_within(
        &self,
        prompts: &[&Prompt],
        streams: Vec<Vec<Stream>>,
        rules: &DecodeRules<'_>,
    ) -> Result<(Vec<Vec<Completion>>, DecodeStats)> {
        ensure!(prompts.len() == streams.len(), "one list of streams per prompt is needed");
        let groups = prompts
            .iter()
            .zip(streams)
            .map(|(prompt, streams)| DecodeGroup { prompt_tokens: prompt.ids.len(), streams })
            .collect();
        let mut all = Gathered { prompts, done: vec![vec![]; prompts.len()] };
        let stats = self.decode(groups, rules, &mut all)?;
        Ok((all.done, stats))
    }

    /// Samples completions of many groups, which wait in order for room within the limits. The client gives each prompt
    /// when it is needed and gets each group's completions as soon as they are there.
    ///
    /// # Errors
    /// A cache too small for the longest prompt with one response of full length, prompts that do not fit the model,
    /// whatever the client returns, and [`Interrupted`].
    pub fn decode(
        &self,
        groups: Vec<DecodeGroup>,
        rules: &DecodeRules<'_>,
        client: &mut dyn DecodeClient,
    ) -> Result<DecodeStats> {
        self.run(|| Engine::new(self, groups, rules)?.run(client))
    }
}

/// Prompts that are all there, and their completions.
struct Gathered<'a> {
    prompts: &'a [&'a Prompt],
    done: Vec<Vec<Completion>>,
}

impl DecodeClient for Gathered<'_> {
    fn prompts(&mut self, groups: &[usize]) -> Result<Vec<Prompt>> {
        Ok(groups.iter().map(|&group| self.prompts[group].clone()).collect())
    }

    fn finished(&mut self, group: usize, _: Prompt, completions: Vec<Completion>) -> Result<()> {
        self.done[group] = completions;
        Ok(())
    }
}

impl<'a> Engine<'a> {
    fn new(model: &'a Model, groups: Vec<DecodeGroup>, rules: &DecodeRules<'a>) -> Result<Self> {
        ensure!(rules.sampling.max_new_tokens > 0, "max_new_tokens must be at least 1");
        // The last token is never fed.
        let longest = rules.sampling.max_new_tokens - 1;
        let sizes: Vec<GroupSize> = groups
            .iter()
            .map(|g| GroupSize { prompt: g.prompt_tokens, sequences: g.streams.len() })
            .collect();
        let scheduler = Scheduler::new(&sizes, longest, rules.limits)?;
        let pages = scheduler.total_pages();
        let like = model.params.get(model.embedding);
        let cache = model
            .layers
            .iter()
            .map(|layer| LayerPages::new(pages, layer.heads(), like))
            .collect::<Result<_>>()?;
        let prompt = sizes.iter().map(|g| g.prompt).max().unwrap_or(0);
        let positions: Vec<[u32; 3]> = (0..(prompt + longest) as u32).map(|p| [p; 3]).collect();
        let mut engine = Self {
            model,
            rules: *rules,
            scheduler,
            cache,
            groups: Vec::with_capacity(groups.len()),
            writers: vec![],
            angles: text_rotary(&positions, &model.config)?,
            stats: DecodeStats { kv_tokens: pages * PAGE, ..DecodeStats::default() },
        };
        groups.into_iter().for_each(|group| engine.enter(group));
        Ok(engine)
    }

    fn enter(&mut self, group: DecodeGroup) {
        self.groups.push(Group {
            tokens: group.prompt_tokens,
            first: self.writers.len(),
            sequences: group.streams.len(),
            prompt: None,
            next: 0,
            hidden: None,
        });
        self.writers.extend(group.streams.into_iter().map(|stream| Writer {
            stream,
            completion: Completion { ids: vec![], logp: vec![], entropy: vec![], stop: StopReason::Length },
        }));
    }

    fn run(mut self, client: &mut dyn DecodeClient) -> Result<DecodeStats> {
        loop {
            let prompts = self.scheduler.admit();
            if self.scheduler.running().is_empty() {
                break;
            }
            if (self.rules.stop)() {
                return Err(Interrupted.into());
            }
            self.prefill(&prompts, client)?;
            let hidden = self.hidden()?;
            let used = self.scheduler.used_pages() * PAGE;
            self.stats.peak_kv_tokens = self.stats.peak_kv_tokens.max(used);
            self.scheduler.stored();
            let ended = self.draw(&hidden)?;
            for group in self.scheduler.drawn(&ended) {
                self.hand_over(group, client)?;
            }
            self.stats.steps += 1;
        }
        self.stats.preemptions = self.scheduler.preemptions();
        Ok(self.stats)
    }

    /// Gives a group of which all sequences have ended to the client.
    fn hand_over(&mut self, group: usize, client: &mut dyn DecodeClient) -> Result<()> {
        let Group { first, sequences, prompt, hidden, .. } = &mut self.groups[group];
        *hidden = None;
        let prompt = prompt.take().context("a group ended before it began")?;
        let completions = self.writers[*first..*first + *sequences]
            .iter_mut()
            .map(|writer| Completion {
                ids: std::mem::take(&mut writer.completion.ids),
                logp: std::mem::take(&mut writer.completion.logp),
                entropy: std::mem::take(&mut writer.completion.entropy),
                stop: writer.completion.stop,
            })
            .collect();
        client.finished(group, prompt, completions)
    }

    /// Computes prompts into their pages, as many in one pass as its rows allow.
    fn prefill(&mut self, groups: &[usize], client: &mut dyn DecodeClient) -> Result<()> {
        self.fetch_prompts(groups, client)?;
        let limit = self.pass_rows();
        let mut rest = groups;
        while !rest.is_empty() {
            let mut rows = 0;
            let fits = rest.iter().take_while(|&&group| {
                rows += self.groups[group].tokens;
                rows <= limit
            });
            let (pass, later) = rest.split_at(fits.count().max(1));
            self.prefill_pass(pass)?;
            rest = later;
        }
        Ok(())
    }

    /// Rows computed in one pass: bounds the memory of activations.
    fn pass_rows(&self) -> usize {
        self.model.params.compute().row_limits().sampling
    }

    /// Asks for the prompts that are not there yet.
    fn fetch_prompts(&mut self, groups: &[usize], client: &mut dyn DecodeClient) -> Result<()> {
        let missing: Vec<usize> =
            groups.iter().copied().filter(|&group| self.groups[group].prompt.is_none()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let prompts = client.prompts(&missing)?;
        ensure!(prompts.len() == missing.len(), "one prompt per group is needed");
        for (&group, prompt) in missing.iter().zip(prompts) {
            let (got, said) = (prompt.ids.len(), self.groups[group].tokens);
            ensure!(got == said, "prompt {group} was said to have {said} tokens and has {got}");
            self.groups[group].prompt = Some(prompt);
        }
        Ok(())
    }

    fn prefill_pass(&mut self, groups: &[usize]) -> Result<()> {
        let model = self.model;
        let trees: Vec<Tree<'_>> = groups
            .iter()
            .filter_map(|&group| self.groups[group].prompt.as_ref())
            .map(|prompt| Tree { prompt, responses: vec![] })
            .collect();
        let packed = model.pack(&trees)?;
        let (mut x, _) = model.embed(&packed, &trees, false)?;
        let slots: Slots = groups
            .iter()
            .flat_map(|&group| {
                let pages = self.scheduler.prompt_pages(group);
                (0..self.groups[group].tokens).map(|token| slot(pages, token))
            })
            .collect();
        for (layer, cache) in model.layers.iter().zip(&mut self.cache) {
            let (y, saved) = layer.forward(&model.params, &x, &packed.rotary, &packed.blocks)?;
            let (k, v) = saved.keys_values();
            cache.write(k, v, &slots)?;
            x = y;
        }
        let ends: Vec<u32> = packed.prompt_ends.iter().map(|&(row, _)| row as u32).collect();
        let hidden = model.norm.forward(&model.params, &gather_rows(&x, &ends)?)?;
        for (i, (&group, &(_, next))) in groups.iter().zip(&packed.prompt_ends).enumerate() {
            self.groups[group].next = next;
            self.groups[group].hidden = Some(hidden.narrow(0, i, 1)?);
        }
        Ok(())
    }

    /// The normed hidden states (B, D) that predict the next token of every running sequence.
    fn hidden(&mut self) -> Result<Tensor> {
        let mut parts = self.advance()?;
        let mut advanced = 0;
        let mut rows: u32 = parts.iter().map(|part| part.dims()[0] as u32).sum();
        let mut last_group = None;
        let mut order = Vec::with_capacity(self.scheduler.running().len());
        for sequence in self.scheduler.running() {
            if sequence.tokens > 0 {
                order.push(advanced);
                advanced += 1;
            } else {
                if last_group != Some(sequence.group) {
                    last_group = Some(sequence.group);
                    let hidden = self.groups[sequence.group].hidden.clone();
                    parts.push(hidden.context("a sequence runs before its prompt is computed")?);
                    rows += 1;
                }
                order.push(rows - 1);
            }
        }
        let all = if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 0)? };
        if order.iter().copied().eq(0..rows) { Ok(all) } else { gather_rows(&all, &order) }
    }

    /// Runs all tokens that are not yet in the pages of their sequences; returns the normed hidden states of the newest
    /// token of each sequence that has one, in order, in one tensor per pass.
    fn advance(&mut self) -> Result<Vec<Tensor>> {
        let pending: Vec<(usize, usize)> = self
            .scheduler
            .running()
            .iter()
            .enumerate()
            .flat_map(|(at, sequence)| (sequence.stored..sequence.tokens).map(move |token| (at, token)))
            .collect();
        let mut parts = vec![];
        for rows in pending.chunks(self.pass_rows()) {
            let pass = self.pass(rows);
            let x = self.advance_pass(&pass)?;
            if pass.newest.len() == rows.len() {
                parts.push(x);
            } else if !pass.newest.is_empty() {
                parts.push(gather_rows(&x, &pass.newest)?);
            }
        }
        parts.iter().map(|x| self.model.norm.forward(&self.model.params, x)).collect()
    }

    /// Lays out a pass over `rows`: (place among the running, index of the own token), in order.
    fn pass(&self, rows: &[(usize, usize)]) -> Pass {
        let mut pass = Pass::default();
        let (mut group, mut place) = (None, None);
        let (mut prompt_start, mut own_start) = (0, 0);
        for (row, &(at, token)) in rows.iter().enumerate() {
            let sequence: &Sequence = &self.scheduler.running()[at];
            let owner = &self.groups[sequence.group];
            if group != Some(sequence.group) {
                group = Some(sequence.group);
                prompt_start = pass.table.pages.len() as u32;
                pass.table.pages.extend(self.scheduler.prompt_pages(sequence.group));
            }
            if place != Some(at) {
                place = Some(at);
                own_start = pass.table.pages.len() as u32;
                pass.table.pages.extend(&sequence.pages);
            }
            pass.ids.push(self.writers[sequence.id].completion.ids[token]);
            pass.positions.push(owner.next + token as u32);
            pass.slots.rows.push(slot(&sequence.pages, token));
            pass.table.prompt_start.push(prompt_start);
            pass.table.prompt_tokens.push(owner.tokens as u32);
            pass.table.own_start.push(own_start);
            pass.table.own_tokens.push(token as u32 + 1);
            if token + 1 == sequence.tokens {
                pass.newest.push(row as u32);
            }
        }
        pass
    }

    /// Runs one pass through all layers; returns the rows (N, D) before the last norm.
    fn advance_pass(&mut self, pass: &Pass) -> Result<Tensor> {
        let (model, p) = (self.model, &self.model.params);
        let rotary = Rotary::new(rotary_at(&self.angles, &pass.positions), p.get(model.embedding))?;
        let mut x = gather_rows(p.get(model.embedding), &pass.ids)?;
        for (layer, cache) in model.layers.iter().zip(&mut self.cache) {
            let (q, k, v) = layer.project(p, &layer.norm_input(p, &x)?, &rotary)?;
            cache.write(&k, &v, &pass.slots)?;
            x = layer.finish(p, &x, &cache.attend(&q, &pass.table)?)?;
        }
        Ok(x)
    }

    /// Draws the next token of every running sequence; returns which of them end with it.
    fn draw(&mut self, hidden: &Tensor) -> Result<Vec<bool>> {
        let DecodeRules { sampling, end, forbidden, .. } = self.rules;
        let running = self.scheduler.running();
        let uniforms: Vec<f64> = running.iter().map(|s| self.writers[s.id].stream.uniform()).collect();
        let drawn = draw(hidden, self.model.head(), &uniforms, sampling, forbidden)?;
        let record = |(sequence, (token, logp, entropy)): (&Sequence, (u32, f32, f32))| {
            let completion = &mut self.writers[sequence.id].completion;
            completion.ids.push(token);
            completion.logp.push(logp);
            completion.entropy.push(entropy);
            if end.contains(&token) {
                completion.stop = StopReason::EndToken;
            }
            completion.stop == StopReason::EndToken || completion.ids.len() == sampling.max_new_tokens
        };
        Ok(running.iter().zip(drawn).map(record).collect())
    }
}

/// The place of a token in the cache, given the pages of its run.
fn slot(pages: &[u32], token: usize) -> u32 {
    pages[token / PAGE] * PAGE as u32 + (token % PAGE) as u32
}
