//! Named parameters and their gradients.

use super::kernels::add_assign;
use anyhow::{Result, bail};
use candle_core::Tensor;

/// Index of a parameter; its gradient has the same index.
pub(crate) type Id = usize;

/// All parameters of a model, named as on the hub.
#[derive(Clone, Debug, Default)]
pub struct Params {
    names: Vec<String>,
    values: Vec<Tensor>,
}

impl Params {
    /// Adds a parameter; ids are given in the order of insertion.
    pub(crate) fn insert(&mut self, name: String, value: Tensor) -> Id {
        self.names.push(name);
        self.values.push(value);
        self.values.len() - 1
    }

    /// The value with this id.
    pub(crate) fn get(&self, id: Id) -> &Tensor {
        &self.values[id]
    }

    /// Replaces the value with this id; the shape must not change.
    pub fn set(&mut self, id: usize, value: Tensor) -> Result<()> {
        if value.shape() != self.values[id].shape() {
            bail!(
                "{}: shape {:?} cannot replace {:?}",
                self.names[id],
                value.shape(),
                self.values[id].shape()
            );
        }
        self.values[id] = value;
        Ok(())
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Number of scalar parameters.
    pub fn elements(&self) -> usize {
        self.values.iter().map(Tensor::elem_count).sum()
    }

    /// Names and values in the order of ids.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.names.iter().map(String::as_str).zip(&self.values)
    }
}

/// Where a model's tensors come from when it is built: a checkpoint or an initialiser.
pub(crate) trait Source {
    /// The tensor of this name and shape (f32).
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor>;
}

/// Gradients, summed over micro-batches. A parameter that no backward reached has none.
#[derive(Debug)]
pub struct Grads(Vec<Option<Tensor>>);

impl Grads {
    /// No gradients yet, for `n` parameters.
    pub fn new(n: usize) -> Self {
        Self(vec![None; n])
    }

    /// Adds a gradient. The tensor is owned by this call: it may become the sum.
    pub(crate) fn add(&mut self, id: Id, gradient: Tensor) -> Result<()> {
        match &self.0[id] {
            Some(sum) => add_assign(sum, &gradient)?,
            None => self.0[id] = Some(gradient.contiguous()?),
        }
        Ok(())
    }

    /// The gradient of a parameter, if any backward reached it.
    pub fn get(&self, id: usize) -> Option<&Tensor> {
        self.0[id].as_ref()
    }

    /// Euclidean norm over all gradients, summed in f64 in the order of ids.
    pub fn norm(&self) -> Result<f64> {
        let mut sum = 0f64;
        for gradient in self.0.iter().flatten() {
            sum += super::kernels::view(gradient)?.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
        }
        Ok(sum.sqrt())
    }
}
