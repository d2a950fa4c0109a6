//! Matrix products with f32 accumulation and any mixture of f32 and bf16: cuBLAS on a card, candle in the emulation.

use super::launch::{Grid, empty, half, launch, long, pointer};
use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};

/// A factor: as it is stored, or transposed.
#[derive(Clone, Copy)]
pub(crate) enum Factor<'a> {
    /// (rows, columns) as stored.
    Plain(&'a Tensor),
    /// The transpose of what is stored.
    Transposed(&'a Tensor),
}

impl<'a> Factor<'a> {
    fn stored(self) -> &'a Tensor {
        match self {
            Factor::Plain(t) | Factor::Transposed(t) => t,
        }
    }

    fn transposed(self) -> bool {
        matches!(self, Factor::Transposed(_))
    }

    fn dims(self) -> Result<(usize, usize)> {
        let (rows, columns) = self.stored().dims2()?;
        Ok(if self.transposed() { (columns, rows) } else { (rows, columns) })
    }
}

/// The product as a new tensor of type `dtype`.
pub(crate) fn product(a: Factor<'_>, b: Factor<'_>, dtype: DType) -> Result<Tensor> {
    let (m, n) = (a.dims()?.0, b.dims()?.1);
    let c = empty(&[m, n], dtype, a.stored())?;
    multiply(a, b, &c, false)?;
    Ok(c)
}

/// `c += a b`, in place.
pub(crate) fn accumulate_product(a: Factor<'_>, b: Factor<'_>, c: &Tensor) -> Result<()> {
    multiply(a, b, c, true)
}

fn multiply(a: Factor<'_>, b: Factor<'_>, c: &Tensor, add: bool) -> Result<()> {
    let ((m, k), (k2, n)) = (a.dims()?, b.dims()?);
    ensure!(k == k2 && c.dims() == [m, n], "product of {m} x {k} and {k2} x {n} into {:?}", c.shape());
    if m == 0 || n == 0 {
        return Ok(());
    }
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(device) = c.device() {
        return card::multiply(device, a, b, c, [m, n, k], add);
    }
    let f32_of = |x: Factor<'_>| -> Result<Tensor> {
        let wide = x.stored().to_dtype(DType::F32)?;
        Ok(if x.transposed() { wide.t()? } else { wide })
    };
    let product = f32_of(a)?.matmul(&f32_of(b)?)?;
    let kernel = if add { "accumulate" } else { "assign" };
    let args = [pointer(c)?, pointer(&product)?, long(m * n), half(c)?, half(&product)?];
    launch(kernel, DType::F32, c, Grid::threads(m * n), &args)
}

#[cfg(feature = "cuda")]
mod card {
    #![expect(unsafe_code, reason = "calls of cuBLAS")]
    use super::{Factor, pointer};
    use crate::model::gpu::launch::Arg;
    use anyhow::{Result, bail};
    use candle_core::cuda_backend::cudarc::cublas::{result, sys};
    use candle_core::{CudaDevice, DType, Tensor};
    use std::ffi::c_void;

    fn address(t: &Tensor) -> Result<(*mut c_void, sys::cudaDataType)> {
        let Arg::Pointer(at) = pointer(t)? else { bail!("a tensor has no address") };
        let kind = match t.dtype() {
            DType::F32 => sys::cudaDataType_t::CUDA_R_32F,
            DType::BF16 => sys::cudaDataType_t::CUDA_R_16BF,
            other => bail!("no matrix product of {other:?}"),
        };
        Ok((at as *mut c_void, kind))
    }

    fn operation(factor: Factor<'_>) -> sys::cublasOperation_t {
        match factor {
            Factor::Plain(_) => sys::cublasOperation_t::CUBLAS_OP_N,
            Factor::Transposed(_) => sys::cublasOperation_t::CUBLAS_OP_T,
        }
    }

    /// cuBLAS stores columns: it is asked for the transpose, `b^T a^T`.
    pub fn multiply(
        device: &CudaDevice,
        a: Factor<'_>,
        b: Factor<'_>,
        c: &Tensor,
        [m, n, k]: [usize; 3],
        add: bool,
    ) -> Result<()> {
        let ((pa, ka), (pb, kb), (pc, kc)) = (address(a.stored())?, address(b.stored())?, address(c)?);
        let (alpha, beta) = (1f32, if add { 1f32 } else { 0f32 });
        let lead = |x: Factor<'_>| x.stored().dims()[1] as i32;
        let blas = device.cublas_handle();
        // SAFETY: all three are live contiguous matrices of the checked sizes on this device.
        unsafe {
            result::gemm_ex(
                *blas.handle(),
                operation(b),
                operation(a),
                i32::try_from(n)?,
                i32::try_from(m)?,
                i32::try_from(k)?,
                (&raw const alpha).cast(),
                pb,
                kb,
                lead(b),
                pa,
                ka,
                lead(a),
                (&raw const beta).cast(),
                pc,
                kc,
                i32::try_from(n)?,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }?;
        Ok(())
    }
}
