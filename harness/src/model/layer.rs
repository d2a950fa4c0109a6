//! One transformer layer, for the language model and for the vision tower alike:
//! `x + attention(norm(x))`, then `x + swiglu(norm(x))`.
//!
//! The two differ in how queries, keys and values are projected (three matrices or one) and in biases.

use super::attention::{AttentionSaved, Block, Heads, attention, attention_backward};
use super::kernels::{
    Rotary, add_assign, linear, linear_backward_input, linear_backward_weight, rms_norm, rms_norm_backward,
    rotate, sum_rows, swiglu, swiglu_backward,
};
use super::params::{Grads, Id, Params, Source};
use anyhow::Result;
use candle_core::Tensor;

/// A linear map of the hub: `{name}.weight` (O, I) and, where there is one, `{name}.bias` (O).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear {
    w: Id,
    b: Option<Id>,
}

impl Linear {
    /// Declares the map's parameters.
    pub fn new(
        params: &mut Params,
        source: &mut dyn Source,
        name: &str,
        (input, output): (usize, usize),
        bias: bool,
    ) -> Result<Self> {
        let mut take = |suffix: &str, shape: &[usize]| -> Result<Id> {
            let name = format!("{name}.{suffix}");
            let value = source.take(&name, shape)?;
            Ok(params.insert(name, value))
        };
        let w = take("weight", &[output, input])?;
        Ok(Self { w, b: if bias { Some(take("bias", &[output])?) } else { None } })
    }

    /// x (N, I) -> (N, O).
    pub fn forward(self, p: &Params, x: &Tensor) -> Result<Tensor> {
        linear(x, p.get(self.w), self.b.map(|b| p.get(b)))
    }

    /// Adds the parameters' gradients and returns that of x.
    pub fn backward(self, p: &Params, x: &Tensor, dy: &Tensor, grads: &mut Grads) -> Result<Tensor> {
        grads.add(self.w, linear_backward_weight(dy, x)?)?;
        if let Some(b) = self.b {
            grads.add(b, sum_rows(dy)?)?;
        }
        linear_backward_input(dy, p.get(self.w))
    }
}

/// A norm of the hub: `{name}.weight` (D).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm {
    w: Id,
    eps: f64,
}

impl Norm {
    /// Declares the norm's parameter.
    pub fn new(params: &mut Params, source: &mut dyn Source, name: &str, d: usize, eps: f64) -> Result<Self> {
        let name = format!("{name}.weight");
        let value = source.take(&name, &[d])?;
        Ok(Self { w: params.insert(name, value), eps })
    }

    /// x (N, D) -> (N, D).
    pub fn forward(self, p: &Params, x: &Tensor) -> Result<Tensor> {
        rms_norm(x, p.get(self.w), self.eps)
    }

    /// Adds the weight's gradient and returns that of x.
    pub fn backward(self, p: &Params, x: &Tensor, dy: &Tensor, grads: &mut Grads) -> Result<Tensor> {
        let (dx, dw) = rms_norm_backward(x, p.get(self.w), self.eps, dy)?;
        grads.add(self.w, dw)?;
        Ok(dx)
    }
}

#[derive(Clone, Debug)]
enum Projection {
    Separate { q: Linear, k: Linear, v: Linear },
    Fused(Linear),
}

/// The names and sizes in which the two kinds of layer differ.
pub(crate) struct LayerSpec {
    pub hidden: usize,
    pub intermediate: usize,
    pub heads: Heads,
    pub eps: f64,
    /// `true` for the vision tower: one projection, biases everywhere, its own names.
    pub vision: bool,
}

/// One layer.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    heads: Heads,
    norm1: Norm,
    projection: Projection,
    output: Linear,
    norm2: Norm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// Activations that the backward needs.
pub(crate) struct Saved {
    x: Tensor,
    normed1: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attended: Tensor,
    lse: Vec<f32>,
    middle: Tensor,
    normed2: Tensor,
    gate: Tensor,
    up: Tensor,
    product: Tensor,
}

impl Saved {
    /// Rotated keys and values (N, kv heads * size) each, for a cache.
    pub fn keys_values(&self) -> (&Tensor, &Tensor) {
        (&self.k, &self.v)
    }
}

impl Layer {
    /// Declares the layer's parameters under `name` (for example `model.layers.0`).
    pub fn new(params: &mut Params, source: &mut dyn Source, name: &str, spec: &LayerSpec) -> Result<Self> {
        let LayerSpec { hidden, intermediate, heads, eps, vision } = *spec;
        let (query, kv) = (heads.query * heads.size, heads.kv * heads.size);
        let mut linear =
            |part: &str, sizes, bias| Linear::new(params, source, &format!("{name}.{part}"), sizes, bias);
        let (projection, output) = if vision {
            (
                Projection::Fused(linear("attn.qkv", (hidden, query + 2 * kv), true)?),
                linear("attn.proj", (query, hidden), true)?,
            )
        } else {
            let q = linear("self_attn.q_proj", (hidden, query), true)?;
            let k = linear("self_attn.k_proj", (hidden, kv), true)?;
            let v = linear("self_attn.v_proj", (hidden, kv), true)?;
            (Projection::Separate { q, k, v }, linear("self_attn.o_proj", (query, hidden), false)?)
        };
        let gate = linear("mlp.gate_proj", (hidden, intermediate), vision)?;
        let up = linear("mlp.up_proj", (hidden, intermediate), vision)?;
        let down = linear("mlp.down_proj", (intermediate, hidden), vision)?;
        let names = if vision { ["norm1", "norm2"] } else { ["input_layernorm", "post_attention_layernorm"] };
        let norm1 = Norm::new(params, source, &format!("{name}.{}", names[0]), hidden, eps)?;
        let norm2 = Norm::new(params, source, &format!("{name}.{}", names[1]), hidden, eps)?;
        Ok(Self { heads, norm1, projection, output, norm2, gate, up, down })
    }

    /// Head counts and size.
    pub fn heads(&self) -> Heads {
        self.heads
    }

    /// Rotated queries and keys, and values, of normed rows (N, D).
    pub fn project(&self, p: &Params, normed: &Tensor, rotary: &Rotary) -> Result<(Tensor, Tensor, Tensor)> {
        let (q, k, v) = match &self.projection {
            Projection::Separate { q, k, v } => {
                (q.forward(p, normed)?, k.forward(p, normed)?, v.forward(p, normed)?)
            }
            Projection::Fused(qkv) => {
                let all = qkv.forward(p, normed)?;
                let (query, kv) = (self.heads.query * self.heads.size, self.heads.kv * self.heads.size);
                let part = |start, len| -> Result<Tensor> { Ok(all.narrow(1, start, len)?.contiguous()?) };
                (part(0, query)?, part(query, kv)?, part(query + kv, kv)?)
            }
        };
        Ok((rotate(&q, rotary, 1.0)?, rotate(&k, rotary, 1.0)?, v))
    }

    /// The first norm of rows (N, D).
    pub fn norm_input(&self, p: &Params, x: &Tensor) -> Result<Tensor> {
        self.norm1.forward(p, x)
    }

    /// The rest of the layer after attention, without saving anything: x (N, D), attended (N, query heads * size).
    pub fn finish(&self, p: &Params, x: &Tensor, attended: &Tensor) -> Result<Tensor> {
        let middle = self.output.forward(p, attended)?;
        add_assign(&middle, x)?;
        let normed = self.norm2.forward(p, &middle)?;
        let y =
            self.down.forward(p, &swiglu(&self.gate.forward(p, &normed)?, &self.up.forward(p, &normed)?)?)?;
        add_assign(&y, &middle)?;
        Ok(y)
    }

    /// x (N, D) -> (N, D), and what the backward needs.
    pub fn forward(
        &self,
        p: &Params,
        x: &Tensor,
        rotary: &Rotary,
        blocks: &[Block],
    ) -> Result<(Tensor, Saved)> {
        let normed1 = self.norm1.forward(p, x)?;
        let (q, k, v) = self.project(p, &normed1, rotary)?;
        let (attended, lse) = attention(&q, &k, &v, blocks, self.heads)?;
        let middle = self.output.forward(p, &attended)?;
        add_assign(&middle, x)?;
        let normed2 = self.norm2.forward(p, &middle)?;
        let (gate, up) = (self.gate.forward(p, &normed2)?, self.up.forward(p, &normed2)?);
        let product = swiglu(&gate, &up)?;
        let y = self.down.forward(p, &product)?;
        add_assign(&y, &middle)?;
        let saved =
            Saved { x: x.clone(), normed1, q, k, v, attended, lse, middle, normed2, gate, up, product };
        Ok((y, saved))
    }

    /// Adds the parameters' gradients and returns that of x.
    pub fn backward(
        &self,
        p: &Params,
        saved: &Saved,
        rotary: &Rotary,
        blocks: &[Block],
        dy: &Tensor,
        grads: &mut Grads,
    ) -> Result<Tensor> {
        let dproduct = self.down.backward(p, &saved.product, dy, grads)?;
        let (dgate, dup) = swiglu_backward(&saved.gate, &saved.up, &dproduct)?;
        let dnormed2 = self.gate.backward(p, &saved.normed2, &dgate, grads)?;
        add_assign(&dnormed2, &self.up.backward(p, &saved.normed2, &dup, grads)?)?;
        let dmiddle = self.norm2.backward(p, &saved.middle, &dnormed2, grads)?;
        add_assign(&dmiddle, dy)?;

        let dattended = self.output.backward(p, &saved.attended, &dmiddle, grads)?;
        let kept =
            AttentionSaved { q: &saved.q, k: &saved.k, v: &saved.v, out: &saved.attended, lse: &saved.lse };
        let (dq, dk, dv) = attention_backward(&kept, blocks, self.heads, &dattended)?;
        let (dq, dk) = (rotate(&dq, rotary, -1.0)?, rotate(&dk, rotary, -1.0)?);
        let dnormed1 = match &self.projection {
            Projection::Separate { q, k, v } => {
                let dnormed = q.backward(p, &saved.normed1, &dq, grads)?;
                add_assign(&dnormed, &k.backward(p, &saved.normed1, &dk, grads)?)?;
                add_assign(&dnormed, &v.backward(p, &saved.normed1, &dv, grads)?)?;
                dnormed
            }
            Projection::Fused(qkv) => {
                qkv.backward(p, &saved.normed1, &Tensor::cat(&[&dq, &dk, &dv], 1)?, grads)?
            }
        };
        let dx = self.norm1.backward(p, &saved.x, &dnormed1, grads)?;
        add_assign(&dx, &dmiddle)?;
        Ok(dx)
    }
}
