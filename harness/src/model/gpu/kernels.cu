// The GPU kernels. Compiled twice: with T_F32 and with T_BF16, the element type T of weights and activations.
#ifdef T_BF16
#include <cuda_bf16.h>
typedef __nv_bfloat16 T;
#else
typedef float T;
#endif

// y += x, n elements, in f32.
extern "C" __global__ void add_in_place(T *y, const T *x, size_t n) {
    size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    if (i < n) y[i] = (T)((float)y[i] + (float)x[i]);
}
