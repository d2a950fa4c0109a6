//! Attention of packed sequences to packed sequences, as FlashAttention-2 computes it: on a card by its library, in the
//! emulation by a plain reference with the same conventions (`flash.rs` states them), so that what is built on it can be
//! tested without a GPU.

#[cfg(feature = "flash-attn")]
use super::launch::upload;
use crate::model::attention::Heads;
use anyhow::{Result, bail};
use candle_core::{Device, Tensor};

/// Where packed sequences of queries and of keys begin: sequence b has queries `q[b] .. q[b + 1]`, keys `k[b] .. k[b + 1]`.
#[derive(Clone, Debug)]
pub(crate) struct Sequences {
    q: Vec<u32>,
    k: Vec<u32>,
    /// The same on the card.
    #[cfg(feature = "flash-attn")]
    card: [Tensor; 2],
    causal: bool,
}

impl Sequences {
    /// From the lengths of (queries, keys).
    pub fn new(lengths: &[(usize, usize)], causal: bool, like: &Tensor) -> Result<Self> {
        let starts = |of: fn(&(usize, usize)) -> usize| {
            let mut starts = vec![0u32];
            lengths.iter().for_each(|pair| starts.push(starts[starts.len() - 1] + of(pair) as u32));
            starts
        };
        let (q, k) = (starts(|pair| pair.0), starts(|pair| pair.1));
        let _ = like;
        Ok(Self {
            #[cfg(feature = "flash-attn")]
            card: [upload(&q, &[q.len()], like)?, upload(&k, &[k.len()], like)?],
            q,
            k,
            causal,
        })
    }
}

/// The inputs of an attention: q (N, query heads * size); k, v (M, kv heads * size).
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub q: &'a Tensor,
    pub k: &'a Tensor,
    pub v: &'a Tensor,
    pub heads: Heads,
}

/// Output (N, query heads * size) and normalisers (query heads, N); an infinite normaliser where there is no key.
pub(crate) fn forward(x: Inputs<'_>, sequences: &Sequences) -> Result<(Tensor, Tensor)> {
    match x.q.device() {
        #[cfg(feature = "flash-attn")]
        Device::Cuda(_) => card::forward(x, sequences),
        #[cfg(feature = "cuda-emulation")]
        Device::Cpu => reference::forward(x, sequences),
        other => bail!("this build has no attention of sequences for {other:?}"),
    }
}

/// Gradients of q (N, query heads * size) and, for every query head, of k and v (M, query heads * size), given an output
/// and normalisers that may be those of more keys than these.
pub(crate) fn backward(
    x: Inputs<'_>,
    sequences: &Sequences,
    (out, lse): (&Tensor, &Tensor),
    dout: &Tensor,
) -> Result<(Tensor, Tensor, Tensor)> {
    match x.q.device() {
        #[cfg(feature = "flash-attn")]
        Device::Cuda(_) => card::backward(x, sequences, (out, lse), dout),
        #[cfg(feature = "cuda-emulation")]
        Device::Cpu => reference::backward(x, sequences, (out, lse), dout),
        other => bail!("this build has no attention of sequences for {other:?}"),
    }
}

/// The same in plain loops.
#[cfg(feature = "cuda-emulation")]
mod reference {
    use super::{Inputs, Sequences};
    use crate::model::attention::Heads;
    use crate::model::gpu::launch::upload;
    use crate::model::ops::values;
    use anyhow::Result;
    use candle_core::Tensor;

    /// The rows and columns of every query of every head, with the keys that it sees: `f(head, query row, key rows)`.
    fn visit(sequences: &Sequences, heads: Heads, mut f: impl FnMut(usize, usize, std::ops::Range<usize>)) {
        for (q, k) in sequences.q.windows(2).zip(sequences.k.windows(2)) {
            let (lengths, first) = ((q[1] - q[0], k[1] - k[0]), k[0] as usize);
            for (i, row) in (q[0]..q[1]).enumerate() {
                let seen = match sequences.causal {
                    true => (i + 1 + lengths.1 as usize).saturating_sub(lengths.0 as usize),
                    false => lengths.1 as usize,
                };
                (0..heads.query).for_each(|head| f(head, row as usize, first..first + seen));
            }
        }
    }

    /// Values and widths of the inputs of the reference.
    struct Plain {
        q: Vec<f32>,
        k: Vec<f32>,
        v: Vec<f32>,
        heads: Heads,
    }

    impl Plain {
        fn new(x: Inputs<'_>) -> Result<Self> {
            Ok(Self { q: values(x.q)?, k: values(x.k)?, v: values(x.v)?, heads: x.heads })
        }

        /// Place of a query head's values in a row.
        fn query(&self, row: usize, head: usize) -> usize {
            (row * self.heads.query + head) * self.heads.size
        }

        /// Place of the keys (or values) that a query head reads.
        fn key(&self, row: usize, head: usize) -> usize {
            let Heads { query, kv, size } = self.heads;
            (row * kv + head / (query / kv)) * size
        }

        fn score(&self, query: usize, key: usize) -> f32 {
            let size = self.heads.size;
            let products = self.q[query..][..size].iter().zip(&self.k[key..][..size]);
            products.map(|(a, b)| a * b).sum::<f32>() * self.heads.scale()
        }
    }

    pub fn forward(x: Inputs<'_>, sequences: &Sequences) -> Result<(Tensor, Tensor)> {
        let plain = Plain::new(x)?;
        let (n, size) = (x.q.dim(0)?, x.heads.size);
        let (mut out, mut lse) = (vec![0f32; plain.q.len()], vec![f32::INFINITY; x.heads.query * n]);
        visit(sequences, x.heads, |head, row, keys| {
            let at = plain.query(row, head);
            let scores: Vec<f32> = keys.clone().map(|key| plain.score(at, plain.key(key, head))).collect();
            let Some(most) = scores.iter().copied().reduce(f32::max) else { return };
            let sum: f32 = scores.iter().map(|s| (s - most).exp()).sum();
            lse[head * n + row] = most + sum.ln();
            for (score, key) in scores.iter().zip(keys) {
                let p = (score - most).exp() / sum;
                for (out, v) in out[at..][..size].iter_mut().zip(&plain.v[plain.key(key, head)..]) {
                    *out += p * v;
                }
            }
        });
        let lse = upload(&lse, &[x.heads.query, n], x.q)?;
        Ok((upload(&out, x.q.dims(), x.q)?.to_dtype(x.q.dtype())?, lse))
    }

    pub fn backward(
        x: Inputs<'_>,
        sequences: &Sequences,
        (out, lse): (&Tensor, &Tensor),
        dout: &Tensor,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let plain = Plain::new(x)?;
        let (n, m, Heads { query, size, .. }) = (x.q.dim(0)?, x.k.dim(0)?, x.heads);
        let (out, dout, lse) = (values(out)?, values(dout)?, values(lse)?);
        let (mut dq, mut dk, mut dv) =
            (vec![0f32; plain.q.len()], vec![0f32; m * query * size], vec![0f32; m * query * size]);
        visit(sequences, x.heads, |head, row, keys| {
            let at = plain.query(row, head);
            let slope = &dout[at..][..size];
            let delta: f32 = slope.iter().zip(&out[at..]).map(|(a, b)| a * b).sum();
            for key in keys {
                let (shared, own) = (plain.key(key, head), plain.query(key, head));
                let p = (plain.score(at, shared) - lse[head * n + row]).exp();
                let dp: f32 = slope.iter().zip(&plain.v[shared..]).map(|(a, b)| a * b).sum();
                let ds = p * (dp - delta) * x.heads.scale();
                for i in 0..size {
                    dq[at + i] += ds * plain.k[shared + i];
                    dk[own + i] += ds * plain.q[at + i];
                    dv[own + i] += p * slope[i];
                }
            }
        });
        let tensor = |values: &[f32], rows| -> Result<Tensor> {
            Ok(upload(values, &[rows, query * size], x.q)?.to_dtype(x.q.dtype())?)
        };
        Ok((tensor(&dq, n)?, tensor(&dk, m)?, tensor(&dv, m)?))
    }
}

#[cfg(feature = "flash-attn")]
mod card {
    #![expect(unsafe_code, reason = "calls of FlashAttention-2")]
    use super::{Inputs, Sequences};
    use crate::model::gpu::flash::{Attention, Gradients};
    use crate::model::gpu::launch::{Arg, empty, pointer};
    use anyhow::{Result, bail};
    use candle_core::cuda_backend::cudarc::driver::sys::{CUdeviceptr, CUstream};
    use candle_core::{DType, Tensor};

    fn address(t: &Tensor) -> Result<CUdeviceptr> {
        match pointer(t)? {
            Arg::Pointer(at) => Ok(at),
            _ => bail!("a tensor has no address"),
        }
    }

    fn stream(t: &Tensor) -> Result<CUstream> {
        Ok(t.device().as_cuda_device()?.cuda_stream().cu_stream())
    }

    fn problem(x: Inputs<'_>, sequences: &Sequences, out: &Tensor, lse: &Tensor) -> Result<Attention> {
        let longest =
            |starts: &[u32]| starts.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(0);
        let heads = x.heads;
        Ok(Attention {
            q: address(x.q)?,
            k: address(x.k)?,
            v: address(x.v)?,
            out: address(out)?,
            lse: address(lse)?,
            cu_q: address(&sequences.card[0])?,
            cu_k: address(&sequences.card[1])?,
            q_stride: heads.query * heads.size,
            k_stride: heads.kv * heads.size,
            v_stride: heads.kv * heads.size,
            batch: sequences.q.len() - 1,
            total_q: x.q.dim(0)?,
            total_k: x.k.dim(0)?,
            max_q: longest(&sequences.q),
            max_k: longest(&sequences.k),
            heads: heads.query,
            kv_heads: heads.kv,
            head_dim: heads.size,
            causal: sequences.causal,
            scale: heads.scale(),
        })
    }

    pub fn forward(x: Inputs<'_>, sequences: &Sequences) -> Result<(Tensor, Tensor)> {
        let out = empty(x.q.dims(), x.q.dtype(), x.q)?;
        let lse = empty(&[x.heads.query, x.q.dim(0)?], DType::F32, x.q)?;
        // SAFETY: the pointers are those of live tensors of the described sizes on this device.
        unsafe { problem(x, sequences, &out, &lse)?.forward(stream(x.q)?) }?;
        Ok((out, lse))
    }

    pub fn backward(
        x: Inputs<'_>,
        sequences: &Sequences,
        (out, lse): (&Tensor, &Tensor),
        dout: &Tensor,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let attention = problem(x, sequences, out, lse)?;
        let wide = [x.k.dim(0)?, x.heads.query * x.heads.size];
        let (dq, dk, dv) = (
            empty(x.q.dims(), x.q.dtype(), x.q)?,
            empty(&wide, x.q.dtype(), x.q)?,
            empty(&wide, x.q.dtype(), x.q)?,
        );
        let dq_sum = empty(&[attention.dq_sum_len(true)?], DType::F32, x.q)?;
        let row_sum = empty(&[attention.row_sum_len()], DType::F32, x.q)?;
        let gradients = Gradients {
            dout: address(dout)?,
            dq: address(&dq)?,
            dk: address(&dk)?,
            dv: address(&dv)?,
            dq_sum: address(&dq_sum)?,
            row_sum: address(&row_sum)?,
            deterministic: true,
        };
        // SAFETY: as in the forward; the scratch has the lengths that the library asks for.
        unsafe { attention.backward(&gradients, stream(x.q)?) }?;
        Ok((dq, dk, dv))
    }
}
