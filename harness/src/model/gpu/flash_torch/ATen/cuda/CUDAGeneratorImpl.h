// Stands in for PyTorch's header of this name, from which FlashAttention-2 takes the state of the random numbers for
// dropout. Dropout is compiled out; only the type remains.
#pragma once
#include <cstdint>

namespace at {
struct PhiloxCudaState {
    uint64_t seed = 0, offset = 0;
};
}
