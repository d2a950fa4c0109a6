//! AdamW with decoupled weight decay and clipping of the global gradient norm.

use super::kernels::{tensor, view};
use super::params::{Grads, Params};
use crate::settings::OptimizerSettings;
use anyhow::{Result, ensure};
use candle_core::Tensor;
use rayon::prelude::*;

/// Optimiser state: f32 moments per parameter and the number of updates made.
#[derive(Debug)]
pub struct AdamW {
    settings: OptimizerSettings,
    updates: u64,
    /// First and second moments, in the order of the parameters.
    moments: Vec<(Tensor, Tensor)>,
}

impl AdamW {
    /// Fresh state.
    pub fn new(params: &Params, settings: OptimizerSettings) -> Result<Self> {
        let zeros = |t: &Tensor| -> Result<Tensor> { tensor(vec![0f32; t.elem_count()], t.dims()) };
        let moments = params.iter().map(|(_, t)| Ok((zeros(t)?, zeros(t)?))).collect::<Result<_>>()?;
        Ok(Self { settings, updates: 0, moments })
    }

    /// State restored from a checkpoint.
    pub(crate) fn restore(settings: OptimizerSettings, updates: u64, moments: Vec<(Tensor, Tensor)>) -> Self {
        Self { settings, updates, moments }
    }

    /// Updates made so far.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// First and second moments, in the order of the parameters.
    pub(crate) fn moments(&self) -> &[(Tensor, Tensor)] {
        &self.moments
    }

    /// Sets the learning rate (schedules).
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        self.settings.learning_rate = learning_rate;
    }

    /// One update; returns the gradient norm before clipping. Parameters without a gradient stay as they are.
    /// A gradient that is not finite is an error: nothing is changed.
    pub fn step(&mut self, params: &mut Params, grads: &Grads) -> Result<f64> {
        let norm = grads.norm()?;
        ensure!(
            norm.is_finite(),
            "the gradient norm is {norm}: the run has diverged (lower the learning rate)"
        );
        let s = &self.settings;
        let scale = if s.max_grad_norm > 0.0 && norm > s.max_grad_norm {
            s.max_grad_norm / (norm + 1e-6)
        } else {
            1.0
        };
        self.updates += 1;
        let exponent = self.updates as f64;
        let (c1, c2) = (1.0 - libm::pow(s.beta1, exponent), 1.0 - libm::pow(s.beta2, exponent));
        let rule = Rule {
            scale: scale as f32,
            beta1: s.beta1 as f32,
            beta2: s.beta2 as f32,
            step: (s.learning_rate / c1) as f32,
            root: (1.0 / c2) as f32,
            epsilon: s.epsilon as f32,
            keep: (1.0 - s.learning_rate * s.weight_decay) as f32,
        };
        for (id, moments) in self.moments.iter_mut().enumerate() {
            let Some(gradient) = grads.get(id) else { continue };
            let shape = params.get(id).dims().to_vec();
            let (x, m, v) = rule.apply(params.get(id), gradient, moments)?;
            params.set(id, tensor(x, &shape)?)?;
            *moments = (tensor(m, &shape)?, tensor(v, &shape)?);
        }
        Ok(norm)
    }
}

struct Rule {
    scale: f32,
    beta1: f32,
    beta2: f32,
    step: f32,
    root: f32,
    epsilon: f32,
    keep: f32,
}

impl Rule {
    fn apply(
        &self,
        x: &Tensor,
        g: &Tensor,
        moments: &(Tensor, Tensor),
    ) -> Result<(Vec<f32>, Vec<f32>, Vec<f32>)> {
        let (mut x, mut m) = (view(x)?.to_vec(), view(&moments.0)?.to_vec());
        let mut v = view(&moments.1)?.to_vec();
        let g = view(g)?;
        x.par_iter_mut().zip(&mut m).zip(&mut v).zip(g.par_iter()).with_min_len(4096).for_each(
            |(((x, m), v), g)| {
                let g = g * self.scale;
                *m += (1.0 - self.beta1) * (g - *m);
                *v += (1.0 - self.beta2) * (g * g - *v);
                *x = *x * self.keep - self.step * *m / ((*v * self.root).sqrt() + self.epsilon);
            },
        );
        Ok((x, m, v))
    }
}
