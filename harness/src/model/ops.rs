//! The operations of the model, on whichever device their tensors are: the kernels of the processor (`kernels`,
//! `attention`) or those of a card (`gpu`). The rest of the model is written once, in these terms.

use super::attention::{self, AttentionSaved, Block, Heads};
use super::compute::Compute;
#[cfg(feature = "gpu")]
use super::compute::on_card;
#[cfg(feature = "gpu")]
use super::gpu;
use super::head::{self, TokenScores};
use super::kernels;
use super::optimizer::State;
use super::params::{Grads, Id};
use super::sampler;
use crate::algo::dependency::{full_kl, jensen_shannon};
use crate::settings::Sampling;
use anyhow::Result;
use candle_core::{DType, Device, Tensor};

/// Chooses between the card's operation and the processor's, both of this name.
macro_rules! on_device {
    ($like:expr, $name:ident($($arg:expr),*)) => {{
        #[cfg(feature = "gpu")]
        if on_card($like) {
            return gpu::ops::$name($($arg),*);
        }
        kernels::$name($($arg),*)
    }};
}

/// See [`kernels::add_assign`].
pub(crate) fn add_assign(dst: &Tensor, src: &Tensor) -> Result<()> {
    on_device!(dst, add_assign(dst, src))
}

/// See [`kernels::linear`].
pub(crate) fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    on_device!(x, linear(x, w, b))
}

/// Gradient of a linear map's input: dy (N, O), w (O, I) -> (N, I).
pub(crate) fn linear_backward_input(dy: &Tensor, w: &Tensor) -> Result<Tensor> {
    on_device!(dy, linear_backward_input(dy, w))
}

/// Adds the gradient of a linear map's weight: `sum (O, I) += dy^T x`, dy (N, O), x (N, I).
pub(crate) fn linear_backward_weight(dy: &Tensor, x: &Tensor, sum: &Tensor) -> Result<()> {
    on_device!(dy, linear_backward_weight(dy, x, sum))
}

/// See [`kernels::sum_rows`].
pub(crate) fn sum_rows(x: &Tensor) -> Result<Tensor> {
    on_device!(x, sum_rows(x))
}

/// See [`kernels::rms_norm`].
pub(crate) fn rms_norm(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    on_device!(x, rms_norm(x, w, eps))
}

/// See [`kernels::rms_norm_backward`].
pub(crate) fn rms_norm_backward(x: &Tensor, w: &Tensor, eps: f64, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    on_device!(x, rms_norm_backward(x, w, eps, dy))
}

/// See [`kernels::swiglu`].
pub(crate) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    on_device!(gate, swiglu(gate, up))
}

/// See [`kernels::swiglu_backward`].
pub(crate) fn swiglu_backward(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    on_device!(gate, swiglu_backward(gate, up, dy))
}

/// See [`kernels::gelu`].
pub(crate) fn gelu(x: &Tensor) -> Result<Tensor> {
    on_device!(x, gelu(x))
}

/// See [`kernels::gelu_backward`].
pub(crate) fn gelu_backward(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    on_device!(x, gelu_backward(x, dy))
}

/// See [`kernels::gather_rows`].
pub(crate) fn gather_rows(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    on_device!(x, gather_rows(x, rows))
}

/// Writes y (M, d) over `rows` of x (N, d), in place; indices are distinct.
pub(crate) fn put_rows(x: &Tensor, y: &Tensor, rows: &[u32]) -> Result<()> {
    on_device!(x, put_rows(x, y, rows))
}

/// Adds the rows of dy (M, d) to `rows` of sum (n, d), in place, in order.
pub(crate) fn scatter_rows_into(sum: &Tensor, dy: &Tensor, rows: &[u32]) -> Result<()> {
    on_device!(dy, scatter_rows_into(sum, dy, rows))
}

/// Backward of [`gather_rows`]: the rows of dy (M, d) added into n rows of zeros.
pub(crate) fn scatter_rows(dy: &Tensor, rows: &[u32], n: usize) -> Result<Tensor> {
    let sum = Tensor::zeros((n, dy.dim(1)?), dy.dtype(), dy.device())?;
    scatter_rows_into(&sum, dy, rows)?;
    Ok(sum)
}

/// A tensor in f32 on the processor, in the type and on the device of `like`, which rounds it where it goes.
pub(crate) fn place(t: Tensor, like: &Tensor) -> Result<Tensor> {
    Ok(t.to_device(like.device())?.to_dtype(like.dtype())?)
}

/// A tensor in f32 on the processor; itself, where it is that.
pub(crate) fn on_host(t: &Tensor) -> Result<Tensor> {
    Ok(t.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous()?)
}

/// The values of a tensor, in f32 on the processor.
#[cfg(feature = "gpu")]
pub(crate) fn values(t: &Tensor) -> Result<Vec<f32>> {
    Ok(on_host(t)?.flatten_all()?.to_vec1()?)
}

/// Sum of squares in f64, in a fixed order.
pub(crate) fn sum_squares(x: &Tensor) -> Result<f64> {
    on_device!(x, sum_squares(x))
}

/// The scalars of one update of AdamW.
pub(crate) struct Rule {
    /// Factor of the gradient (clipping).
    pub scale: f32,
    pub beta1: f32,
    pub beta2: f32,
    /// Learning rate over the first moment's bias correction.
    pub step: f32,
    /// Inverse of the second moment's bias correction.
    pub root: f32,
    pub epsilon: f32,
    /// Factor of the weight (decay).
    pub keep: f32,
}

/// One update of AdamW, in place: the weight x, and its state.
pub(crate) fn adamw(x: &Tensor, gradient: &Tensor, state: &State, rule: &Rule) -> Result<()> {
    on_device!(x, adamw(x, gradient, state, rule))
}

/// The output head.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    /// (V, D)
    pub weight: &'a Tensor,
    /// Rows whose logits exist at a time on a card.
    #[cfg_attr(not(feature = "gpu"), expect(dead_code, reason = "the processor has limits of its own"))]
    pub rows: usize,
}

/// See [`head::score`].
pub(crate) fn score(hidden: &Tensor, w: Head<'_>, targets: &[u32]) -> Result<TokenScores> {
    #[cfg(feature = "gpu")]
    if on_card(hidden) {
        return gpu::head::score(hidden, w, targets);
    }
    head::score(hidden, w.weight, targets)
}

/// Backward of [`score`]: dlogp (M); adds the gradient of the head `id` and returns that of hidden (M, D).
pub(crate) fn score_backward(
    hidden: &Tensor,
    (id, w): (Id, Head<'_>),
    targets: &[u32],
    dlogp: &[f32],
    grads: &mut Grads,
) -> Result<Tensor> {
    #[cfg(feature = "gpu")]
    if on_card(hidden) {
        return gpu::head::score_backward(hidden, (id, w), targets, dlogp, grads);
    }
    let (dhidden, dw) = head::score_backward(hidden, w.weight, targets, dlogp)?;
    grads.add(id, &dw)?;
    Ok(dhidden)
}

/// See [`sampler::draw`].
pub(crate) fn draw(
    hidden: &Tensor,
    w: Head<'_>,
    uniforms: &[f64],
    sampling: &Sampling,
    forbidden: &[u32],
) -> Result<Vec<(u32, f32, f32)>> {
    #[cfg(feature = "gpu")]
    if on_card(hidden) {
        return gpu::head::draw(hidden, w, uniforms, sampling, forbidden);
    }
    sampler::draw(hidden, w.weight, uniforms, sampling, forbidden)
}

/// See [`head::map_rows`].
pub(crate) fn map_rows<T: Send>(
    hidden: &Tensor,
    w: Head<'_>,
    f: impl Fn(usize, &mut [f32]) -> T + Sync,
) -> Result<Vec<T>> {
    #[cfg(feature = "gpu")]
    if on_card(hidden) {
        let mut found = vec![];
        let vocab = w.weight.dim(0)?;
        gpu::head::for_rows(&[hidden], w, |rows, copies| {
            let rows = copies[0].chunks_exact_mut(vocab).zip(rows);
            found.extend(rows.map(|(row, i)| f(i, row)));
        })?;
        return Ok(found);
    }
    head::map_rows(hidden, w.weight, f)
}

/// See [`head::map_row_pairs`].
pub(crate) fn map_row_pairs<T: Send>(
    left: &Tensor,
    right: &Tensor,
    w: Head<'_>,
    f: impl Fn(usize, &[f32], &[f32]) -> T + Sync,
) -> Result<Vec<T>> {
    #[cfg(feature = "gpu")]
    if on_card(left) {
        let mut found = vec![];
        let vocab = w.weight.dim(0)?;
        gpu::head::for_rows(&[left, right], w, |rows, copies| {
            let pairs = copies[0].chunks_exact(vocab).zip(copies[1].chunks_exact(vocab));
            found.extend(pairs.zip(rows).map(|((left, right), i)| f(i, left, right)));
        })?;
        return Ok(found);
    }
    head::map_row_pairs(left, right, w.weight, f)
}

/// Of each row of two hidden (M, D): log-probability of the target under the second, KL divergence of the second from
/// the first, Jensen-Shannon divergence.
pub(crate) fn divergences(
    clean: &Tensor,
    corrupted: &Tensor,
    w: Head<'_>,
    targets: &[u32],
) -> Result<Vec<[f64; 3]>> {
    #[cfg(feature = "gpu")]
    if on_card(clean) {
        let found = gpu::head::divergences(clean, corrupted, w, targets)?;
        return Ok(found.into_iter().map(|row| row.map(f64::from)).collect());
    }
    let found = head::map_row_pairs(clean, corrupted, w.weight, |i, p, q| {
        let sum: f32 = p.iter().chain(q).sum();
        (sum, [f64::from(q[targets[i] as usize]), full_kl(p, q), jensen_shannon(p, q)])
    })?;
    let check = |(sum, row)| head::check_finite(&[sum]).map(|()| row);
    found.into_iter().map(check).collect()
}

/// Rotary angles of a packed batch, where its tensors are.
#[derive(Clone, Debug)]
pub(crate) struct Rotary {
    host: kernels::Rotary,
    #[cfg(feature = "gpu")]
    card: Option<(Tensor, Tensor)>,
}

impl Rotary {
    /// The angles for tensors on the device of `like`.
    pub fn new(host: kernels::Rotary, like: &Tensor) -> Result<Self> {
        #[cfg(feature = "gpu")]
        let card = match on_card(like) {
            true => {
                let shape = [host.cos.len() / host.half, host.half];
                let upload = |x: &[f32]| gpu::launch::upload(x, &shape, like);
                Some((upload(&host.cos)?, upload(&host.sin)?))
            }
            false => None,
        };
        let _ = like;
        Ok(Self {
            host,
            #[cfg(feature = "gpu")]
            card,
        })
    }

    /// See [`kernels::rotate`].
    pub fn rotate(&self, x: &Tensor, sign: f32) -> Result<Tensor> {
        #[cfg(feature = "gpu")]
        if let Some((cos, sin)) = &self.card {
            return gpu::ops::rotate(x, cos, sin, sign);
        }
        kernels::rotate(x, &self.host, sign)
    }
}

/// Which rows of a packed batch attend to which, where its tensors are. All blocks are causal or none.
#[derive(Clone, Debug)]
pub(crate) struct Blocks {
    list: Vec<Block>,
    #[cfg(feature = "gpu")]
    card: Option<CardBlocks>,
}

/// The blocks as the chosen attention of a card wants them.
#[cfg(feature = "gpu")]
#[derive(Clone, Debug)]
enum CardBlocks {
    Own(Tensor),
    #[cfg(feature = "merged-attention")]
    Flash(gpu::flash_tree::FlashTree),
}

/// Normalisers of an attention, for its backward.
pub(crate) enum Normalisers {
    /// Row by row on the processor.
    Host(Vec<f32>),
    /// (query heads, N) on a card.
    #[cfg(feature = "gpu")]
    Card(Tensor),
}

#[cfg(feature = "gpu")]
impl CardBlocks {
    fn new(list: &[Block], like: &Tensor, compute: &Compute) -> Result<Self> {
        #[cfg(feature = "merged-attention")]
        if compute.settings().attention == crate::settings::Attention::Flash {
            return Ok(Self::Flash(gpu::flash_tree::FlashTree::new(list, like)?));
        }
        let _ = compute;
        Ok(Self::Own(gpu::attention::row_table(list, like)?))
    }
}

impl Blocks {
    /// The blocks for tensors on the device of `like`, which is that of `compute`.
    pub fn new(list: Vec<Block>, like: &Tensor, compute: &Compute) -> Result<Self> {
        #[cfg(feature = "gpu")]
        let card = on_card(like).then(|| CardBlocks::new(&list, like, compute)).transpose()?;
        let _ = (like, compute);
        Ok(Self {
            list,
            #[cfg(feature = "gpu")]
            card,
        })
    }

    #[cfg(feature = "gpu")]
    fn causal(&self) -> bool {
        self.list.first().is_some_and(|block| block.causal)
    }

    /// See [`attention::attention`].
    pub fn attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        heads: Heads,
    ) -> Result<(Tensor, Normalisers)> {
        #[cfg(feature = "gpu")]
        if let Some(card) = &self.card {
            let (out, lse) = match card {
                CardBlocks::Own(rows) => gpu::attention::attention(q, k, v, rows, self.causal(), heads)?,
                #[cfg(feature = "merged-attention")]
                CardBlocks::Flash(tree) => tree.attention(q, k, v, heads)?,
            };
            return Ok((out, Normalisers::Card(lse)));
        }
        let (out, lse) = attention::attention(q, k, v, &self.list, heads)?;
        Ok((out, Normalisers::Host(lse)))
    }

    /// See [`attention::attention_backward`].
    pub fn attention_backward(
        &self,
        [q, k, v, out]: [&Tensor; 4],
        lse: &Normalisers,
        heads: Heads,
        dout: &Tensor,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        match lse {
            #[cfg(feature = "gpu")]
            Normalisers::Card(lse) => match &self.card {
                Some(CardBlocks::Own(rows)) => {
                    let saved = gpu::attention::Saved { q, k, v, out, lse };
                    gpu::attention::attention_backward(&saved, rows, self.causal(), heads, dout)
                }
                #[cfg(feature = "merged-attention")]
                Some(CardBlocks::Flash(tree)) => tree.attention_backward([q, k, v, out], lse, heads, dout),
                None => anyhow::bail!("attention changed its device between forward and backward"),
            },
            Normalisers::Host(lse) => {
                let saved = AttentionSaved { q, k, v, out, lse };
                attention::attention_backward(&saved, &self.list, heads, dout)
            }
        }
    }
}
