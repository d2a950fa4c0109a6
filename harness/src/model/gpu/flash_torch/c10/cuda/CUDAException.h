// Stands in for PyTorch's header of this name: FlashAttention-2's launch code checks CUDA calls through these two macros.
// The first error of a call is kept and returned by flash_shim.cu, where PyTorch would throw. PyTorch's header also
// brings the two standard headers that FlashAttention-2's hardware_info.h uses.
#pragma once
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>

inline thread_local cudaError_t harness_flash_error = cudaSuccess;

#define C10_CUDA_CHECK(call)                                                      \
    do {                                                                          \
        cudaError_t status = (call);                                              \
        if (harness_flash_error == cudaSuccess) harness_flash_error = status;     \
    } while (0)
#define C10_CUDA_KERNEL_LAUNCH_CHECK() C10_CUDA_CHECK(cudaGetLastError())
