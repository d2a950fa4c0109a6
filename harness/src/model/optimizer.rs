//! AdamW with decoupled weight decay and clipping of the global gradient norm.
//!
//! Two forms of state (`compute.optimizer_state`): moments in f32, or, as the reference's `adamw_bf16`, moments and a Kahan
//! compensation in bf16 beside bf16 weights, so that updates smaller than a weight's last place add up instead of getting
//! lost. Deviation: the reference rounds to bf16 after every operation, this after each of the stored values. As there, the
//! weight decay itself is not compensated, so that `1 - learning rate * decay` within half a bf16 step of 1 decays nothing.

use super::ops::{self, Rule};
use super::params::{Grads, Params};
use crate::settings::{OptimizerSettings, OptimizerState};
use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};

/// Optimiser state: moments per parameter and the number of updates made.
#[derive(Debug)]
pub struct AdamW {
    settings: OptimizerSettings,
    updates: u64,
    /// In the order of the parameters.
    states: Vec<State>,
    /// Whether a parameter is no longer shared with the model it was cloned from.
    owned: Vec<bool>,
}

/// What is kept for one parameter, in its shape.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// First moment.
    pub first: Tensor,
    /// Second moment.
    pub second: Tensor,
    /// What rounding took from the weight, where that is kept.
    pub lost: Option<Tensor>,
}

impl State {
    /// Zeros for every parameter.
    pub fn zeros(params: &Params) -> Result<Vec<Self>> {
        let compute = params.compute();
        let (dtype, kahan) = match compute.optimizer_state() {
            OptimizerState::F32 => (DType::F32, false),
            OptimizerState::Bf16Kahan => (DType::BF16, true),
        };
        let state = |t: &Tensor| -> Result<State> {
            let zeros = || compute.zeros(t.dims(), dtype);
            Ok(State { first: zeros()?, second: zeros()?, lost: kahan.then(zeros).transpose()? })
        };
        params.iter().map(|(_, t)| state(t)).collect()
    }

    /// Its tensors by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&'static str, &Tensor)> {
        let lost = self.lost.iter().map(|t| ("lost", t));
        [("first", &self.first), ("second", &self.second)].into_iter().chain(lost)
    }
}

impl AdamW {
    /// Fresh state.
    pub fn new(params: &Params, settings: OptimizerSettings) -> Result<Self> {
        Ok(Self::restore(settings, 0, State::zeros(params)?))
    }

    /// State restored from a checkpoint.
    pub(crate) fn restore(settings: OptimizerSettings, updates: u64, states: Vec<State>) -> Self {
        let owned = vec![false; states.len()];
        Self { settings, updates, states, owned }
    }

    /// Updates made so far.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// What is kept, in the order of the parameters.
    pub(crate) fn states(&self) -> &[State] {
        &self.states
    }

    /// Sets the learning rate (schedules).
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        self.settings.learning_rate = learning_rate;
    }

    /// One update; returns the gradient norm before clipping. Parameters without a gradient stay as they are.
    /// A gradient that is not finite is an error: nothing is changed.
    pub fn step(&mut self, params: &mut Params, grads: &Grads) -> Result<f64> {
        let compute = params.compute().clone();
        compute.run(|| self.step_here(params, grads))
    }

    fn step_here(&mut self, params: &mut Params, grads: &Grads) -> Result<f64> {
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
        for (id, (state, owned)) in self.states.iter_mut().zip(&mut self.owned).enumerate() {
            let Some(gradient) = grads.get(id) else { continue };
            if !*owned {
                params.set(id, params.get(id).copy()?)?;
                *owned = true; // from now on it is updated in place
            }
            ops::adamw(params.get(id), gradient, state, &rule)?;
        }
        Ok(norm)
    }
}
