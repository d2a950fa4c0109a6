//! The vision tower: patches of pictures -> visual tokens.
//!
//! Patches arrive in the order of the processor, where the four patches of one visual token follow each other. Most
//! blocks attend within windows; so the visual tokens of a picture are put into window order first and back at the
//! end (Qwen2.5-VL report, section 2.1). Patches carry a two-dimensional rotary embedding.

use super::attention::{Block, Heads};
use super::compute::Compute;
use super::config::VlConfig;
use super::kernels::{Rotary as Angles, concatenate};
use super::layer::{Kept, Layer, LayerSpec, Linear, Norm};
use super::ops::{Blocks, Rotary, gather_rows, gelu, gelu_backward, linear, place};
use super::params::{Grads, Id, Params, Source};
use crate::image::Patches;
use anyhow::{Result, ensure};
use candle_core::Tensor;

#[derive(Clone, Debug)]
pub(crate) struct VisionTower {
    patch_embed: Id,
    layers: Vec<Layer>,
    full: Vec<bool>,
    norm: Norm,
    merge1: Linear,
    merge2: Linear,
    merge: usize,
    window: usize,
    head_size: usize,
    hidden: usize,
    patch_values: usize,
}

/// Order, positions and attention blocks of a batch of pictures.
struct Geometry {
    /// Patch rows in window order, and for each patch its place there.
    order: Vec<u32>,
    places: Vec<u32>,
    /// For each visual token in the processor's order, its place in window order.
    inverse: Vec<u32>,
    rotary: Rotary,
    windows: Blocks,
    pictures: Blocks,
}

/// A [`Geometry`] as it is put together, picture by picture.
#[derive(Default)]
struct Sketch {
    /// Patch rows in window order.
    order: Vec<u32>,
    inverse: Vec<u32>,
    angles: Vec<f64>,
    windows: Vec<Block>,
    pictures: Vec<Block>,
}

pub(crate) struct VisionSaved {
    geometry: Geometry,
    pixels: Tensor,
    layers: Vec<Kept>,
    x: Tensor,
    merged: Tensor,
    hidden: Tensor,
    activated: Tensor,
}

impl VisionTower {
    pub fn new(params: &mut Params, source: &mut dyn Source, config: &VlConfig) -> Result<Self> {
        let v = &config.vision;
        let name = "visual.patch_embed.proj.weight".to_owned();
        let shape = [v.hidden_size, v.in_channels, v.temporal_patch_size, v.patch_size, v.patch_size];
        let value = source.take(&name, &shape)?;
        let patch_embed = params.insert(name, value);
        let head_size = v.hidden_size / v.num_heads;
        let spec = LayerSpec {
            hidden: v.hidden_size,
            intermediate: v.intermediate_size,
            heads: Heads { query: v.num_heads, kv: v.num_heads, size: head_size },
            eps: 1e-6,
            vision: true,
        };
        let layers = (0..v.depth)
            .map(|i| Layer::new(params, source, &format!("visual.blocks.{i}"), &spec))
            .collect::<Result<_>>()?;
        let wide = v.hidden_size * v.spatial_merge_size * v.spatial_merge_size;
        Ok(Self {
            patch_embed,
            layers,
            full: (0..v.depth).map(|i| v.fullatt_block_indexes.contains(&i)).collect(),
            norm: Norm::new(params, source, "visual.merger.ln_q", v.hidden_size, 1e-6)?,
            merge1: Linear::new(params, source, "visual.merger.mlp.0", (wide, wide), true)?,
            merge2: Linear::new(params, source, "visual.merger.mlp.2", (wide, v.out_hidden_size), true)?,
            merge: v.spatial_merge_size,
            window: config.window_tokens(),
            head_size,
            hidden: v.hidden_size,
            patch_values: config.patch_values(),
        })
    }

    /// Visual tokens of all pictures, in order: (sum of tokens, width of the language model). What the backward needs
    /// only if it is to be kept.
    pub fn forward(
        &self,
        p: &Params,
        pictures: &[&Patches],
        keep: bool,
    ) -> Result<(Tensor, Option<VisionSaved>)> {
        let sketch = self.sketch(pictures)?;
        let values: Vec<&[f32]> = pictures.iter().map(|x| x.values.as_slice()).collect();
        let weight = self.patch_weight(p)?;
        let pixels = place(concatenate(&values, self.patch_values)?, &weight)?;
        let geometry = sketch.finish(self.head_size / 2, &weight, p.compute())?;
        let mut x = gather_rows(&linear(&pixels, &weight, None)?, &geometry.order)?; // (N, D)
        let mut layers = Vec::with_capacity(self.layers.len());
        let recompute = p.compute().recompute();
        for (layer, &full) in self.layers.iter().zip(&self.full) {
            let (rotary, blocks) = (&geometry.rotary, geometry.blocks(full));
            x = if keep {
                let (y, kept) = layer.forward_kept(p, x, rotary, blocks, recompute)?;
                layers.push(kept);
                y
            } else {
                layer.forward(p, &x, rotary, blocks)?.0
            };
        }
        let merged = self.norm.forward(p, &x)?.reshape(((), self.hidden * self.merge * self.merge))?;
        let hidden = self.merge1.forward(p, &merged)?;
        let activated = gelu(&hidden)?;
        let tokens = gather_rows(&self.merge2.forward(p, &activated)?, &geometry.inverse)?;
        let saved = VisionSaved { geometry, pixels, layers, x, merged, hidden, activated };
        Ok((tokens, keep.then_some(saved)))
    }

    /// Adds the gradients of all parameters, given that of the visual tokens.
    pub fn backward(
        &self,
        p: &Params,
        saved: &VisionSaved,
        dtokens: &Tensor,
        grads: &mut Grads,
    ) -> Result<()> {
        let geometry = &saved.geometry;
        let back = inverse(&geometry.inverse);
        let d = self.merge2.backward(p, &saved.activated, &gather_rows(dtokens, &back)?, grads)?;
        let d = self.merge1.backward(p, &saved.merged, &gelu_backward(&saved.hidden, &d)?, grads)?;
        let mut d = self.norm.backward(p, &saved.x, &d.reshape(((), self.hidden))?, grads)?;
        for ((layer, &full), saved) in self.layers.iter().zip(&self.full).zip(&saved.layers).rev() {
            d = layer.backward_kept(p, saved, &geometry.rotary, geometry.blocks(full), &d, grads)?;
        }
        grads.add_product(self.patch_embed, &gather_rows(&d, &geometry.places)?, &saved.pixels)
    }

    fn patch_weight(&self, p: &Params) -> Result<Tensor> {
        Ok(p.get(self.patch_embed).reshape((self.hidden, self.patch_values))?)
    }

    fn sketch(&self, pictures: &[&Patches]) -> Result<Sketch> {
        let mut g = Sketch::default();
        let frequencies = self.frequencies();
        for picture in pictures {
            let [t, h, w] = picture.grid_thw;
            ensure!(
                h % self.merge == 0
                    && w % self.merge == 0
                    && picture.values.len() == t * h * w * self.patch_values,
                "picture grid {:?} does not fit {} pixel values",
                picture.grid_thw,
                picture.values.len()
            );
            let size = (h / self.merge, w / self.merge);
            (0..t).for_each(|_| self.add_frame(&mut g, size, &frequencies));
        }
        Ok(g)
    }

    /// Adds one frame of `rows` x `columns` visual tokens.
    fn add_frame(&self, g: &mut Sketch, (rows, columns): (usize, usize), frequencies: &[f64]) {
        let unit = self.merge * self.merge;
        let first = g.inverse.len();
        let mut place = first;
        g.inverse.resize(first + rows * columns, 0);
        for top in (0..rows).step_by(self.window) {
            for left in (0..columns).step_by(self.window) {
                let before = place;
                for row in top..(top + self.window).min(rows) {
                    for column in left..(left + self.window).min(columns) {
                        let token = first + row * columns + column;
                        g.inverse[token] = place as u32;
                        place += 1;
                        for inner in 0..unit {
                            g.order.push((token * unit + inner) as u32);
                            let (y, x) = (
                                row * self.merge + inner / self.merge,
                                column * self.merge + inner % self.merge,
                            );
                            // Half of the frequencies turn with the row, half with the column.
                            for at in [y, x] {
                                g.angles.extend(frequencies.iter().map(|frequency| at as f64 * frequency));
                            }
                        }
                    }
                }
                g.windows.push(Block::full((place - before) * unit));
            }
        }
        g.pictures.push(Block::full(rows * columns * unit));
    }

    /// A quarter of the head size, base 10,000.
    fn frequencies(&self) -> Vec<f64> {
        let exponent = |i: usize| -((2 * i) as f64) / (self.head_size / 2) as f64;
        (0..self.head_size / 4).map(|i| libm::pow(10_000.0, exponent(i))).collect()
    }
}

/// The inverse of a permutation.
fn inverse(order: &[u32]) -> Vec<u32> {
    let mut places = vec![0u32; order.len()];
    order.iter().zip(0..).for_each(|(&at, place)| places[at as usize] = place);
    places
}

impl Sketch {
    fn finish(self, half: usize, like: &Tensor, compute: &Compute) -> Result<Geometry> {
        Ok(Geometry {
            places: inverse(&self.order),
            order: self.order,
            inverse: self.inverse,
            rotary: Rotary::new(Angles::new(&self.angles, half), like)?,
            windows: Blocks::new(self.windows, like, compute)?,
            pictures: Blocks::new(self.pictures, like, compute)?,
        })
    }
}

impl Geometry {
    fn blocks(&self, full: bool) -> &Blocks {
        if full { &self.pictures } else { &self.windows }
    }
}
