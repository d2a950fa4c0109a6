// What kernels.cu needs of CUDA, on the processor: threads of a block are fibers of one thread, run in turn.
//
// Blocks run one after another. A barrier lets a fiber pass when all living fibers of its block (or warp) have come; a
// shuffle is a store, a barrier, a load and a barrier. That is slow, and exact: it finds wrong indices, missing barriers
// that change a result, and wrong arithmetic. It does not find what only hardware shows: races within a warp, limits of
// registers and shared memory, speed.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#define EMULATION 1
#define __device__
#define __forceinline__ inline
#define KERNEL static void
#define SHARED static

struct Dimension {
    unsigned x = 1, y = 1, z = 1;
};

namespace emulation {
extern Dimension block_index, thread_index, block_size, grid_size;
void block_barrier();
void warp_barrier();
// A slot of the running fiber's warp.
uint64_t &slot(unsigned lane);
} // namespace emulation

#define blockIdx emulation::block_index
#define threadIdx emulation::thread_index
#define blockDim emulation::block_size
#define gridDim emulation::grid_size

inline void __syncthreads() { emulation::block_barrier(); }
inline void __syncwarp() { emulation::warp_barrier(); }

template <typename V> V exchange(V value, unsigned lane) {
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    emulation::slot(threadIdx.x % 32) = bits;
    emulation::warp_barrier();
    bits = emulation::slot(lane);
    emulation::warp_barrier();
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

template <typename V> V __shfl_xor_sync(unsigned, V value, int mask) { return exchange(value, (threadIdx.x % 32) ^ mask); }
template <typename V> V __shfl_sync(unsigned, V value, int lane) { return exchange(value, lane); }
template <typename V> V __shfl_up_sync(unsigned, V value, int delta) {
    int lane = (int)(threadIdx.x % 32) - delta;
    return exchange(value, lane < 0 ? threadIdx.x % 32 : (unsigned)lane);
}

template <typename V> V atomicAdd(V *at, V value) {
    V old = *at;
    *at += value;
    return old;
}

inline unsigned __float_as_uint(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

inline float __uint_as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

struct int2 {
    int x, y;
};
inline int2 make_int2(int x, int y) { return {x, y}; }

struct __nv_bfloat16 {
    uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 x) {
    uint32_t bits = (uint32_t)x.bits << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// Round to nearest, ties to even.
inline __nv_bfloat16 __float2bfloat16(float x) {
    uint32_t bits = __float_as_uint(x);
    if (x != x) return {0x7fff};
    return {(uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

using std::isinf;
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
