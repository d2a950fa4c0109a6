// A C interface to FlashAttention-2 (flash-attn 2.8.3.post2, BSD-3): packed sequences, bf16, head size 128 (causal or
// full) and 72..96 (full). Compiled by ci/flash-attention.sh together with the package's own kernel files; called from
// flash.rs, where every field is explained and what the sources do in the corner cases is written down. Strides, sizes
// and defaults are those of set_params_fprop and mha_varlen_bwd in the package's csrc/flash_attn/flash_api.cpp.
#include <cmath>
#include <cstddef>

#include "namespace_config.h"

#include <c10/cuda/CUDAException.h>
#include <cuda_runtime.h>
#include <cutlass/numeric_types.h>

#include "flash.h"
#include "hardware_info.h"

using bf16 = cutlass::bfloat16_t;

// The same fields in the same order as `Problem` in flash.rs.
struct Problem {
    const void *q, *k, *v;
    void *out;
    float *lse;
    const int *cu_q, *cu_k;
    int64_t q_stride, k_stride, v_stride;
    int batch, total_q, total_k, max_q, max_k, heads, kv_heads, head_dim, causal;
    float scale;
    void *stream;
};

// The same fields in the same order as `Gradient` in flash.rs.
struct Gradient {
    const void *dout;
    void *dq, *dk, *dv;
    float *dq_sum, *row_sum;
    int deterministic;
};

// Returned for a shape that no kernel here computes; CUDA's own codes are not negative.
constexpr int UNSUPPORTED = -1;

enum class Kernel { none, causal128, full128, full96 };

static Kernel kernel_of(const Problem &problem) {
    if (problem.head_dim == 128) return problem.causal ? Kernel::causal128 : Kernel::full128;
    bool wide = problem.head_dim > 64 && problem.head_dim <= 96 && problem.head_dim % 8 == 0;
    return wide && !problem.causal ? Kernel::full96 : Kernel::none;
}

static int rounded(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

static void fill(flash::Flash_fwd_params &params, const Problem &problem) {
    params.is_bf16 = true;
    params.q_ptr = const_cast<void *>(problem.q);
    params.k_ptr = const_cast<void *>(problem.k);
    params.v_ptr = const_cast<void *>(problem.v);
    params.o_ptr = problem.out;
    params.softmax_lse_ptr = problem.lse;
    params.cu_seqlens_q = const_cast<int *>(problem.cu_q);
    params.cu_seqlens_k = const_cast<int *>(problem.cu_k);
    params.is_seqlens_k_cumulative = true;
    params.unpadded_lse = true;

    params.q_row_stride = problem.q_stride;
    params.k_row_stride = problem.k_stride;
    params.v_row_stride = problem.v_stride;
    params.o_row_stride = (int64_t)problem.heads * problem.head_dim;
    params.q_head_stride = params.k_head_stride = params.v_head_stride = params.o_head_stride = problem.head_dim;

    params.b = problem.batch;
    params.total_q = problem.total_q;
    params.h = problem.heads;
    params.h_k = problem.kv_heads;
    params.h_h_k_ratio = problem.heads / problem.kv_heads;
    params.seqlen_q = problem.max_q;
    params.seqlen_k = problem.max_k;
    params.seqlen_q_rounded = rounded(problem.max_q, 128);
    params.seqlen_k_rounded = rounded(problem.max_k, 128);
    params.d = problem.head_dim;
    params.d_rounded = rounded(problem.head_dim, 32);

    params.scale_softmax = problem.scale;
    params.scale_softmax_log2 = problem.scale * (float)M_LOG2E;
    params.p_dropout = params.rp_dropout = 1.f;
    params.p_dropout_in_uint8_t = 255;
    params.scale_softmax_rp_dropout = problem.scale;
    params.is_causal = problem.causal;
    params.window_size_left = problem.causal ? problem.max_k : -1;
    params.window_size_right = problem.causal ? 0 : -1;
}

static int first_error() {
    C10_CUDA_CHECK(cudaGetLastError());
    cudaError_t error = harness_flash_error;
    harness_flash_error = cudaSuccess;
    return (int)error;
}

// out and lse.
extern "C" int harness_flash_forward(const Problem *problem) {
    flash::Flash_fwd_params params = {};
    fill(params, *problem);
    auto stream = (cudaStream_t)problem->stream;
    if (problem->max_q == 0) return (int)cudaSuccess;
    switch (kernel_of(*problem)) {
    case Kernel::causal128: flash::run_mha_fwd_<bf16, 128, true>(params, stream); break;
    case Kernel::full128: flash::run_mha_fwd_<bf16, 128, false>(params, stream); break;
    case Kernel::full96: flash::run_mha_fwd_<bf16, 96, false>(params, stream); break;
    case Kernel::none: return UNSUPPORTED;
    }
    return first_error();
}

// Into how many parts the deterministic backward cuts the sum of dq: the thread blocks that share a row of q, as
// run_flash_bwd_seqk_parallel counts them. 0 where there is no device.
extern "C" int harness_flash_dq_parts(int batch, int heads) {
    int device, processors;
    if (cudaGetDevice(&device) != cudaSuccess) return 0;
    if (cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) return 0;
    return (processors + batch * heads - 1) / (batch * heads);
}

// dq, dk and dv of no query or no key at all: zeros. The package's launch code would start an empty grid.
static int empty_gradient(const Problem &problem, const Gradient &gradient) {
    auto stream = (cudaStream_t)problem.stream;
    size_t row = (size_t)problem.heads * problem.head_dim * sizeof(bf16);
    C10_CUDA_CHECK(cudaMemsetAsync(gradient.dq, 0, problem.total_q * row, stream));
    C10_CUDA_CHECK(cudaMemsetAsync(gradient.dk, 0, problem.total_k * row, stream));
    C10_CUDA_CHECK(cudaMemsetAsync(gradient.dv, 0, problem.total_k * row, stream));
    return first_error();
}

// dq, and dk and dv for every head of q.
extern "C" int harness_flash_backward(const Problem *problem, const Gradient *gradient) {
    Kernel kernel = kernel_of(*problem);
    if (kernel == Kernel::none) return UNSUPPORTED;
    if (problem->max_q == 0 || problem->max_k == 0) return empty_gradient(*problem, *gradient);

    flash::Flash_bwd_params params = {};
    fill(params, *problem);
    params.do_ptr = const_cast<void *>(gradient->dout);
    params.dq_ptr = gradient->dq;
    params.dk_ptr = gradient->dk;
    params.dv_ptr = gradient->dv;
    params.do_row_stride = params.dq_row_stride = params.dk_row_stride = params.dv_row_stride = params.o_row_stride;
    params.do_head_stride = params.dq_head_stride = params.dk_head_stride = params.dv_head_stride = problem->head_dim;
    params.dq_accum_ptr = gradient->dq_sum;
    params.dsoftmax_sum = gradient->row_sum;
    // Read by the kernel's text, used only by dropout: any readable address will do.
    params.rng_state = (uint64_t *)gradient->row_sum;
    params.deterministic = gradient->deterministic;

    auto stream = (cudaStream_t)problem->stream;
    if (gradient->deterministic) {
        int64_t part = ((int64_t)problem->total_q + 128 * (int64_t)problem->batch) * problem->heads * params.d_rounded;
        params.dq_accum_split_stride = part;
        size_t bytes = (size_t)harness_flash_dq_parts(problem->batch, problem->heads) * part * sizeof(float);
        C10_CUDA_CHECK(cudaMemsetAsync(gradient->dq_sum, 0, bytes, stream));
    }
    switch (kernel) {
    case Kernel::causal128: flash::run_mha_bwd_<bf16, 128, true>(params, stream); break;
    case Kernel::full128: flash::run_mha_bwd_<bf16, 128, false>(params, stream); break;
    case Kernel::full96: flash::run_mha_bwd_<bf16, 96, false>(params, stream); break;
    case Kernel::none: return UNSUPPORTED;
    }
    return first_error();
}

extern "C" const char *harness_flash_error_text(int code) { return cudaGetErrorString((cudaError_t)code); }

// For the test that flash.rs has the same structs.
extern "C" void harness_flash_layout(int places[4]) {
    places[0] = sizeof(Problem);
    places[1] = offsetof(Problem, scale);
    places[2] = sizeof(Gradient);
    places[3] = offsetof(Gradient, deterministic);
}
