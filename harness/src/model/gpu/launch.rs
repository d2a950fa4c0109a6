//! Starts kernels: pointers of tensors, new tensors, one call for the card and for the emulation.
//!
//! Kernels are named functions of two modules, one for each type of activations. On a card they come from the PTX that
//! the build script made and run on the device's one stream, in order. In the emulation (feature `cuda-emulation`) the
//! same source runs on the processor, and tensors on the processor stand for the card's memory; new tensors are then
//! full of NaN, so that a value which no kernel wrote is noticed.

use anyhow::{Result, bail, ensure};
use candle_core::{CpuStorage, DType, Storage, Tensor};

/// An argument of a kernel, with the width that its C type has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arg {
    /// Address of memory, or 0 for none.
    Pointer(u64),
    /// `int`.
    Int(i32),
    /// `long long`.
    Long(i64),
    /// `float`.
    Float(f32),
    /// `double`.
    Double(f64),
}

impl From<i32> for Arg {
    fn from(x: i32) -> Self {
        Arg::Int(x)
    }
}

impl From<f32> for Arg {
    fn from(x: f32) -> Self {
        Arg::Float(x)
    }
}

/// A length as `int`.
pub(crate) fn int(n: usize) -> Result<Arg> {
    match i32::try_from(n) {
        Ok(n) => Ok(Arg::Int(n)),
        Err(_) => bail!("{n} elements are more than a kernel counts"),
    }
}

/// A length as `long long`.
pub(crate) fn long(n: usize) -> Arg {
    Arg::Long(n as i64)
}

/// Whether a tensor of f32 or bf16 is the latter, for kernels that take either.
pub(crate) fn half(t: &Tensor) -> Result<Arg> {
    match t.dtype() {
        DType::F32 => Ok(Arg::Int(0)),
        DType::BF16 => Ok(Arg::Int(1)),
        other => bail!("no kernel takes {other:?}"),
    }
}

/// Blocks of a launch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    blocks: [usize; 3],
    threads: u32,
}

impl Grid {
    /// Threads of a block of the kernels that count threads.
    const THREADS: usize = 256;
    /// Warps of a block of the row-wise kernels (`WARPS` in `kernels.cu`).
    const WARPS: usize = 4;

    /// One thread for each of `n`.
    pub fn threads(n: usize) -> Self {
        Self { blocks: [n.div_ceil(Self::THREADS), 1, 1], threads: Self::THREADS as u32 }
    }

    /// One warp for each of `n`.
    pub fn warps(n: usize) -> Self {
        Self { blocks: [n.div_ceil(Self::WARPS), 1, 1], threads: 32 * Self::WARPS as u32 }
    }

    /// One block of `threads` for each of `n`.
    pub fn blocks(n: usize, threads: u32) -> Self {
        Self { blocks: [n, 1, 1], threads }
    }

    /// A plane of blocks.
    pub fn plane(x: usize, y: usize, threads: u32) -> Self {
        Self { blocks: [x, y, 1], threads }
    }

    fn dimensions(self) -> Result<Option<[u32; 3]>> {
        if self.blocks.contains(&0) {
            return Ok(None);
        }
        let [x, y, z] = self.blocks;
        ensure!(x <= i32::MAX as usize && y <= 65_535 && z <= 65_535, "a launch of {:?} blocks", self.blocks);
        Ok(Some([x as u32, y as u32, z as u32]))
    }
}

/// The address of a contiguous tensor's first element.
pub(crate) fn pointer(t: &Tensor) -> Result<Arg> {
    let (storage, layout) = t.storage_and_layout();
    let Some((start, _)) = layout.contiguous_offsets() else {
        bail!("a kernel was given a tensor {:?} that is not contiguous", t.shape())
    };
    let base = match &*storage {
        Storage::Cpu(storage) => host_address(storage)?,
        #[cfg(feature = "cuda")]
        Storage::Cuda(storage) => card::address(storage)?,
        _ => bail!("this build has no kernels for {:?}", t.device()),
    };
    Ok(Arg::Pointer(base + (start * t.dtype().size_in_bytes()) as u64))
}

fn host_address(storage: &CpuStorage) -> Result<u64> {
    Ok(match storage {
        CpuStorage::F32(x) => x.as_ptr() as u64,
        CpuStorage::BF16(x) => x.as_ptr() as u64,
        CpuStorage::F64(x) => x.as_ptr() as u64,
        CpuStorage::U32(x) => x.as_ptr() as u64,
        _ => bail!("no kernel takes this type of numbers"),
    })
}

/// A tensor whose values a kernel is about to write, on the device of `like`.
pub(crate) fn empty(shape: &[usize], dtype: DType, like: &Tensor) -> Result<Tensor> {
    let device = like.device();
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = device {
        return card::empty(shape, dtype, cuda);
    }
    let filling = if dtype.is_float() { f32::NAN } else { 0.0 };
    Ok(Tensor::full(filling, shape, device)?.to_dtype(dtype)?)
}

/// Values on the device of `like`.
pub(crate) fn upload<D: candle_core::WithDType>(
    values: &[D],
    shape: &[usize],
    like: &Tensor,
) -> Result<Tensor> {
    Ok(Tensor::from_slice(values, shape, like.device())?)
}

/// Runs a kernel of the module for activations of type `dtype` on the device of `like`.
pub(crate) fn launch(kernel: &str, dtype: DType, like: &Tensor, grid: Grid, args: &[Arg]) -> Result<()> {
    let Some(blocks) = grid.dimensions()? else { return Ok(()) };
    let half = match dtype {
        DType::F32 => false,
        DType::BF16 => true,
        other => bail!("{kernel}: no kernels for {other:?}"),
    };
    match like.device() {
        #[cfg(feature = "cuda")]
        candle_core::Device::Cuda(device) => card::launch(device, kernel, half, blocks, grid.threads, args),
        #[cfg(feature = "cuda-emulation")]
        candle_core::Device::Cpu => emulated::launch(kernel, half, blocks, grid.threads, args),
        other => bail!("{kernel}: this build has no kernels for {other:?} ({half}, {blocks:?}, {args:?})"),
    }
}

#[cfg(feature = "cuda-emulation")]
mod emulated {
    #![expect(unsafe_code, reason = "calls the emulation of the kernels")]
    use super::Arg;
    use anyhow::{Result, ensure};
    use std::ffi::{CString, c_char, c_int, c_uint, c_void};
    use std::sync::{Mutex, PoisonError};

    /// The emulation runs one kernel at a time.
    static ONE: Mutex<()> = Mutex::new(());

    unsafe extern "C" {
        fn emulate_kernel(
            name: *const c_char,
            half: c_int,
            grid: *const c_uint,
            threads: c_uint,
            arguments: *mut *mut c_void,
            count: usize,
        ) -> c_int;
    }

    pub fn launch(kernel: &str, half: bool, blocks: [u32; 3], threads: u32, args: &[Arg]) -> Result<()> {
        let name = CString::new(kernel)?;
        let mut pointers: Vec<*mut c_void> = args
            .iter()
            .map(|arg| match arg {
                Arg::Pointer(x) => x as *const u64 as *mut c_void,
                Arg::Int(x) => x as *const i32 as *mut c_void,
                Arg::Long(x) => x as *const i64 as *mut c_void,
                Arg::Float(x) => x as *const f32 as *mut c_void,
                Arg::Double(x) => x as *const f64 as *mut c_void,
            })
            .collect();
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: pointers are those of live tensors, and each argument has the width of its kernel's.
        let code = unsafe {
            emulate_kernel(
                name.as_ptr(),
                half.into(),
                blocks.as_ptr(),
                threads,
                pointers.as_mut_ptr(),
                pointers.len(),
            )
        };
        ensure!(
            code == 0,
            "{kernel}: there is no such kernel, or it takes another number of arguments ({code})"
        );
        Ok(())
    }
}

#[cfg(feature = "cuda")]
mod card {
    #![expect(unsafe_code, reason = "calls of the CUDA driver")]
    use super::Arg;
    use anyhow::{Result, bail};
    use candle_core::cuda_backend::cudarc::driver::{DevicePtr, LaunchConfig, PushKernelArg};
    use candle_core::cuda_backend::{CudaStorage, CudaStorageSlice};
    use candle_core::op::BackpropOp;
    use candle_core::{CudaDevice, DType, Shape, Storage, Tensor};
    use half::bf16;

    const F32: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels_f32.ptx"));
    const BF16: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels_bf16.ptx"));

    pub fn address(storage: &CudaStorage) -> Result<u64> {
        let stream = storage.device.cuda_stream();
        Ok(match &storage.slice {
            CudaStorageSlice::F32(x) => x.device_ptr(&stream).0,
            CudaStorageSlice::BF16(x) => x.device_ptr(&stream).0,
            CudaStorageSlice::F64(x) => x.device_ptr(&stream).0,
            CudaStorageSlice::U32(x) => x.device_ptr(&stream).0,
            _ => bail!("no kernel takes this type of numbers"),
        })
    }

    pub fn empty(shape: &[usize], dtype: DType, device: &CudaDevice) -> Result<Tensor> {
        let shape = Shape::from(shape);
        let n = shape.elem_count();
        // SAFETY: the kernel that the tensor is made for writes every element before one is read.
        let slice = unsafe {
            match dtype {
                DType::F32 => CudaStorageSlice::F32(device.alloc::<f32>(n)?),
                DType::BF16 => CudaStorageSlice::BF16(device.alloc::<bf16>(n)?),
                DType::F64 => CudaStorageSlice::F64(device.alloc::<f64>(n)?),
                DType::U32 => CudaStorageSlice::U32(device.alloc::<u32>(n)?),
                other => bail!("no kernel writes {other:?}"),
            }
        };
        let storage = Storage::Cuda(CudaStorage { slice, device: device.clone() });
        Ok(Tensor::from_storage(storage, shape, BackpropOp::none(), false))
    }

    pub fn launch(
        device: &CudaDevice,
        kernel: &str,
        half: bool,
        blocks: [u32; 3],
        threads: u32,
        args: &[Arg],
    ) -> Result<()> {
        let (module, ptx) = if half { ("harness_bf16", BF16) } else { ("harness_f32", F32) };
        let function = device.get_or_load_custom_func(kernel, module, ptx)?;
        let mut call = function.builder();
        for arg in args {
            match arg {
                Arg::Pointer(x) => call.arg(x),
                Arg::Int(x) => call.arg(x),
                Arg::Long(x) => call.arg(x),
                Arg::Float(x) => call.arg(x),
                Arg::Double(x) => call.arg(x),
            };
        }
        let config = LaunchConfig {
            grid_dim: (blocks[0], blocks[1], blocks[2]),
            block_dim: (threads, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: pointers are those of live tensors on this device, and each argument has the width of its kernel's.
        unsafe { call.launch(config) }?;
        Ok(())
    }
}
