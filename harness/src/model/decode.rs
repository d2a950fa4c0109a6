//! Generation: a static cache of keys and values, prompts computed once per group.
//!
//! The cache of a prompt is shared by all sequences that continue it. Each sequence owns a fixed slot for its own
//! keys and values; finished sequences leave the batch, the slots stay where they are.

use super::attention::{Heads, softmax};
use super::head::{Normaliser, map_logits};
use super::kernels::{axpy, gather_rows, on_a_worker, tensor, view};
use super::network::{Model, Prompt, Tree};
use super::positions::text_rotary;
use super::sampler::sample;
use crate::rng::Stream;
use crate::settings::Sampling;
use crate::types::StopReason;
use anyhow::{Result, ensure};
use candle_core::Tensor;
use rayon::prelude::*;

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

/// Keys and values of one layer.
struct LayerCache {
    /// Per prompt: keys (kv heads * size, P), values (P, kv heads * size).
    prompts: Vec<(Vec<f32>, Vec<f32>)>,
    /// Per sequence: keys (kv heads * size, limit), values (limit, kv heads * size).
    slots: Vec<(Vec<f32>, Vec<f32>)>,
}

/// One sequence being written.
struct Running {
    slot: usize,
    prompt: usize,
    position: u32,
    last: u32,
}

impl Model {
    /// Samples completions: `streams[i]` are the random streams of the sequences that continue `prompts[i]`, one per
    /// sequence, of which every token consumes one draw. Returns completions in the same shape.
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
        on_a_worker(|| self.generate_here(prompts, streams, sampling, end, forbidden))
    }

    fn generate_here(
        &self,
        prompts: &[&Prompt],
        streams: Vec<Vec<Stream>>,
        sampling: &Sampling,
        end: &[u32],
        forbidden: &[u32],
    ) -> Result<Vec<Vec<Completion>>> {
        ensure!(prompts.len() == streams.len(), "one list of streams per prompt is needed");
        ensure!(sampling.max_new_tokens > 0, "max_new_tokens must be at least 1");
        let shape: Vec<usize> = streams.iter().map(Vec::len).collect();
        let mut streams: Vec<Stream> = streams.into_iter().flatten().collect();
        let mut done: Vec<Completion> = streams
            .iter()
            .map(|_| Completion { ids: vec![], logp: vec![], entropy: vec![], stop: StopReason::Length })
            .collect();
        let (mut caches, ends, mut hidden) = self.prefill(prompts, &shape, sampling.max_new_tokens - 1)?;
        let owners = shape.iter().enumerate().flat_map(|(prompt, &n)| std::iter::repeat_n(prompt, n));
        let mut running: Vec<Running> = owners
            .enumerate()
            .map(|(slot, prompt)| Running { slot, prompt, position: ends[prompt], last: 0 })
            .collect();
        for step in 0..sampling.max_new_tokens {
            let drawn = self.draw(&hidden, &running, &mut streams, sampling, forbidden)?;
            for (sequence, (token, logp, entropy)) in running.iter_mut().zip(drawn) {
                let completion = &mut done[sequence.slot];
                completion.ids.push(token);
                completion.logp.push(logp);
                completion.entropy.push(entropy);
                sequence.last = token;
                if end.contains(&token) {
                    completion.stop = StopReason::EndToken;
                }
            }
            running.retain(|r| done[r.slot].stop == StopReason::Length);
            if running.is_empty() || step + 1 == sampling.max_new_tokens {
                break;
            }
            hidden = self.advance(&mut caches, &running, step)?;
            running.iter_mut().for_each(|r| r.position += 1);
        }
        let mut done = done.into_iter();
        Ok(shape.iter().map(|&n| done.by_ref().take(n).collect()).collect())
    }

    /// Runs the prompts; returns caches, the position after each prompt, and the normed hidden state that predicts
    /// each sequence's first token.
    fn prefill(
        &self,
        prompts: &[&Prompt],
        sequences: &[usize],
        limit: usize,
    ) -> Result<(Vec<LayerCache>, Vec<u32>, Tensor)> {
        let trees: Vec<Tree<'_>> = prompts.iter().map(|prompt| Tree { prompt, responses: vec![] }).collect();
        let packed = self.pack(&trees)?;
        let (mut x, _) = self.embed(&packed, &trees)?;
        let mut caches = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let (y, saved) = layer.forward(&self.params, &x, &packed.rotary, &packed.blocks)?;
            let (k, v) = saved.keys_values();
            caches.push(LayerCache::new(
                k,
                v,
                packed.blocks.iter().map(|b| b.len),
                sequences.iter().sum(),
                limit,
            )?);
            x = y;
        }
        let rows: Vec<u32> = packed
            .prompt_ends
            .iter()
            .zip(sequences)
            .flat_map(|((end, _), &n)| std::iter::repeat_n(*end as u32, n))
            .collect();
        let hidden = self.norm.forward(&self.params, &gather_rows(&x, &rows)?)?;
        Ok((caches, packed.prompt_ends.iter().map(|&(_, next)| next).collect(), hidden))
    }

    /// Runs one token of every running sequence; returns the normed hidden states (B, D).
    fn advance(&self, caches: &mut [LayerCache], running: &[Running], step: usize) -> Result<Tensor> {
        let p = &self.params;
        let ids: Vec<u32> = running.iter().map(|r| r.last).collect();
        let positions: Vec<[u32; 3]> = running.iter().map(|r| [r.position; 3]).collect();
        let rotary = text_rotary(&positions, &self.config)?;
        let mut x = gather_rows(p.get(self.embedding), &ids)?;
        for (layer, cache) in self.layers.iter().zip(caches) {
            let (q, k, v) = layer.project(p, &layer.norm_input(p, &x)?, &rotary)?;
            cache.append(&k, &v, running, step)?;
            let attended = cache.attend(&q, running, step + 1, layer.heads())?;
            x = layer.finish(p, &x, &attended)?;
        }
        self.norm.forward(p, &x)
    }

    /// Draws the next token of every running sequence: (token, log-probability, entropy).
    fn draw(
        &self,
        hidden: &Tensor,
        running: &[Running],
        streams: &mut [Stream],
        sampling: &Sampling,
        forbidden: &[u32],
    ) -> Result<Vec<(u32, f32, f32)>> {
        let uniforms: Vec<f64> = running.iter().map(|r| streams[r.slot].uniform()).collect();
        map_logits(hidden, self.head(), |i, logits| {
            let normaliser = Normaliser::of(logits);
            let token = sample(logits, uniforms[i], sampling, forbidden);
            (token, logits[token as usize] - normaliser.log, normaliser.entropy)
        })
    }
}

impl LayerCache {
    fn new(
        k: &Tensor,
        v: &Tensor,
        lengths: impl Iterator<Item = usize>,
        slots: usize,
        limit: usize,
    ) -> Result<Self> {
        let width = k.dim(1)?;
        let (ks, vs) = (view(k)?, view(v)?);
        let mut start = 0;
        let prompts = lengths
            .map(|len| {
                let rows = start * width..(start + len) * width;
                start += len;
                let mut keys = vec![0f32; len * width];
                for (row, k) in ks[rows.clone()].chunks(width).enumerate() {
                    k.iter().enumerate().for_each(|(d, &k)| keys[d * len + row] = k);
                }
                (keys, vs[rows].to_vec())
            })
            .collect();
        let slots = (0..slots).map(|_| (vec![0f32; limit * width], vec![0f32; limit * width])).collect();
        Ok(Self { prompts, slots })
    }

    /// Stores the running sequences' newest keys and values at place `step` of their slots.
    fn append(&mut self, k: &Tensor, v: &Tensor, running: &[Running], step: usize) -> Result<()> {
        let width = k.dim(1)?;
        let (ks, vs) = (view(k)?, view(v)?);
        for (i, sequence) in running.iter().enumerate() {
            let (keys, values) = &mut self.slots[sequence.slot];
            let limit = keys.len() / width;
            ks[i * width..][..width].iter().enumerate().for_each(|(d, &k)| keys[d * limit + step] = k);
            values[step * width..][..width].copy_from_slice(&vs[i * width..][..width]);
        }
        Ok(())
    }

    /// Attention of one query per sequence over its prompt and the first `own` places of its slot.
    fn attend(&self, q: &Tensor, running: &[Running], own: usize, heads: Heads) -> Result<Tensor> {
        let (qw, kw, size) = (heads.query * heads.size, heads.kv * heads.size, heads.size);
        let qs = view(q)?;
        let mut out = vec![0f32; qs.len()];
        out.par_chunks_mut(qw).zip(qs.par_chunks(qw)).zip(running.par_iter()).with_min_len(8).for_each(
            |((out, q), sequence)| {
                let ((pk, pv), (sk, sv)) = (&self.prompts[sequence.prompt], &self.slots[sequence.slot]);
                let (prompt, limit) = (pv.len() / kw, sv.len() / kw);
                let mut scores = vec![0f32; prompt + own];
                for head in 0..heads.query {
                    let kv = head / (heads.query / heads.kv) * size;
                    scores.fill(0.0);
                    let (a, b) = scores.split_at_mut(prompt);
                    for (d, &q) in q[head * size..][..size].iter().enumerate() {
                        axpy(a, q, &pk[(kv + d) * prompt..][..prompt]);
                        axpy(b, q, &sk[(kv + d) * limit..][..own]);
                    }
                    softmax(&mut scores, 1.0 / (size as f32).sqrt());
                    let out = &mut out[head * size..][..size];
                    for (&p, v) in scores.iter().zip(pv.chunks(kw).chain(sv.chunks(kw))) {
                        axpy(out, p, &v[kv..][..size]);
                    }
                }
            },
        );
        tensor(out, q.dims())
    }
}
