//! FlashAttention-2 over packed sequences in bf16, forward and backward, through the C interface of `flash_shim.cu`.
//!
//! Source: flash-attn 2.8.3.post2 (BSD-3), built by `ci/flash-attention.sh`. The shape decides the kernel: head size 128
//! causal or full, head size 72, 80, 88 or 96 full. **Nothing here has run on a GPU yet.** What follows is what its
//! `csrc/flash_attn/src` says:
//!
//! - **Layout** (`block_info.h`, `get_lse_tile` in `flash_fwd_kernel.h`): sequence `b` owns the rows `cu_q[b]..cu_q[b + 1]`
//!   of q and out and `cu_k[b]..cu_k[b + 1]` of k and v. LSE is f32 `(heads, total_q)`, without padding; a comment there
//!   says `(h, b, seqlen_q)`, the strides say this.
//! - **Causal** (`mask.h`) is aligned at the end: query i of a sequence sees the keys j ≤ i + len_k − len_q.
//! - **No key** (`compute_attn_1rowblock` in `flash_fwd_kernel.h`, `normalize_softmax_lse` in `softmax.h`): a row of q that
//!   sees no key, because its sequence has none or causality hides all, gets out = 0 and **LSE = +∞**, not −∞. Who merges
//!   two partial attentions gives such a part the weight 0; `exp(lse − max)` would do the contrary.
//! - **Backward from outside** (`flash_bwd_preprocess_kernel.h`, `flash_bwd_kernel.h`): it computes
//!   P = exp(scale·QKᵀ − LSE) and D = rowsum(dout∘out) from the LSE and out it is given, and never normalises again. With
//!   the LSE and out *merged* from several key sets, one call per key set gives exactly that set's dk and dv, and dq is the
//!   sum over the calls. A row with LSE = +∞ has P = 0 and adds nothing.
//! - **Empty sequences in the backward**: without keys dq = 0, without queries dk = dv = 0, both written by the kernels.
//!   Where *all* sequences lack one of them the package's launch code would start an empty grid; the shim fills zeros.
//! - **Grouped heads**: head h of q reads head h / (heads / kv_heads) of k and v. dk and dv come out for every head of q,
//!   `(total_k, heads, head_dim)`; the caller adds up the groups, as `mha_varlen_bwd` in `flash_api.cpp` does.
//! - **Scratch** (`mha_varlen_bwd`): sequences are set 128 rows further apart in `dq_sum` and `row_sum`, so that blocks may
//!   write past their end. Its content before the call does not matter; the deterministic one must start from zeros, which
//!   the shim writes.
//! - **Determinism** (`run_flash_bwd_seqk_parallel` in `flash_bwd_launch_template.h`): dq is summed with atomic additions, so
//!   its last bits change from run to run. `deterministic` gives each thread block a sum of its own, added up in order. The
//!   forward, dk and dv have a fixed order anyway.
//! - The backward reads `rng_state` without dropout too, unless the compiler removes it; the shim points it at scratch.

#![expect(unsafe_code, reason = "calls of the C interface")]

use anyhow::{Result, bail, ensure};
use candle_core::cuda_backend::cudarc::driver::sys::{CUdeviceptr, CUstream};
use std::ffi::{CStr, c_char, c_int, c_void};

/// Rows that FlashAttention-2 puts between two sequences in its scratch memory.
const SCRATCH_GAP: usize = 128;
/// `UNSUPPORTED` of the shim.
const UNSUPPORTED: c_int = -1;

/// One attention over packed sequences. All memory is the device's; q, k, v and out are bf16 with contiguous heads, 16-byte
/// aligned.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// `(total_q, heads, head_dim)`, rows `q_stride` elements apart.
    pub q: CUdeviceptr,
    /// `(total_k, kv_heads, head_dim)`, rows `k_stride` elements apart.
    pub k: CUdeviceptr,
    /// `(total_k, kv_heads, head_dim)`, rows `v_stride` elements apart.
    pub v: CUdeviceptr,
    /// `(total_q, heads, head_dim)`, contiguous: written by the forward, read by the backward.
    pub out: CUdeviceptr,
    /// f32 `(heads, total_q)`: natural logarithm of the sum of exponentials; +∞ where a row sees no key.
    pub lse: CUdeviceptr,
    /// i32 `(batch + 1)`: where each sequence of q begins, from 0 to `total_q`.
    pub cu_q: CUdeviceptr,
    /// i32 `(batch + 1)`: where each sequence of k and v begins, from 0 to `total_k`.
    pub cu_k: CUdeviceptr,
    /// Elements from one row of q to the next; `heads * head_dim` if contiguous, more if q is a part of a wider matrix.
    pub q_stride: usize,
    /// The same for k.
    pub k_stride: usize,
    /// The same for v.
    pub v_stride: usize,
    /// Number of sequences, 1 to 65,535.
    pub batch: usize,
    /// Rows of q.
    pub total_q: usize,
    /// Rows of k and v.
    pub total_k: usize,
    /// At least the longest sequence of q; 0 only if all are empty.
    pub max_q: usize,
    /// At least the longest sequence of k; 0 only if all are empty.
    pub max_k: usize,
    /// Heads of q.
    pub heads: usize,
    /// Heads of k and v; divides `heads`.
    pub kv_heads: usize,
    /// 128, or with `causal` false also 72, 80, 88 or 96.
    pub head_dim: usize,
    /// Whether a query sees only keys up to its own place, counted from the end of its sequence.
    pub causal: bool,
    /// Factor of the scores before the softmax, `1 / sqrt(head_dim)` as a rule.
    pub scale: f32,
}

/// Where the backward reads and writes. bf16 unless said otherwise, contiguous, 16-byte aligned.
#[derive(Clone, Copy, Debug)]
pub struct Gradients {
    /// Given: `(total_q, heads, head_dim)`.
    pub dout: CUdeviceptr,
    /// Written: `(total_q, heads, head_dim)`.
    pub dq: CUdeviceptr,
    /// Written: `(total_k, heads, head_dim)`, one for every head of q.
    pub dk: CUdeviceptr,
    /// Written: `(total_k, heads, head_dim)`, one for every head of q.
    pub dv: CUdeviceptr,
    /// Scratch: f32, [`Attention::dq_sum_len`] elements.
    pub dq_sum: CUdeviceptr,
    /// Scratch: f32, [`Attention::row_sum_len`] elements.
    pub row_sum: CUdeviceptr,
    /// Whether two runs give the same bytes of dq.
    pub deterministic: bool,
}

impl Attention {
    /// Writes `out` and `lse`.
    ///
    /// # Safety
    /// The pointers must be device memory of the described sizes, valid until `stream` has done the work, and the context
    /// of `stream` must be current in this thread (every call of cudarc makes it so).
    pub unsafe fn forward(&self, stream: CUstream) -> Result<()> {
        let problem = self.checked(stream)?;
        // SAFETY: the struct matches the shim's; the memory is the caller's promise.
        outcome(unsafe { harness_flash_forward(&problem) }, "forward")
    }

    /// Reads q, k, v, `out`, `lse` and `dout`; writes dq, dk and dv.
    ///
    /// # Safety
    /// As for [`Self::forward`].
    pub unsafe fn backward(&self, gradients: &Gradients, stream: CUstream) -> Result<()> {
        let problem = self.checked(stream)?;
        let gradient = gradients.checked()?;
        // SAFETY: the structs match the shim's; the memory is the caller's promise.
        outcome(unsafe { harness_flash_backward(&problem, &gradient) }, "backward")
    }

    /// f32 elements of [`Gradients::dq_sum`] on the current device.
    pub fn dq_sum_len(&self, deterministic: bool) -> Result<usize> {
        let one = self.scratch_rows() * self.heads * self.head_dim.next_multiple_of(32);
        if !deterministic {
            return Ok(one);
        }
        // SAFETY: takes numbers only.
        let parts = unsafe { harness_flash_dq_parts(int(self.batch)?, int(self.heads)?) };
        ensure!(parts > 0, "FlashAttention cannot ask the CUDA device for its number of processors");
        Ok(one * parts as usize)
    }

    /// f32 elements of [`Gradients::row_sum`].
    pub fn row_sum_len(&self) -> usize {
        self.scratch_rows() * self.heads
    }

    fn scratch_rows(&self) -> usize {
        self.total_q + SCRATCH_GAP * self.batch
    }

    fn checked(&self, stream: CUstream) -> Result<Problem> {
        ensure!(
            (1..=65_535).contains(&self.batch),
            "FlashAttention takes 1 to 65,535 sequences, not {}",
            self.batch
        );
        ensure!(
            self.kv_heads > 0 && self.heads > 0 && self.heads.is_multiple_of(self.kv_heads),
            "{} heads of keys do not divide {} heads of queries",
            self.kv_heads,
            self.heads
        );
        check_rows("q", self.q, self.q_stride, self.heads * self.head_dim)?;
        check_rows("k", self.k, self.k_stride, self.kv_heads * self.head_dim)?;
        check_rows("v", self.v, self.v_stride, self.kv_heads * self.head_dim)?;
        check_aligned("out", self.out)?;
        Ok(Problem {
            q: self.q,
            k: self.k,
            v: self.v,
            out: self.out,
            lse: self.lse,
            cu_q: self.cu_q,
            cu_k: self.cu_k,
            q_stride: self.q_stride as i64,
            k_stride: self.k_stride as i64,
            v_stride: self.v_stride as i64,
            batch: int(self.batch)?,
            total_q: int(self.total_q)?,
            total_k: int(self.total_k)?,
            max_q: int(self.max_q)?,
            max_k: int(self.max_k)?,
            heads: int(self.heads)?,
            kv_heads: int(self.kv_heads)?,
            head_dim: int(self.head_dim)?,
            causal: self.causal.into(),
            scale: self.scale,
            stream: stream.cast(),
        })
    }
}

impl Gradients {
    fn checked(&self) -> Result<Gradient> {
        for (name, pointer) in [("dout", self.dout), ("dq", self.dq), ("dk", self.dk), ("dv", self.dv)] {
            check_aligned(name, pointer)?;
        }
        check_aligned("dq_sum", self.dq_sum)?;
        Ok(Gradient {
            dout: self.dout,
            dq: self.dq,
            dk: self.dk,
            dv: self.dv,
            dq_sum: self.dq_sum,
            row_sum: self.row_sum,
            deterministic: self.deterministic.into(),
        })
    }
}

fn int(number: usize) -> Result<c_int> {
    number.try_into().map_err(|_| anyhow::anyhow!("FlashAttention counts in 32 bits; {number} is too many"))
}

fn check_rows(name: &str, pointer: CUdeviceptr, stride: usize, width: usize) -> Result<()> {
    ensure!(
        stride >= width && stride.is_multiple_of(8),
        "rows of {name} are {stride} elements apart; FlashAttention needs a multiple of 8 and at least {width}"
    );
    check_aligned(name, pointer)
}

fn check_aligned(name: &str, pointer: CUdeviceptr) -> Result<()> {
    ensure!(pointer.is_multiple_of(16), "{name} is not aligned to 16 bytes, which FlashAttention needs");
    Ok(())
}

fn outcome(code: c_int, what: &str) -> Result<()> {
    match code {
        0 => Ok(()),
        UNSUPPORTED => bail!(
            "FlashAttention is built for head size 128, and for 72 to 96 without causality; set another attention"
        ),
        // SAFETY: the text is a constant of the CUDA runtime.
        code => bail!("FlashAttention's {what} failed: {}", unsafe {
            CStr::from_ptr(harness_flash_error_text(code)).to_string_lossy()
        }),
    }
}

/// `Problem` of `flash_shim.cu`.
#[repr(C)]
struct Problem {
    q: CUdeviceptr,
    k: CUdeviceptr,
    v: CUdeviceptr,
    out: CUdeviceptr,
    lse: CUdeviceptr,
    cu_q: CUdeviceptr,
    cu_k: CUdeviceptr,
    q_stride: i64,
    k_stride: i64,
    v_stride: i64,
    batch: c_int,
    total_q: c_int,
    total_k: c_int,
    max_q: c_int,
    max_k: c_int,
    heads: c_int,
    kv_heads: c_int,
    head_dim: c_int,
    causal: c_int,
    scale: f32,
    stream: *mut c_void,
}

/// `Gradient` of `flash_shim.cu`.
#[repr(C)]
struct Gradient {
    dout: CUdeviceptr,
    dq: CUdeviceptr,
    dk: CUdeviceptr,
    dv: CUdeviceptr,
    dq_sum: CUdeviceptr,
    row_sum: CUdeviceptr,
    deterministic: c_int,
}

unsafe extern "C" {
    fn harness_flash_forward(problem: &Problem) -> c_int;
    fn harness_flash_backward(problem: &Problem, gradient: &Gradient) -> c_int;
    fn harness_flash_dq_parts(batch: c_int, heads: c_int) -> c_int;
    fn harness_flash_error_text(code: c_int) -> *const c_char;
    #[cfg(test)]
    fn harness_flash_layout(places: &mut [c_int; 4]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    fn attention() -> Attention {
        Attention {
            q: 0,
            k: 0,
            v: 0,
            out: 0,
            lse: 0,
            cu_q: 0,
            cu_k: 0,
            q_stride: 4 * 128,
            k_stride: 2 * 128,
            v_stride: 2 * 128,
            batch: 3,
            total_q: 100,
            total_k: 50,
            max_q: 60,
            max_k: 30,
            heads: 4,
            kv_heads: 2,
            head_dim: 128,
            causal: true,
            scale: 0.1,
        }
    }

    /// The message of a forward that is refused before any work is given to a device.
    fn refusal(attention: Attention) -> String {
        // SAFETY: no kernel starts.
        unsafe { attention.forward(std::ptr::null_mut()) }.unwrap_err().to_string()
    }

    #[test]
    fn the_structs_are_laid_out_as_in_c() {
        let mut places = [0; 4];
        // SAFETY: writes four integers.
        unsafe { harness_flash_layout(&mut places) };
        let here = [
            size_of::<Problem>(),
            offset_of!(Problem, scale),
            size_of::<Gradient>(),
            offset_of!(Gradient, deterministic),
        ];
        assert_eq!(places.map(|place| place as usize), here);
    }

    #[test]
    fn shapes_that_no_kernel_computes_are_refused() {
        let narrow = Attention { head_dim: 64, ..attention() };
        let causal_vision = Attention { head_dim: 80, ..attention() };
        for unsupported in [narrow, causal_vision] {
            assert!(refusal(unsupported).contains("head size 128"));
        }
        assert!(refusal(Attention { kv_heads: 3, ..attention() }).contains("do not divide"));
        assert!(refusal(Attention { batch: 0, ..attention() }).contains("sequences"));
        assert!(refusal(Attention { q_stride: 511, ..attention() }).contains("rows of q"));
        assert!(refusal(Attention { v: 8, ..attention() }).contains("v is not aligned"));
        assert!(refusal(Attention { total_q: 1 << 31, ..attention() }).contains("too many"));
    }

    #[test]
    fn the_scratch_leaves_a_gap_after_every_sequence() {
        let vision = Attention { head_dim: 80, causal: false, ..attention() };
        assert_eq!(vision.row_sum_len(), (100 + 3 * 128) * 4);
        assert_eq!(vision.dq_sum_len(false).unwrap(), (100 + 3 * 128) * 4 * 96);
        assert_eq!(attention().dq_sum_len(false).unwrap(), (100 + 3 * 128) * 4 * 128);
    }
}
