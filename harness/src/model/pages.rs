//! The paged cache of one layer: keys and values of many sequences in pages of [`PAGE`] tokens, and the attention that
//! reads them.
//!
//! Which page belongs to whom is [`super::schedule`]'s business. How a page is laid out is known only here: per head of
//! keys and values, the keys as (head size, [`PAGE`]), so that the scores of a page are one vector, and the values as
//! ([`PAGE`], head size). Every sum has the order in which [`super::attention`] adds, so that a row's result is the
//! same, bit for bit, however its keys came into the cache.

use super::attention::{Heads, softmax};
#[cfg(feature = "gpu")]
use super::compute::on_card;
#[cfg(feature = "gpu")]
use super::gpu::launch::upload;
#[cfg(feature = "gpu")]
use super::gpu::pages::{CardPages, CardTable};
use super::kernels::{axpy, tensor, view};
use super::schedule::PAGE;
use anyhow::{Result, ensure};
use candle_core::Tensor;
use rayon::prelude::*;
#[cfg(feature = "gpu")]
use std::sync::OnceLock;

/// Fewest rows of attention that are worth a task of their own.
const ROWS: usize = 8;

/// Keys and values of one layer in pages.
pub(crate) struct LayerPages {
    heads: Heads,
    /// (pages, kv heads, head size, PAGE)
    keys: Vec<f32>,
    /// (pages, kv heads, PAGE, head size)
    values: Vec<f32>,
    /// In place of both, where the model is on a card.
    #[cfg(feature = "gpu")]
    card: Option<CardPages>,
}

/// What each row of queries sees: the first tokens of its prompt's pages, then the first of its own pages.
#[derive(Clone, Debug, Default)]
pub(crate) struct PageTable {
    /// Page numbers of all prompts and sequences, one list after another.
    pub pages: Vec<u32>,
    /// Per row: where its prompt's pages begin in `pages`.
    pub prompt_start: Vec<u32>,
    /// Per row: tokens of its prompt.
    pub prompt_tokens: Vec<u32>,
    /// Per row: where its own pages begin in `pages`.
    pub own_start: Vec<u32>,
    /// Per row: own tokens that it sees, itself included.
    pub own_tokens: Vec<u32>,
    /// The same on a card, from the first attention on.
    #[cfg(feature = "gpu")]
    pub card: OnceLock<CardTable>,
}

/// Where rows of keys and values go, in every layer: `page * PAGE + offset` of each row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slots {
    pub rows: Vec<u32>,
    /// The same on a card, from the first layer on.
    #[cfg(feature = "gpu")]
    card: OnceLock<Tensor>,
}

impl Slots {
    /// The slots on the card of `like`.
    #[cfg(feature = "gpu")]
    fn on_card(&self, like: &Tensor) -> Result<&Tensor> {
        if let Some(card) = self.card.get() {
            return Ok(card);
        }
        let card = upload(&self.rows, &[self.rows.len()], like)?;
        Ok(self.card.get_or_init(|| card))
    }
}

impl FromIterator<u32> for Slots {
    fn from_iter<I: IntoIterator<Item = u32>>(rows: I) -> Self {
        let mut slots = Self::default();
        slots.rows.extend(rows);
        slots
    }
}

/// A run of tokens in consecutive entries of a page table.
struct Run<'a> {
    pages: &'a [u32],
    tokens: usize,
}

impl Run<'_> {
    /// Pages with the number of their tokens that count.
    fn pages(&self) -> impl Iterator<Item = (usize, usize)> {
        self.pages.iter().enumerate().map(|(i, &page)| (page as usize, PAGE.min(self.tokens - i * PAGE)))
    }
}

impl PageTable {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.own_tokens.len()
    }

    /// The table on the card of `like`.
    #[cfg(feature = "gpu")]
    fn on_card(&self, like: &Tensor) -> Result<&CardTable> {
        if let Some(card) = self.card.get() {
            return Ok(card);
        }
        let row =
            |i: usize| [self.prompt_start[i], self.prompt_tokens[i], self.own_start[i], self.own_tokens[i]];
        let spans: Vec<u32> = (0..self.rows()).flat_map(row).collect();
        let card = CardTable::new(&self.pages, &spans, like)?;
        Ok(self.card.get_or_init(|| card))
    }

    /// The two runs that a row sees, in the order of their tokens.
    fn runs(&self, row: usize) -> [Run<'_>; 2] {
        let run = |start: u32, tokens: u32| Run {
            pages: &self.pages[start as usize..][..(tokens as usize).div_ceil(PAGE)],
            tokens: tokens as usize,
        };
        [run(self.prompt_start[row], self.prompt_tokens[row]), run(self.own_start[row], self.own_tokens[row])]
    }
}

impl LayerPages {
    /// An empty cache of `pages` pages on the device of `like`. On the processor memory is touched only where something
    /// is written.
    pub fn new(pages: usize, heads: Heads, like: &Tensor) -> Result<Self> {
        #[cfg(feature = "gpu")]
        if on_card(like) {
            let card = Some(CardPages::new(pages, heads, like)?);
            return Ok(Self { heads, keys: vec![], values: vec![], card });
        }
        let _ = like;
        let numbers = pages * PAGE * heads.kv * heads.size;
        Ok(Self {
            heads,
            keys: vec![0f32; numbers],
            values: vec![0f32; numbers],
            #[cfg(feature = "gpu")]
            card: None,
        })
    }

    /// Writes rows of keys and values (N, kv heads * size) into slots (N).
    pub fn write(&mut self, keys: &Tensor, values: &Tensor, slots: &Slots) -> Result<()> {
        #[cfg(feature = "gpu")]
        if let Some(card) = &self.card {
            return card.write(keys, values, slots.on_card(keys)?, self.heads);
        }
        let Heads { kv, size, .. } = self.heads;
        let (ks, vs) = (view(keys)?, view(values)?);
        let slots = &slots.rows;
        ensure!(ks.len() == slots.len() * kv * size && vs.len() == ks.len(), "one slot per row is needed");
        for (row, &slot) in slots.iter().enumerate() {
            let (page, offset) = (slot as usize / PAGE, slot as usize % PAGE);
            for head in 0..kv {
                let at = (page * kv + head) * PAGE * size;
                let from = (row * kv + head) * size;
                let block = &mut self.keys[at..at + PAGE * size];
                for (column, &key) in block.chunks_exact_mut(PAGE).zip(&ks[from..from + size]) {
                    column[offset] = key;
                }
                self.values[at + offset * size..][..size].copy_from_slice(&vs[from..from + size]);
            }
        }
        Ok(())
    }

    /// Attention of each row of q (B, query heads * size) over what `table` says that it sees; the same shape.
    pub fn attend(&self, q: &Tensor, table: &PageTable) -> Result<Tensor> {
        #[cfg(feature = "gpu")]
        if let Some(card) = &self.card {
            return card.attend(q, table.on_card(q)?, self.heads);
        }
        let width = self.heads.query * self.heads.size;
        let qs = view(q)?;
        ensure!(qs.len() == table.rows() * width, "one entry of the page table per row of queries is needed");
        let mut out = vec![0f32; qs.len()];
        out.par_chunks_mut(width * ROWS).zip(qs.par_chunks(width * ROWS)).enumerate().for_each(
            |(block, (out, q))| {
                let mut scratch = vec![];
                for (i, (out, q)) in out.chunks_mut(width).zip(q.chunks(width)).enumerate() {
                    self.attend_row(q, &table.runs(block * ROWS + i), &mut scratch, out);
                }
            },
        );
        tensor(out, q.dims())
    }

    /// One row; `scratch` is room for scores. Query heads that share keys go in pairs, for more independent sums.
    fn attend_row(&self, q: &[f32], runs: &[Run<'_>; 2], scratch: &mut Vec<f32>, out: &mut [f32]) {
        let Heads { query, kv, size } = self.heads;
        let shared = query / kv * size;
        scratch.resize(2 * (runs[0].tokens + runs[1].tokens), 0.0);
        for (head, (q, out)) in q.chunks_exact(shared).zip(out.chunks_exact_mut(shared)).enumerate() {
            for (q, out) in q.chunks(2 * size).zip(out.chunks_mut(2 * size)) {
                if q.len() == 2 * size {
                    self.attend_heads::<2>(head, q, runs, scratch, out);
                } else {
                    self.attend_heads::<1>(head, q, runs, scratch, out);
                }
            }
        }
    }

    /// N query heads (N * size) that share head `head` of keys and values.
    fn attend_heads<const N: usize>(
        &self,
        head: usize,
        q: &[f32],
        runs: &[Run<'_>; 2],
        scores: &mut [f32],
        out: &mut [f32],
    ) {
        let Heads { kv, size, .. } = self.heads;
        let block = PAGE * size;
        let tokens = runs[0].tokens + runs[1].tokens;
        let pages = || {
            let starts = runs.iter().flat_map(Run::pages);
            starts.map(|(page, count)| ((page * kv + head) * block, count))
        };
        let mut done = 0;
        for (at, count) in pages() {
            let products = page_scores::<N>(q, size, &self.keys[at..at + block]);
            for (h, products) in products.iter().enumerate() {
                scores[h * tokens + done..][..count].copy_from_slice(&products[..count]);
            }
            done += count;
        }
        for scores in scores.chunks_exact_mut(tokens).take(N) {
            softmax(scores, 1.0 / (size as f32).sqrt());
        }
        let mut first = 0;
        while first < size {
            let x = Weighted { scores, tokens, values: &self.values, size, first };
            first += match size - first {
                32.. => x.add::<N, 32>(pages(), out),
                16.. => x.add::<N, 16>(pages(), out),
                8.. => x.add::<N, 8>(pages(), out),
                _ => x.add::<N, 1>(pages(), out),
            };
        }
    }
}

/// Probabilities (heads, tokens) and the values that they weigh, from column `first` of the head on.
struct Weighted<'a> {
    scores: &'a [f32],
    tokens: usize,
    values: &'a [f32],
    size: usize,
    first: usize,
}

impl Weighted<'_> {
    /// Sums C columns of N heads over pages, given by the start of their values and their tokens, into `out`
    /// (N * size); returns C.
    fn add<const N: usize, const C: usize>(
        &self,
        pages: impl Iterator<Item = (usize, usize)>,
        out: &mut [f32],
    ) -> usize {
        let Self { scores, tokens, values, size, first } = *self;
        let mut sums = [[0f32; C]; N];
        let mut done = 0;
        for (at, count) in pages {
            let weights = std::array::from_fn(|h| &scores[h * tokens + done..][..count]);
            add_values(&mut sums, weights, &values[at..at + count * size], size, first);
            done += count;
        }
        for (out, sums) in out.chunks_exact_mut(size).zip(&sums) {
            out[first..first + C].copy_from_slice(sums);
        }
        C
    }
}

/// Products of N queries (N * size) with all keys (size, PAGE) of a page.
///
/// Like [`add_values`] kept out of its caller: alone, all sums stay in registers.
#[inline(never)]
fn page_scores<const N: usize>(q: &[f32], size: usize, keys: &[f32]) -> [[f32; PAGE]; N] {
    let q: [&[f32]; N] = std::array::from_fn(|h| &q[h * size..][..size]);
    let mut sums = [[0f32; PAGE]; N];
    for (d, keys) in keys.chunks_exact(PAGE).enumerate() {
        for (sums, q) in sums.iter_mut().zip(q) {
            axpy(sums, q[d], keys);
        }
    }
    sums
}

/// Adds C columns, from `first` on, of the values (tokens, size) of a page, weighted for N heads.
#[inline(never)]
fn add_values<const N: usize, const C: usize>(
    sums: &mut [[f32; C]; N],
    weights: [&[f32]; N],
    values: &[f32],
    size: usize,
    first: usize,
) {
    let mut local = *sums;
    for (token, row) in values.chunks_exact(size).enumerate() {
        let row = &row[first..first + C];
        for (sums, weights) in local.iter_mut().zip(weights) {
            axpy(sums, weights[token], row);
        }
    }
    *sums = local;
}

#[cfg(test)]
mod tests {
    use super::super::attention::{Block, attention};
    use super::*;
    use crate::rng::{Purpose, stream};

    fn rows(name: &str, n: usize, width: usize) -> Vec<f32> {
        let mut draws = stream(1, Purpose::World, &[name.into()]);
        (0..n * width).map(|_| draws.normal() as f32).collect()
    }

    /// Two sequences that continue a prompt of 37 tokens, their keys and values in scattered pages.
    #[test]
    fn attention_over_pages_is_attention_over_rows() {
        for size in [8, 16, 20, 40] {
            let heads = Heads { query: 4, kv: 2, size };
            let (qw, kw) = (4 * size, 2 * size);
            let (prompt, own) = (37usize, [33usize, 5]);
            let n = prompt + own[0] + own[1];
            let (q, k, v) = (rows("q", n, qw), rows("k", n, kw), rows("v", n, kw));
            let full = |x: &[f32], width| tensor(x.to_vec(), &[n, width]).unwrap();
            let blocks = [Block::tree(prompt, own)];
            let (want, _) = attention(&full(&q, qw), &full(&k, kw), &full(&v, kw), &blocks, heads).unwrap();
            let want = view(&want).unwrap().to_vec();

            let table = [vec![6u32, 1], vec![3, 0], vec![5]];
            let owners = [(0usize, prompt), (1, own[0]), (2, own[1])];
            let places = owners.iter().flat_map(|&(owner, tokens)| (0..tokens).map(move |i| (owner, i)));
            let slots: Vec<u32> = places
                .clone()
                .map(|(owner, i)| table[owner][i / PAGE] * PAGE as u32 + (i % PAGE) as u32)
                .collect();
            let mut pages = LayerPages::new(7, heads, &full(&q, qw)).unwrap();
            pages.write(&full(&k, kw), &full(&v, kw), &slots.into_iter().collect()).unwrap();
            let starts = [0u32, 2, 4];
            let mut seen = PageTable { pages: table.concat(), ..PageTable::default() };
            for (owner, i) in places.skip(prompt) {
                seen.prompt_start.push(starts[0]);
                seen.prompt_tokens.push(prompt as u32);
                seen.own_start.push(starts[owner]);
                seen.own_tokens.push(i as u32 + 1);
            }
            let queries = tensor(q[prompt * qw..].to_vec(), &[n - prompt, qw]).unwrap();
            let got = pages.attend(&queries, &seen).unwrap();
            let got = view(&got).unwrap();
            for (i, (a, b)) in got.iter().zip(&want[prompt * qw..]).enumerate() {
                assert!((a - b).abs() < 1e-5, "head size {size}, number {i}: {a} and {b}");
            }
        }
    }
}
