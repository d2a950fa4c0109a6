//! Named parameters and their gradients.

use super::compute::Compute;
use super::ops;
use anyhow::{Result, bail};
use candle_core::{DType, Shape, Tensor};

/// Index of a parameter; its gradient has the same index.
pub(crate) type Id = usize;

/// All parameters of a model, named as on the hub.
#[derive(Clone, Debug)]
pub struct Params {
    compute: Compute,
    names: Vec<String>,
    values: Vec<Tensor>,
}

impl Params {
    /// No parameters yet.
    pub(crate) fn new(compute: Compute) -> Self {
        Self { compute, names: vec![], values: vec![] }
    }

    /// Where the parameters are, and in which numbers.
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

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
    /// The tensor of this name and shape (f32, on the processor).
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor>;
}

/// Gradients, summed over micro-batches. A parameter that no backward reached has none.
#[derive(Debug)]
pub struct Grads {
    shapes: Vec<Shape>,
    dtype: DType,
    sums: Vec<Option<Tensor>>,
}

impl Grads {
    /// No gradients yet, for these parameters.
    pub fn new(params: &Params) -> Self {
        Self {
            shapes: params.values.iter().map(|value| value.shape().clone()).collect(),
            dtype: params.compute.gradient_dtype(),
            sums: vec![None; params.len()],
        }
    }

    /// Adds a gradient (f32, or the type of the activations).
    pub(crate) fn add(&mut self, id: Id, gradient: &Tensor) -> Result<()> {
        ops::add_assign(&self.sum(id, gradient)?, gradient)
    }

    /// Adds `dy^T x`, the gradient of a linear map's weight: dy (N, O), x (N, I).
    pub(crate) fn add_product(&mut self, id: Id, dy: &Tensor, x: &Tensor) -> Result<()> {
        let sum = self.sum(id, dy)?;
        ops::linear_backward_weight(dy, x, &sum.reshape((dy.dim(1)?, x.dim(1)?))?)
    }

    /// Adds the rows of dy (M, d) to `rows` of the gradient (n, d), in order.
    pub(crate) fn add_rows(&mut self, id: Id, dy: &Tensor, rows: &[u32]) -> Result<()> {
        ops::scatter_rows_into(&self.sum(id, dy)?, dy, rows)
    }

    /// The sum of a parameter, from zero, on the device of `like`.
    fn sum(&mut self, id: Id, like: &Tensor) -> Result<Tensor> {
        if let Some(sum) = &self.sums[id] {
            return Ok(sum.clone());
        }
        let zeros = Tensor::zeros(&self.shapes[id], self.dtype, like.device())?;
        self.sums[id] = Some(zeros.clone());
        Ok(zeros)
    }

    /// The gradient of a parameter, if any backward reached it.
    pub fn get(&self, id: usize) -> Option<&Tensor> {
        self.sums[id].as_ref()
    }

    /// Euclidean norm over all gradients, summed in f64 in the order of ids.
    pub fn norm(&self) -> Result<f64> {
        let mut sum = 0f64;
        for gradient in self.sums.iter().flatten() {
            sum += ops::sum_squares(gradient)?;
        }
        Ok(sum.sqrt())
    }
}
