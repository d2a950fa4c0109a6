//! Attention over packed trees made of FlashAttention-2 calls.
//!
//! A response row sees its prompt and its own earlier rows. Two calls give the two parts: every segment over itself, causal;
//! all responses of a block over its prompt, full. Softmax over both parts is their average, weighted by their normalisers;
//! the backward of each part from the merged output and normaliser gives exactly its share of the gradients.

use super::attention::check;
use super::launch::{Grid, int, launch, pointer, upload};
use super::ops::{gather_rows, scatter_rows_into};
use super::varlen::{Inputs, Sequences, backward, forward};
use crate::model::attention::{Block, Heads};
use anyhow::Result;
use candle_core::Tensor;

/// How the blocks of a packed batch become calls.
#[derive(Clone, Debug)]
pub(crate) struct FlashTree {
    segments: Sequences,
    shared: Option<Shared>,
}

/// The part in which responses attend to their prompts.
#[derive(Clone, Debug)]
struct Shared {
    /// Rows of responses, block by block, and the same on the card.
    responses: Vec<u32>,
    index: Tensor,
    /// Rows of their prompts.
    prompts: Vec<u32>,
    sequences: Sequences,
}

impl FlashTree {
    /// The calls for these blocks, all causal trees or all full windows.
    pub fn new(blocks: &[Block], like: &Tensor) -> Result<Self> {
        let causal = blocks.first().is_some_and(|block| block.causal);
        let lengths: Vec<(usize, usize)> = blocks
            .iter()
            .flat_map(|block| block.segments.iter().map(|segment| (segment.len, segment.len)))
            .filter(|&(rows, _)| rows > 0)
            .collect();
        let segments = Sequences::new(&lengths, causal, like)?;
        let (mut responses, mut prompts, mut lengths, mut first) = (vec![], vec![], vec![], 0);
        for block in blocks {
            let prompt = block.segments.iter().map(|segment| segment.prefix).max().unwrap_or(0);
            if prompt > 0 && block.len > prompt {
                responses.extend((first + prompt..first + block.len).map(|row| row as u32));
                prompts.extend((first..first + prompt).map(|row| row as u32));
                lengths.push((block.len - prompt, prompt));
            }
            first += block.len;
        }
        let shared = match responses.is_empty() {
            true => None,
            false => Some(Shared {
                index: upload(&responses, &[responses.len()], like)?,
                sequences: Sequences::new(&lengths, false, like)?,
                responses,
                prompts,
            }),
        };
        Ok(Self { segments, shared })
    }

    /// See [`attention`](super::attention::attention).
    pub fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, heads: Heads) -> Result<(Tensor, Tensor)> {
        check(heads)?;
        let (out, lse) = forward(Inputs { q, k, v, heads }, &self.segments)?;
        if let Some(shared) = &self.shared {
            let [q, k, v] = shared.parts(q, k, v)?;
            let (other, other_lse) = forward(Inputs { q: &q, k: &k, v: &v, heads }, &shared.sequences)?;
            let (n, m) = (out.dim(0)?, shared.responses.len());
            let args = [
                pointer(&out)?,
                pointer(&lse)?,
                pointer(&other)?,
                pointer(&other_lse)?,
                pointer(&shared.index)?,
                int(m)?,
                int(n)?,
                int(heads.query)?,
                int(heads.size)?,
            ];
            launch("attention_merge", out.dtype(), &out, Grid::threads(m * heads.query), &args)?;
        }
        Ok((out, lse))
    }

    /// See [`attention_backward`](super::attention::attention_backward).
    pub fn attention_backward(
        &self,
        [q, k, v, out]: [&Tensor; 4],
        lse: &Tensor,
        heads: Heads,
        dout: &Tensor,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let own = Inputs { q, k, v, heads };
        let (dq, dk, dv) = summed_backward(own, &self.segments, (out, lse), dout)?;
        if let Some(shared) = &self.shared {
            let [q, k, v] = shared.parts(q, k, v)?;
            let out = gather_rows(out, &shared.responses)?;
            let slope = gather_rows(dout, &shared.responses)?;
            let normal = lse.index_select(&shared.index, 1)?;
            let other = Inputs { q: &q, k: &k, v: &v, heads };
            let (q, k, v) = summed_backward(other, &shared.sequences, (&out, &normal), &slope)?;
            scatter_rows_into(&dq, &q, &shared.responses)?;
            scatter_rows_into(&dk, &k, &shared.prompts)?;
            scatter_rows_into(&dv, &v, &shared.prompts)?;
        }
        Ok((dq, dk, dv))
    }
}

impl Shared {
    /// Queries of the responses, keys and values of the prompts.
    fn parts(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<[Tensor; 3]> {
        Ok([gather_rows(q, &self.responses)?, gather_rows(k, &self.prompts)?, gather_rows(v, &self.prompts)?])
    }
}

/// As [`backward`], which gives the gradients of keys and values for every query head: those are gone at the end.
fn summed_backward(
    inputs: Inputs<'_>,
    sequences: &Sequences,
    merged: (&Tensor, &Tensor),
    dout: &Tensor,
) -> Result<(Tensor, Tensor, Tensor)> {
    let heads = inputs.heads;
    let (dq, dk, dv) = backward(inputs, sequences, merged, dout)?;
    Ok((dq, sum_groups(&dk, heads)?, sum_groups(&dv, heads)?))
}

/// (M, query heads * size) summed over the query heads of each head of keys: (M, kv heads * size).
fn sum_groups(x: &Tensor, Heads { query, kv, size }: Heads) -> Result<Tensor> {
    if query == kv {
        return Ok(x.clone());
    }
    let m = x.dim(0)?;
    Ok(x.reshape((m, kv, query / kv, size))?.sum(2)?.reshape((m, kv * size))?)
}
