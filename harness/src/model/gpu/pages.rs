//! The paged cache of one layer on a card: the counterpart of `pages.rs`. Both keys and values lie as (pages, kv heads,
//! PAGE, head size), so that a page of one head is one piece of memory.

use super::attention::check;
use super::launch::{Grid, empty, int, launch, pointer, upload};
use crate::model::attention::Heads;
use crate::model::schedule::PAGE;
use anyhow::{Result, ensure};
use candle_core::Tensor;

/// Threads of a block of `attend_pages`.
const THREADS: u32 = 128;

/// Keys and values of one layer in pages.
pub(crate) struct CardPages {
    keys: Tensor,
    values: Tensor,
}

/// Pages and spans of a batch of sequences, uploaded.
#[derive(Clone, Debug)]
pub(crate) struct CardTable {
    pages: Tensor,
    /// (B, 4): first entry and tokens of the prompt, then of the sequence's own.
    spans: Tensor,
}

impl CardTable {
    pub fn new(pages: &[u32], spans: &[u32], like: &Tensor) -> Result<Self> {
        Ok(Self {
            pages: upload(pages, &[pages.len()], like)?,
            spans: upload(spans, &[spans.len() / 4, 4], like)?,
        })
    }
}

impl CardPages {
    /// A cache of `pages` pages; nothing is read that was not written.
    pub fn new(pages: usize, heads: Heads, like: &Tensor) -> Result<Self> {
        check(heads)?;
        let room = || empty(&[pages, heads.kv, PAGE, heads.size], like.dtype(), like);
        Ok(Self { keys: room()?, values: room()? })
    }

    /// Writes rows of keys and values (N, kv heads * size) into slots (N).
    pub fn write(&self, k: &Tensor, v: &Tensor, slots: &Tensor, heads: Heads) -> Result<()> {
        let (n, width) = k.dims2()?;
        ensure!(slots.dims() == [n] && v.dims() == k.dims(), "one slot per row is needed");
        let args = [
            pointer(&self.keys)?,
            pointer(&self.values)?,
            pointer(k)?,
            pointer(v)?,
            pointer(slots)?,
            int(n)?,
            int(heads.kv)?,
            int(heads.size)?,
        ];
        launch("put_keys_values", k.dtype(), k, Grid::threads(n * width), &args)
    }

    /// Attention of each row of q (B, query heads * size); the same shape.
    pub fn attend(&self, q: &Tensor, table: &CardTable, heads: Heads) -> Result<Tensor> {
        let out = empty(q.dims(), q.dtype(), q)?;
        let args = [
            pointer(q)?,
            pointer(&self.keys)?,
            pointer(&self.values)?,
            pointer(&table.pages)?,
            pointer(&table.spans)?,
            pointer(&out)?,
            int(heads.query)?,
            int(heads.kv)?,
            int(heads.size)?,
            heads.scale().into(),
        ];
        launch("attend_pages", q.dtype(), q, Grid::plane(q.dim(0)?, heads.kv, THREADS), &args)?;
        Ok(out)
    }
}
