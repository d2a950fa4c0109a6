//! The whole model: vision tower, language model, head; forward and backward over packed groups.

use super::attention::{Block, Heads};
use super::compute::Compute;
use super::config::VlConfig;
use super::head::TokenScores;
use super::layer::{Kept, Layer, LayerSpec, Norm};
use super::ops::{self, Blocks, Head, Rotary, gather_rows, put_rows, scatter_rows};
use super::params::{Grads, Id, Params, Source};
use super::positions::{prompt_positions, text_rotary};
use super::vision::{VisionSaved, VisionTower};
use crate::image::Patches;
use anyhow::{Result, ensure};
use candle_core::Tensor;

/// A prompt with the pictures it shows.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// Token ids, with one picture token per visual token.
    pub ids: Vec<u32>,
    /// Its pictures, in order.
    pub pictures: Vec<std::sync::Arc<Patches>>,
}

/// One prompt and the responses to score or train on; the prompt is computed once for all of them.
#[derive(Clone, Debug)]
pub struct Tree<'a> {
    /// The shared prompt.
    pub prompt: &'a Prompt,
    /// Token ids of each response (end token last, where it was written); none may be empty.
    pub responses: Vec<&'a [u32]>,
}

/// Per-token results of scoring, in the order trees, responses, tokens.
#[derive(Clone, Debug)]
pub struct Scores {
    /// log pi(token) under the full softmax at temperature 1, per response.
    pub logp: Vec<Vec<f32>>,
    /// Entropy in nats of the distribution each token was drawn from, per response.
    pub entropy: Vec<Vec<f32>>,
}

/// A Qwen2.5-VL model: its configuration, parameters and structure.
#[derive(Clone, Debug)]
pub struct Model {
    pub(crate) config: VlConfig,
    pub(crate) params: Params,
    vision: VisionTower,
    pub(crate) embedding: Id,
    pub(crate) layers: Vec<Layer>,
    pub(crate) norm: Norm,
    /// The output head where it is not the embedding.
    head: Option<Id>,
}

/// A forward pass kept for its backward.
pub struct Forward {
    packed: Packed,
    vision: Option<VisionSaved>,
    layers: Vec<Kept>,
    x: Tensor,
    hidden: Tensor,
    /// Log-probabilities and entropies.
    pub scores: Scores,
}

/// Gives tensors in the type and on the device of the model, one by one.
struct Placed<'a> {
    source: &'a mut dyn Source,
    compute: &'a Compute,
}

impl Source for Placed<'_> {
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.compute.place(&self.source.take(name, shape)?)
    }
}

/// Trees as they are laid out, row by row.
#[derive(Default)]
struct Rows {
    ids: Vec<u32>,
    positions: Vec<[u32; 3]>,
    blocks: Vec<Block>,
    predicting: Vec<u32>,
    targets: Vec<u32>,
    lengths: Vec<usize>,
    pictures: Vec<u32>,
    prompt_ends: Vec<(usize, u32)>,
}

/// Trees laid out as rows without padding.
pub(crate) struct Packed {
    pub ids: Vec<u32>,
    pub blocks: Blocks,
    pub rotary: Rotary,
    /// Rows whose distribution predicts a response token, and that token, response by response.
    rows: Vec<u32>,
    targets: Vec<u32>,
    lengths: Vec<usize>,
    /// Rows that hold visual tokens, in order.
    picture_rows: Vec<u32>,
    /// Last row and next position of each prompt.
    pub prompt_ends: Vec<(usize, u32)>,
}

impl Model {
    pub(crate) fn build(config: VlConfig, source: &mut dyn Source, compute: &Compute) -> Result<Self> {
        let source: &mut dyn Source = &mut Placed { source, compute };
        let mut params = Params::new(compute.clone());
        let t = &config.text;
        let name = "model.embed_tokens.weight".to_owned();
        let value = source.take(&name, &[t.vocab_size, t.hidden_size])?;
        let embedding = params.insert(name, value);
        let spec = LayerSpec {
            hidden: t.hidden_size,
            intermediate: t.intermediate_size,
            heads: Heads {
                query: t.num_attention_heads,
                kv: t.num_key_value_heads,
                size: config.head_size(),
            },
            eps: t.rms_norm_eps,
            vision: false,
        };
        let layers = (0..t.num_hidden_layers)
            .map(|i| Layer::new(&mut params, source, &format!("model.layers.{i}"), &spec))
            .collect::<Result<_>>()?;
        let norm = Norm::new(&mut params, source, "model.norm", t.hidden_size, t.rms_norm_eps)?;
        let head = if config.tie_word_embeddings {
            None
        } else {
            let name = "lm_head.weight".to_owned();
            let value = source.take(&name, &[t.vocab_size, t.hidden_size])?;
            Some(params.insert(name, value))
        };
        let vision = VisionTower::new(&mut params, source, &config)?;
        Ok(Self { config, params, vision, embedding, layers, norm, head })
    }

    /// The configuration.
    pub fn config(&self) -> &VlConfig {
        &self.config
    }

    /// The parameters.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The parameters, to be changed by an optimiser or a test.
    pub fn params_mut(&mut self) -> &mut Params {
        &mut self.params
    }

    /// Runs work whose operations are those of the model's device.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.params.compute().run(work)
    }

    /// The output head.
    pub(crate) fn head(&self) -> Head<'_> {
        let weight = self.params.get(self.head.unwrap_or(self.embedding));
        Head { weight, rows: self.params.compute().row_limits().logits }
    }

    pub(crate) fn pack(&self, trees: &[Tree<'_>]) -> Result<Packed> {
        let mut rows = Rows::default();
        for tree in trees {
            self.pack_tree(tree, &mut rows)?;
        }
        let vocab = self.config.text.vocab_size;
        if let Some(id) = rows.ids.iter().chain(&rows.targets).find(|&&id| id as usize >= vocab) {
            anyhow::bail!("token id {id} is outside the model's vocabulary of {vocab}");
        }
        let like = self.params.get(self.embedding);
        Ok(Packed {
            blocks: Blocks::new(rows.blocks, like, self.params.compute())?,
            rotary: Rotary::new(text_rotary(&rows.positions, &self.config)?, like)?,
            ids: rows.ids,
            rows: rows.predicting,
            targets: rows.targets,
            lengths: rows.lengths,
            picture_rows: rows.pictures,
            prompt_ends: rows.prompt_ends,
        })
    }

    fn pack_tree(&self, tree: &Tree<'_>, rows: &mut Rows) -> Result<()> {
        let (merge, image) = (self.config.vision.spatial_merge_size, self.config.image_token_id);
        let grids: Vec<[usize; 3]> = tree.prompt.pictures.iter().map(|p| p.grid_thw).collect();
        let (prompt, next) = prompt_positions(&tree.prompt.ids, image, &grids, merge)?;
        ensure!(!prompt.is_empty(), "empty prompt");
        let first = rows.ids.len();
        let shows = tree.prompt.ids.iter().enumerate().filter(|(_, id)| **id == image);
        rows.pictures.extend(shows.map(|(i, _)| (first + i) as u32));
        rows.ids.extend(&tree.prompt.ids);
        rows.positions.extend(prompt);
        let end = rows.ids.len() - 1;
        rows.prompt_ends.push((end, next));
        for response in &tree.responses {
            let (&_last, input) = response.split_last().ok_or_else(|| anyhow::anyhow!("empty response"))?;
            let start = rows.ids.len() as u32;
            rows.predicting.push(end as u32);
            rows.predicting.extend(start..start + input.len() as u32);
            rows.targets.extend_from_slice(response);
            rows.lengths.push(response.len());
            rows.ids.extend(input);
            rows.positions.extend((next..).take(input.len()).map(|p| [p; 3]));
        }
        rows.blocks.push(Block::tree(tree.prompt.ids.len(), tree.responses.iter().map(|r| r.len() - 1)));
        Ok(())
    }

    /// Embeddings of a packed batch with the visual tokens in their places; what the vision tower's backward needs, if
    /// there are pictures and it is to be kept.
    pub(crate) fn embed(
        &self,
        packed: &Packed,
        trees: &[Tree<'_>],
        keep: bool,
    ) -> Result<(Tensor, Option<VisionSaved>)> {
        let x = gather_rows(self.params.get(self.embedding), &packed.ids)?;
        let pictures: Vec<&Patches> =
            trees.iter().flat_map(|t| t.prompt.pictures.iter().map(|p| p.as_ref())).collect();
        if pictures.is_empty() {
            return Ok((x, None));
        }
        let (tokens, saved) = self.vision.forward(&self.params, &pictures, keep)?;
        put_rows(&x, &tokens, &packed.picture_rows)?;
        Ok((x, saved))
    }

    /// Scores the responses of all trees and keeps what the backward needs.
    pub fn forward(&self, trees: &[Tree<'_>]) -> Result<Forward> {
        self.run(|| self.forward_here(trees))
    }

    fn forward_here(&self, trees: &[Tree<'_>]) -> Result<Forward> {
        let packed = self.pack(trees)?;
        let (mut x, vision) = self.embed(&packed, trees, true)?;
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let recompute = self.params.compute().recompute();
            let (y, kept) = layer.forward_kept(&self.params, x, &packed.rotary, &packed.blocks, recompute)?;
            layers.push(kept);
            x = y;
        }
        let x = gather_rows(&x, &packed.rows)?;
        let hidden = self.norm.forward(&self.params, &x)?;
        let scores = packed.split(ops::score(&hidden, self.head(), &packed.targets)?);
        Ok(Forward { packed, vision, layers, x, hidden, scores })
    }

    /// Adds the gradients of `sum over tokens of dlogp * logp`, where `dlogp` is given per response and token.
    pub fn backward(&self, forward: &Forward, dlogp: &[Vec<f64>], grads: &mut Grads) -> Result<()> {
        self.run(|| self.backward_here(forward, dlogp, grads))
    }

    fn backward_here(&self, forward: &Forward, dlogp: &[Vec<f64>], grads: &mut Grads) -> Result<()> {
        let (p, packed) = (&self.params, &forward.packed);
        let lengths: Vec<usize> = dlogp.iter().map(Vec::len).collect();
        ensure!(lengths == packed.lengths, "one derivative per response token is needed");
        let flat: Vec<f32> = dlogp.iter().flatten().map(|&g| g as f32).collect();
        let id = self.head.unwrap_or(self.embedding);
        let dhidden = ops::score_backward(&forward.hidden, (id, self.head()), &packed.targets, &flat, grads)?;
        let dx = self.norm.backward(p, &forward.x, &dhidden, grads)?;
        let mut d = scatter_rows(&dx, &packed.rows, packed.ids.len())?;
        for (layer, kept) in self.layers.iter().zip(&forward.layers).rev() {
            d = layer.backward_kept(p, kept, &packed.rotary, &packed.blocks, &d, grads)?;
        }
        if let Some(vision) = &forward.vision {
            self.vision.backward(p, vision, &gather_rows(&d, &packed.picture_rows)?, grads)?;
        }
        let text: Vec<u32> =
            (0..packed.ids.len() as u32).filter(|r| packed.picture_rows.binary_search(r).is_err()).collect();
        let ids: Vec<u32> = text.iter().map(|&row| packed.ids[row as usize]).collect();
        grads.add_rows(self.embedding, &gather_rows(&d, &text)?, &ids)
    }

    /// Final hidden states that predict the response tokens, and those tokens: (M, D), no gradient kept.
    fn hidden(&self, trees: &[Tree<'_>]) -> Result<(Tensor, Packed)> {
        let packed = self.pack(trees)?;
        let (mut x, _) = self.embed(&packed, trees, false)?;
        for layer in &self.layers {
            x = layer.forward(&self.params, &x, &packed.rotary, &packed.blocks)?.0;
        }
        Ok((self.norm.forward(&self.params, &gather_rows(&x, &packed.rows)?)?, packed))
    }

    /// Scores given responses.
    pub fn score(&self, trees: &[Tree<'_>]) -> Result<Scores> {
        self.run(|| {
            let (hidden, packed) = self.hidden(trees)?;
            Ok(packed.split(ops::score(&hidden, self.head(), &packed.targets)?))
        })
    }

    /// Maps, for every response token, the row of log-probabilities that predicts it: `f(token id, row)`.
    pub fn distributions<T: Send>(
        &self,
        trees: &[Tree<'_>],
        f: impl Fn(usize, &[f32]) -> T + Sync,
    ) -> Result<Vec<Vec<T>>> {
        self.run(|| self.distributions_here(trees, &f))
    }

    fn distributions_here<T: Send>(
        &self,
        trees: &[Tree<'_>],
        f: impl Fn(usize, &[f32]) -> T + Sync,
    ) -> Result<Vec<Vec<T>>> {
        let (hidden, packed) = self.hidden(trees)?;
        let rows = ops::map_rows(&hidden, self.head(), |i, row| f(packed.targets[i] as usize, row))?;
        Ok(packed.per_response(rows))
    }

    /// Of every response token, under two batches of trees that have the same responses (the clean and the corrupted
    /// picture): its log-probability under the second, the KL divergence in nats of the second distribution from the
    /// first, and the Jensen-Shannon divergence in nats.
    pub fn divergences(&self, clean: &[Tree<'_>], corrupted: &[Tree<'_>]) -> Result<Vec<Vec<[f64; 3]>>> {
        self.run(|| {
            let (hidden, other, packed) = self.hidden_pair(clean, corrupted)?;
            let rows = ops::divergences(&hidden, &other, self.head(), &packed.targets)?;
            Ok(packed.per_response(rows))
        })
    }

    /// Hidden states of two batches of trees that have the same responses.
    fn hidden_pair(&self, clean: &[Tree<'_>], corrupted: &[Tree<'_>]) -> Result<(Tensor, Tensor, Packed)> {
        let (hidden, packed) = self.hidden(clean)?;
        let (other, other_packed) = self.hidden(corrupted)?;
        ensure!(packed.targets == other_packed.targets, "the two batches do not hold the same responses");
        Ok((hidden, other, packed))
    }

    /// Maps, for every response token, the log-probability rows under two batches of trees that have the same
    /// responses (the clean and the corrupted picture): `f(token id, clean row, corrupted row)`. Where the pictures
    /// are equal, so are the rows, bit for bit.
    pub fn compare<T: Send>(
        &self,
        clean: &[Tree<'_>],
        corrupted: &[Tree<'_>],
        f: impl Fn(usize, &[f32], &[f32]) -> T + Sync,
    ) -> Result<Vec<Vec<T>>> {
        let f = &f;
        self.run(|| {
            let (hidden, other, packed) = self.hidden_pair(clean, corrupted)?;
            let rows = ops::map_row_pairs(&hidden, &other, self.head(), |i, clean, corrupted| {
                f(packed.targets[i] as usize, clean, corrupted)
            })?;
            Ok(packed.per_response(rows))
        })
    }
}

impl Packed {
    fn split(&self, scores: TokenScores) -> Scores {
        Scores { logp: self.per_response(scores.logp), entropy: self.per_response(scores.entropy) }
    }

    /// One value per response token, cut by response.
    fn per_response<T>(&self, values: Vec<T>) -> Vec<Vec<T>> {
        let mut values = values.into_iter();
        self.lengths.iter().map(|&n| values.by_ref().take(n).collect()).collect()
    }
}
