// Stands in for PyTorch's header of this name; see CUDAGeneratorImpl.h.
#pragma once
#include <tuple>

#include <ATen/cuda/CUDAGeneratorImpl.h>

namespace at::cuda::philox {
__host__ __device__ inline std::tuple<uint64_t, uint64_t> unpack(PhiloxCudaState state) {
    return std::make_tuple(state.seed, state.offset);
}
}
