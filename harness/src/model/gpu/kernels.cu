// The GPU kernels of the model: each is the counterpart of a CPU function of the same name.
//
// One source, compiled twice: T is float (-DT_F32) or bfloat16 (-DT_BF16), the type of weights and activations. All
// arithmetic inside is f32; sums have a fixed order and no floating-point atomics are used, so that two runs on one card
// give the same bytes. nvcc makes PTX of it; with -DEMULATION a C++ compiler makes host functions of it (emulate.h), so
// that every kernel is tested on a machine without a GPU.
//
// Row-wise kernels give one warp to a row; blocks have WARPS warps. Lengths are in elements, matrices row-major.

#ifndef EMULATION
#include <cuda_bf16.h>
#define KERNEL extern "C" __global__ void
#define SHARED __shared__
#endif

#ifdef T_BF16
typedef __nv_bfloat16 T;
#else
typedef float T;
#endif

#define WARPS 4
#define FULL 0xffffffffu
// Largest head size, and columns of a head that one lane holds.
#define HEAD 128
#define COLUMNS (HEAD / 32)
// Rows that one block of a column sum adds up.
#define ROWS 128
// Threads of the kernels that give a block to a row of the vocabulary.
#define WIDE 256
// Tokens of a page of the cache: as many as lanes.
#define PAGE 32
// Most query heads that share one head of keys.
#define GROUP 8

static __device__ __forceinline__ float f(float x) { return x; }
static __device__ __forceinline__ float f(__nv_bfloat16 x) { return __bfloat162float(x); }
static __device__ __forceinline__ void put(float *p, float x) { *p = x; }
static __device__ __forceinline__ void put(__nv_bfloat16 *p, float x) { *p = __float2bfloat16(x); }

// 16 bytes of T, moved at once where pointers and widths allow.
struct alignas(16) Pack {
    T v[16 / sizeof(T)];
};
#define LANES ((int)(16 / sizeof(T)))

static __device__ __forceinline__ bool packed(const void *p, long long n) {
    return ((unsigned long long)p % 16 == 0) && (n % LANES == 0);
}

static __device__ __forceinline__ float warp_sum(float x) {
    for (int m = 16; m > 0; m >>= 1) x += __shfl_xor_sync(FULL, x, m);
    return x;
}

static __device__ __forceinline__ float warp_max(float x) {
    for (int m = 16; m > 0; m >>= 1) x = fmaxf(x, __shfl_xor_sync(FULL, x, m));
    return x;
}

static __device__ __forceinline__ long long thread_index() {
    return (long long)blockIdx.x * blockDim.x + threadIdx.x;
}

static __device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

static __device__ __forceinline__ float normal_cdf(float x) { return 0.5f * (1.0f + erff(x * 0.70710678f)); }

// Value i of gradients or sums that are f32 or, if `half`, bf16.
static __device__ __forceinline__ float either(const void *p, long long i, int half) {
    return half ? f(((const __nv_bfloat16 *)p)[i]) : ((const float *)p)[i];
}
static __device__ __forceinline__ void put_either(void *p, long long i, int half, float x) {
    if (half) put((__nv_bfloat16 *)p + i, x);
    else ((float *)p)[i] = x;
}

// ---- elementwise ------------------------------------------------------------------------------------------------

// dst (n) += src (n)
KERNEL add(T *dst, const T *src, long long n) {
    long long i = thread_index() * LANES;
    if (i >= n) return;
    if (packed(dst, n) && packed(src, n)) {
        Pack a = *(const Pack *)(dst + i), b = *(const Pack *)(src + i);
        for (int j = 0; j < LANES; j++) put(&a.v[j], f(a.v[j]) + f(b.v[j]));
        *(Pack *)(dst + i) = a;
    } else {
        for (int j = 0; j < LANES && i + j < n; j++) put(&dst[i + j], f(dst[i + j]) + f(src[i + j]));
    }
}

// dst (n; f32 or bf16) += src (n; f32 or bf16)
KERNEL accumulate(void *dst, const void *src, long long n, int dst_half, int src_half) {
    long long i = thread_index();
    if (i < n) put_either(dst, i, dst_half, either(dst, i, dst_half) + either(src, i, src_half));
}

// dst (n; f32 or bf16) = src (n; f32 or bf16)
KERNEL assign(void *dst, const void *src, long long n, int dst_half, int src_half) {
    long long i = thread_index();
    if (i < n) put_either(dst, i, dst_half, either(src, i, src_half));
}

// Every row of dst (n, d) += bias (d)
KERNEL add_rows(T *dst, const T *bias, long long n, int d) {
    long long i = thread_index();
    if (i < n * d) put(&dst[i], f(dst[i]) + f(bias[i % d]));
}

// y = silu(gate) * up
KERNEL swiglu(const T *gate, const T *up, T *y, long long n) {
    long long i = thread_index() * LANES;
    if (i >= n) return;
    if (packed(gate, n) && packed(up, n) && packed(y, n)) {
        Pack g = *(const Pack *)(gate + i), u = *(const Pack *)(up + i);
        for (int j = 0; j < LANES; j++) put(&g.v[j], f(g.v[j]) * sigmoid(f(g.v[j])) * f(u.v[j]));
        *(Pack *)(y + i) = g;
    } else {
        for (int j = 0; j < LANES && i + j < n; j++) {
            float g = f(gate[i + j]);
            put(&y[i + j], g * sigmoid(g) * f(up[i + j]));
        }
    }
}

static __device__ __forceinline__ void swiglu_slopes(float g, float u, float d, T *dg, T *du) {
    float s = sigmoid(g);
    put(du, d * g * s);
    put(dg, d * u * s * (1.0f + g * (1.0f - s)));
}

KERNEL swiglu_backward(const T *gate, const T *up, const T *dy, T *dgate, T *dup, long long n) {
    long long i = thread_index() * LANES;
    if (i >= n) return;
    bool all = packed(gate, n) && packed(up, n) && packed(dy, n) && packed(dgate, n) && packed(dup, n);
    if (all) {
        Pack g = *(const Pack *)(gate + i), u = *(const Pack *)(up + i), d = *(const Pack *)(dy + i);
        for (int j = 0; j < LANES; j++) {
            T dg, du;
            swiglu_slopes(f(g.v[j]), f(u.v[j]), f(d.v[j]), &dg, &du);
            g.v[j] = dg;
            u.v[j] = du;
        }
        *(Pack *)(dgate + i) = g;
        *(Pack *)(dup + i) = u;
    } else {
        for (int j = 0; j < LANES && i + j < n; j++)
            swiglu_slopes(f(gate[i + j]), f(up[i + j]), f(dy[i + j]), &dgate[i + j], &dup[i + j]);
    }
}

KERNEL gelu(const T *x, T *y, long long n) {
    long long i = thread_index();
    if (i < n) put(&y[i], f(x[i]) * normal_cdf(f(x[i])));
}

KERNEL gelu_backward(const T *x, const T *dy, T *dx, long long n) {
    long long i = thread_index();
    if (i >= n) return;
    float a = f(x[i]);
    put(&dx[i], f(dy[i]) * (normal_cdf(a) + a * expf(-0.5f * a * a) * 0.3989422804f));
}

// Rotates the heads of x (n, width) by each row's angles (cos, sin: (n, half)), forwards (sign 1) or back (-1).
KERNEL rotate(const T *x, const float *cos, const float *sin, T *y, long long n, int width, int half, float sign) {
    long long i = thread_index();
    long long pairs = width / 2;
    if (i >= n * pairs) return;
    long long row = i / pairs;
    int pair = (int)(i % pairs), j = pair % half;
    long long at = row * width + (long long)(pair / half) * 2 * half + j;
    float c = cos[row * half + j], s = sin[row * half + j] * sign, a = f(x[at]), b = f(x[at + half]);
    put(&y[at], a * c - b * s);
    put(&y[at + half], b * c + a * s);
}

// ---- rows by index ----------------------------------------------------------------------------------------------

// y (m, d) = rows of x
KERNEL gather_rows(const T *x, const unsigned *rows, T *y, int d) {
    int row = blockIdx.x;
    const T *from = x + (long long)rows[row] * d;
    T *to = y + (long long)row * d;
    bool fast = packed(from, d) && packed(to, d);
    if (fast)
        for (int i = threadIdx.x * LANES; i < d; i += blockDim.x * LANES) *(Pack *)(to + i) = *(const Pack *)(from + i);
    else
        for (int i = threadIdx.x; i < d; i += blockDim.x) to[i] = from[i];
}

// Rows of x become those of y (m, d); indices are distinct.
KERNEL put_rows(T *x, const T *y, const unsigned *rows, int d) {
    int row = blockIdx.x;
    for (int i = threadIdx.x; i < d; i += blockDim.x) x[(long long)rows[row] * d + i] = y[(long long)row * d + i];
}

// sum (any, d; f32 or bf16), row rows[u] += the rows order[starts[u] .. starts[u + 1]] of dy, in that order.
KERNEL scatter_rows(void *sum, const T *dy, const unsigned *rows, const unsigned *starts, const unsigned *order, int d,
                    int half) {
    int u = blockIdx.x;
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        long long at = (long long)rows[u] * d + i;
        float total = either(sum, at, half);
        for (unsigned k = starts[u]; k < starts[u + 1]; k++) total += f(dy[(long long)order[k] * d + i]);
        put_either(sum, at, half, total);
    }
}

// ---- sums over rows ---------------------------------------------------------------------------------------------

// part (blocks of ROWS rows, d) = sums of x (n, d), or of x * dy * inverse where dy is given.
KERNEL column_sums(const T *x, const T *dy, const float *inverse, float *part, int n, int d) {
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= d) return;
    int first = blockIdx.y * ROWS, last = min(n, first + ROWS);
    float sum = 0.0f;
    for (int row = first; row < last; row++) {
        long long at = (long long)row * d + column;
        sum += dy ? f(dy[at]) * inverse[row] * f(x[at]) : f(x[at]);
    }
    part[(long long)blockIdx.y * d + column] = sum;
}

// out (d) = sum of part (m, d)
KERNEL sum_parts(const float *part, float *out, int m, int d) {
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= d) return;
    float sum = 0.0f;
    for (int row = 0; row < m; row++) sum += part[(long long)row * d + column];
    out[column] = sum;
}

// ---- root mean square norm --------------------------------------------------------------------------------------

KERNEL rms_norm(const T *x, const T *w, T *y, int n, int d, float eps) {
    int row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= n) return;
    x += (long long)row * d;
    y += (long long)row * d;
    bool fast = packed(x, d) && packed(y, d) && packed(w, d);
    float sum = 0.0f;
    if (fast)
        for (int i = lane * LANES; i < d; i += 32 * LANES) {
            Pack a = *(const Pack *)(x + i);
            for (int j = 0; j < LANES; j++) sum += f(a.v[j]) * f(a.v[j]);
        }
    else
        for (int i = lane; i < d; i += 32) sum += f(x[i]) * f(x[i]);
    float r = 1.0f / sqrtf(warp_sum(sum) / d + eps);
    if (fast)
        for (int i = lane * LANES; i < d; i += 32 * LANES) {
            Pack a = *(const Pack *)(x + i), b = *(const Pack *)(w + i);
            for (int j = 0; j < LANES; j++) put(&a.v[j], f(a.v[j]) * r * f(b.v[j]));
            *(Pack *)(y + i) = a;
        }
    else
        for (int i = lane; i < d; i += 32) put(&y[i], f(x[i]) * r * f(w[i]));
}

// dx (n, d), and 1 / root mean square of every row (n) for the sums of the weight's gradient.
KERNEL rms_norm_backward(const T *x, const T *w, const T *dy, T *dx, float *inverse, int n, int d, float eps) {
    int row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= n) return;
    x += (long long)row * d;
    dy += (long long)row * d;
    dx += (long long)row * d;
    float squares = 0.0f, product = 0.0f;
    for (int i = lane; i < d; i += 32) {
        squares += f(x[i]) * f(x[i]);
        product += f(dy[i]) * f(w[i]) * f(x[i]);
    }
    float r = 1.0f / sqrtf(warp_sum(squares) / d + eps);
    float c = warp_sum(product) * r * r * r / d;
    for (int i = lane; i < d; i += 32) put(&dx[i], f(dy[i]) * f(w[i]) * r - f(x[i]) * c);
    if (lane == 0) inverse[row] = r;
}

// ---- attention over packed trees and windows ----------------------------------------------------------------------
//
// q, out (n, heads * size); k, v (n, kv heads * size); lse (heads, n). `rows` (n, 6) says for every row where its block
// begins, how many rows of it are the shared prefix, where its own segment begins and ends, and which rows see it as
// prefix (begin, end). Row i sees the prefix and its own segment, up to itself if causal. One warp per row and head.

#define BLOCK_OF(i) rows[6 * (long long)(i)]
#define PREFIX_OF(i) rows[6 * (long long)(i) + 1]
#define START_OF(i) rows[6 * (long long)(i) + 2]
#define END_OF(i) rows[6 * (long long)(i) + 3]
#define CHILD_OF(i) rows[6 * (long long)(i) + 4]
#define CHILDREN_OF(i) rows[6 * (long long)(i) + 5]

static __device__ __forceinline__ float dot(const float *a, const T *b, int size) {
    float sum = 0.0f;
    if (packed(b, size)) {
        for (int i = 0; i < size; i += LANES) {
            Pack p = *(const Pack *)(b + i);
            for (int j = 0; j < LANES; j++) sum += a[i + j] * f(p.v[j]);
        }
    } else {
        for (int i = 0; i < size; i++) sum += a[i] * f(b[i]);
    }
    return sum;
}

static __device__ __forceinline__ void fetch(float *to, const T *from, int size, int lane) {
    for (int i = lane; i < size; i += 32) to[i] = f(from[i]);
    __syncwarp();
}

// The j-th key of a row.
static __device__ __forceinline__ long long key_row(unsigned j, unsigned block, unsigned prefix, unsigned start) {
    return j < prefix ? block + j : start + (j - prefix);
}

KERNEL attention(const T *q, const T *k, const T *v, const unsigned *rows, T *out, float *lse, int n, int heads, int kv,
                 int size, float scale, int causal) {
    SHARED float queries[WARPS][HEAD];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    long long task = (long long)blockIdx.x * WARPS + warp;
    if (task >= (long long)n * heads) return;
    int row = (int)(task / heads), head = (int)(task % heads), shared = head / (heads / kv);
    long long width = (long long)kv * size;
    float *query = queries[warp];
    fetch(query, q + task * size, size, lane);
    unsigned block = BLOCK_OF(row), prefix = PREFIX_OF(row), start = START_OF(row);
    unsigned total = prefix + (causal ? row - start + 1 : END_OF(row) - start);
    k += shared * size;
    v += shared * size;
    float most = -INFINITY, sum = 0.0f, acc[COLUMNS] = {0};
    for (unsigned base = 0; base < total; base += 32) {
        unsigned mine = base + lane;
        float s = -INFINITY;
        if (mine < total) s = scale * dot(query, k + key_row(mine, block, prefix, start) * width, size);
        float peak = fmaxf(most, warp_max(s)), shrink = expf(most - peak), p = expf(s - peak);
        sum = sum * shrink + warp_sum(p);
        for (int c = 0; c < COLUMNS; c++) acc[c] *= shrink;
        unsigned here = min(32u, total - base);
        for (unsigned t = 0; t < here; t++) {
            float weight = __shfl_sync(FULL, p, t);
            const T *value = v + key_row(base + t, block, prefix, start) * width;
            for (int c = 0; c < COLUMNS; c++)
                if (lane + 32 * c < size) acc[c] += weight * f(value[lane + 32 * c]);
        }
        most = peak;
    }
    for (int c = 0; c < COLUMNS; c++)
        if (lane + 32 * c < size) put(&out[task * size + lane + 32 * c], acc[c] / sum);
    if (lane == 0) lse[(long long)head * n + row] = most + logf(sum);
}

// dq (n, heads * size), and delta (heads, n) = sum of dout * out for the gradients of keys and values.
KERNEL attention_backward_queries(const T *q, const T *k, const T *v, const T *out, const T *dout, const float *lse,
                                  const unsigned *rows, T *dq, float *delta, int n, int heads, int kv, int size,
                                  float scale, int causal) {
    SHARED float queries[WARPS][HEAD], douts[WARPS][HEAD];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    long long task = (long long)blockIdx.x * WARPS + warp;
    if (task >= (long long)n * heads) return;
    int row = (int)(task / heads), head = (int)(task % heads), shared = head / (heads / kv);
    long long width = (long long)kv * size;
    float *query = queries[warp], *slope = douts[warp];
    fetch(query, q + task * size, size, lane);
    fetch(slope, dout + task * size, size, lane);
    float own = 0.0f;
    for (int i = lane; i < size; i += 32) own += slope[i] * f(out[task * size + i]);
    own = warp_sum(own);
    float normal = lse[(long long)head * n + row];
    unsigned block = BLOCK_OF(row), prefix = PREFIX_OF(row), start = START_OF(row);
    unsigned total = prefix + (causal ? row - start + 1 : END_OF(row) - start);
    k += shared * size;
    v += shared * size;
    float acc[COLUMNS] = {0};
    for (unsigned base = 0; base < total; base += 32) {
        unsigned mine = base + lane;
        float ds = 0.0f;
        if (mine < total) {
            long long at = key_row(mine, block, prefix, start) * width;
            float p = expf(scale * dot(query, k + at, size) - normal);
            ds = p * (dot(slope, v + at, size) - own) * scale;
        }
        unsigned here = min(32u, total - base);
        for (unsigned t = 0; t < here; t++) {
            float weight = __shfl_sync(FULL, ds, t);
            const T *key = k + key_row(base + t, block, prefix, start) * width;
            for (int c = 0; c < COLUMNS; c++)
                if (lane + 32 * c < size) acc[c] += weight * f(key[lane + 32 * c]);
        }
    }
    for (int c = 0; c < COLUMNS; c++)
        if (lane + 32 * c < size) put(&dq[task * size + lane + 32 * c], acc[c]);
    if (lane == 0) delta[(long long)head * n + row] = own;
}

// dk, dv (n, kv heads * size): one warp per row and head of keys; it visits every query that sees the row.
KERNEL attention_backward_keys(const T *q, const T *k, const T *v, const T *dout, const float *lse, const float *delta,
                               const unsigned *rows, T *dk, T *dv, int n, int heads, int kv, int size, float scale,
                               int causal) {
    SHARED float keys[WARPS][HEAD], values[WARPS][HEAD];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    long long task = (long long)blockIdx.x * WARPS + warp;
    if (task >= (long long)n * kv) return;
    int row = (int)(task / kv), shared = (int)(task % kv), group = heads / kv;
    long long width = (long long)heads * size;
    float *key = keys[warp], *value = values[warp];
    fetch(key, k + task * size, size, lane);
    fetch(value, v + task * size, size, lane);
    float acc_k[COLUMNS] = {0}, acc_v[COLUMNS] = {0};
    for (int part = 0; part < 2; part++) {
        unsigned first = part == 0 ? (causal ? row : START_OF(row)) : CHILD_OF(row);
        unsigned last = part == 0 ? END_OF(row) : CHILDREN_OF(row);
        for (int head = shared * group; head < (shared + 1) * group; head++) {
            for (unsigned base = first; base < last; base += 32) {
                unsigned mine = base + lane;
                float p = 0.0f, ds = 0.0f;
                if (mine < last) {
                    long long at = mine * width + head * size, statistic = (long long)head * n + mine;
                    p = expf(scale * dot(key, q + at, size) - lse[statistic]);
                    ds = p * (dot(value, dout + at, size) - delta[statistic]) * scale;
                }
                unsigned here = min(32u, last - base);
                for (unsigned t = 0; t < here; t++) {
                    float weight = __shfl_sync(FULL, p, t), slope = __shfl_sync(FULL, ds, t);
                    long long at = (base + t) * width + head * size + lane;
                    for (int c = 0; c < COLUMNS; c++)
                        if (lane + 32 * c < size) {
                            acc_v[c] += weight * f(dout[at + 32 * c]);
                            acc_k[c] += slope * f(q[at + 32 * c]);
                        }
                }
            }
        }
    }
    for (int c = 0; c < COLUMNS; c++)
        if (lane + 32 * c < size) {
            put(&dk[task * size + lane + 32 * c], acc_k[c]);
            put(&dv[task * size + lane + 32 * c], acc_v[c]);
        }
}

// out and lse become those of two attentions over disjoint keys: (out, lse) and (other, other_lse), which may be empty
// (an infinite lse). n rows, heads * size wide; row i of `other` belongs to row rows[i] of `out`.
KERNEL attention_merge(T *out, float *lse, const T *other, const float *other_lse, const unsigned *rows, int m, int n,
                       int heads, int size) {
    long long i = thread_index();
    if (i >= (long long)m * heads) return;
    int head = (int)(i % heads);
    long long from = i / heads, to = rows[from];
    float a = lse[(long long)head * n + to], b = other_lse[(long long)head * m + from];
    if (isinf(b)) return;
    float top = fmaxf(a, b), wa = expf(a - top), wb = expf(b - top), sum = wa + wb;
    for (int c = 0; c < size; c++) {
        T *at = out + (to * heads + head) * size + c;
        put(at, (wa * f(*at) + wb * f(other[(from * heads + head) * size + c])) / sum);
    }
    lse[(long long)head * n + to] = top + logf(sum);
}

// ---- the vocabulary, one block of WIDE threads per row ------------------------------------------------------------

static __device__ __forceinline__ float block_sum(float x, float *scratch) {
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    float total = 0.0f;
    for (int w = 0; w < WIDE / 32; w++) total += scratch[w];
    return total;
}

static __device__ __forceinline__ float block_max(float x, float *scratch) {
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    float most = scratch[0];
    for (int w = 1; w < WIDE / 32; w++) most = fmaxf(most, scratch[w]);
    return most;
}

// Log of the normaliser of a row of logits, and its entropy.
static __device__ __forceinline__ float normaliser(const float *logits, int vocab, float *scratch, float *entropy) {
    float most = -INFINITY;
    for (int i = threadIdx.x; i < vocab; i += WIDE) most = fmaxf(most, logits[i]);
    most = block_max(most, scratch);
    float sum = 0.0f, weighted = 0.0f;
    for (int i = threadIdx.x; i < vocab; i += WIDE) {
        float e = expf(logits[i] - most);
        sum += e;
        weighted += e * (logits[i] - most);
    }
    sum = block_sum(sum, scratch);
    weighted = block_sum(weighted, scratch);
    *entropy = logf(sum) - weighted / sum;
    return most + logf(sum);
}

// Of each row of logits (m, vocab): log-probability of its target, and entropy.
KERNEL score_rows(const float *logits, const unsigned *targets, float *logp, float *entropy, int vocab) {
    SHARED float scratch[WIDE / 32];
    long long row = blockIdx.x;
    logits += row * vocab;
    float spread, normal = normaliser(logits, vocab, scratch, &spread);
    if (threadIdx.x == 0) {
        logp[row] = logits[targets[row]] - normal;
        entropy[row] = spread;
    }
}

// dlogits (m, vocab) = dlogp * (one at the target - probabilities)
KERNEL score_rows_backward(const float *logits, const unsigned *targets, const float *dlogp, T *dlogits, int vocab) {
    SHARED float scratch[WIDE / 32];
    long long row = blockIdx.x;
    logits += row * vocab;
    dlogits += row * vocab;
    float spread, normal = normaliser(logits, vocab, scratch, &spread), g = dlogp[row];
    int target = (int)targets[row];
    for (int i = threadIdx.x; i < vocab; i += WIDE)
        put(&dlogits[i], (i == target ? g : 0.0f) - g * expf(logits[i] - normal));
}

// Of each pair of rows (clean p, corrupted q): log q(target), KL(p || q), and the Jensen-Shannon divergence.
KERNEL compare_rows(const float *clean, const float *corrupted, const unsigned *targets, float *logq, float *kl,
                    float *js, int vocab) {
    SHARED float scratch[WIDE / 32];
    long long row = blockIdx.x;
    clean += row * vocab;
    corrupted += row * vocab;
    float spread, np = normaliser(clean, vocab, scratch, &spread), nq = normaliser(corrupted, vocab, scratch, &spread);
    float forward = 0.0f, mixed = 0.0f;
    for (int i = threadIdx.x; i < vocab; i += WIDE) {
        float lp = clean[i] - np, lq = corrupted[i] - nq, p = expf(lp), q = expf(lq);
        if (lp == lq) continue;
        float lm = fmaxf(lp, lq) + log1pf(expf(-fabsf(lp - lq))) - 0.69314718f;
        forward += p * (lp - lq);
        mixed += 0.5f * (p * (lp - lm) + q * (lq - lm));
    }
    forward = block_sum(forward, scratch);
    mixed = block_sum(mixed, scratch);
    if (threadIdx.x == 0) {
        logq[row] = corrupted[targets[row]] - nq;
        kl[row] = forward < 0.0f ? 0.0f : forward; // NaN, which tells of logits that are not finite, stays
        js[row] = fminf(fmaxf(mixed, 0.0f), 0.69314718f);
    }
}

// ---- sampling -------------------------------------------------------------------------------------------------------
//
// Probabilities become whole numbers of 2^-40 of the largest, so that sums do not depend on their order.

typedef unsigned long long Mass;

// Order-preserving whole number of a float.
static __device__ __forceinline__ unsigned order_of(float x) {
    unsigned bits = __float_as_uint(x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// The float of an order.
static __device__ __forceinline__ float float_of(unsigned order) {
    return __uint_as_float(order & 0x80000000u ? order & 0x7fffffffu : ~order);
}

static __device__ __forceinline__ Mass mass_of(float logit, float best, double inverse_temperature) {
    return (Mass)((double)expf((float)((logit - best) * inverse_temperature)) * 1099511627776.0);
}

// Tokens stay if their order is above `order`, or equal to it with an id of at most `last`.
struct Cut {
    unsigned order;
    int last;
};

static __device__ __forceinline__ bool kept(float logit, int id, Cut cut) {
    unsigned order = order_of(logit);
    return order > cut.order || (order == cut.order && id <= cut.last);
}

// What the threads of a block share while they search a row.
struct Search {
    Mass bins[256];
    Mass reached;
    unsigned prefix;
    // Sums over the stretch of ids that each warp has.
    Mass segments[WIDE / 32];
    int found;
};

static __device__ __forceinline__ bool banned(int id, const unsigned *forbidden, int count) {
    for (int i = 0; i < count; i++)
        if ((unsigned)id == forbidden[i]) return true;
    return false;
}

// Ids from .x to .y belong to this warp.
static __device__ __forceinline__ int2 stretch(int vocab) {
    int length = (vocab + WIDE / 32 - 1) / (WIDE / 32), first = min(vocab, (int)(threadIdx.x / 32) * length);
    return make_int2(first, min(vocab, first + length));
}

// Sum over all ids of measure(id), and the parts of it for `passing`.
template <typename F> static __device__ Mass sum_ids(int vocab, Search *shared, F measure) {
    int2 ids = stretch(vocab);
    Mass mine = 0, total = 0;
    for (int i = ids.x + threadIdx.x % 32; i < ids.y; i += 32) mine += measure(i);
    for (int m = 16; m > 0; m >>= 1) mine += __shfl_xor_sync(FULL, mine, m);
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared->segments[threadIdx.x / 32] = mine;
    __syncthreads();
    for (int w = 0; w < WIDE / 32; w++) total += shared->segments[w];
    return total;
}

// The first id at which the sum over ids, in order, is more than `target`; -1 if it never is. After `sum_ids` of the same
// measure.
template <typename F> static __device__ int passing(int vocab, Mass target, Search *shared, F measure) {
    int2 ids = stretch(vocab);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (threadIdx.x == 0) shared->found = -1;
    __syncthreads();
    Mass before = 0;
    for (int w = 0; w < warp; w++) before += shared->segments[w];
    if (before <= target && target < before + shared->segments[warp]) {
        for (int base = ids.x; base < ids.y && before <= target; base += 32) {
            Mass own = base + lane < ids.y ? measure(base + lane) : 0, sum = own;
            for (int m = 1; m < 32; m <<= 1) {
                Mass left = __shfl_up_sync(FULL, sum, m);
                if (lane >= m) sum += left;
            }
            if (before + sum - own <= target && target < before + sum) shared->found = base + lane;
            before += __shfl_sync(FULL, sum, 31);
        }
    }
    __syncthreads();
    return shared->found;
}

// The smallest set of best tokens of `cut` whose measure (count, or mass if by_mass) reaches `wanted`, by a radix search
// over the orders of the logits, eight bits at a time. Of equal logits at its border the lowest ids stay.
static __device__ Cut tighten(const float *logits, int vocab, const unsigned *forbidden, int banned_count, Cut cut,
                              float best, double inverse, bool by_mass, Mass wanted, Search *shared) {
    if (threadIdx.x == 0) shared->prefix = 0, shared->reached = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int b = threadIdx.x; b < 256; b += WIDE) shared->bins[b] = 0;
        __syncthreads();
        unsigned prefix = shared->prefix;
        for (int i = threadIdx.x; i < vocab; i += WIDE) {
            unsigned order = order_of(logits[i]);
            bool inside = shift == 24 || (order >> (shift + 8)) == (prefix >> (shift + 8));
            if (inside && kept(logits[i], i, cut) && !banned(i, forbidden, banned_count))
                atomicAdd(&shared->bins[(order >> shift) & 255], by_mass ? mass_of(logits[i], best, inverse) : (Mass)1);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            int bin = 255;
            while (bin > 0 && shared->reached + shared->bins[bin] < wanted) shared->reached += shared->bins[bin--];
            shared->prefix |= (unsigned)bin << shift;
        }
        __syncthreads();
    }
    Cut found = {shared->prefix, shared->prefix == cut.order ? cut.last : vocab};
    // All tokens at the border have one measure; the fewest of them that reach what is wanted stay.
    Mass border = shared->bins[found.order & 255], each = by_mass ? mass_of(float_of(found.order), best, inverse) : 1;
    Mass missing = wanted - shared->reached;
    if (each == 0 || border <= each || border - each < missing) return found;
    auto equal = [&](int i) -> Mass {
        return order_of(logits[i]) == found.order && kept(logits[i], i, cut) && !banned(i, forbidden, banned_count);
    };
    sum_ids(vocab, shared, equal);
    found.last = passing(vocab, (missing + each - 1) / each - 1, shared, equal);
    return found;
}

// Draws one token per row of logits (m, vocab) by inverse transform over the kept tokens in the order of ids:
// temperature, then top-k (0: off), then top-p. Gives the token, its log-probability under the full softmax at
// temperature 1, and that distribution's entropy, which is not finite if one of the logits is not.
KERNEL sample_rows(const float *logits, const double *uniforms, const unsigned *forbidden, int banned_count,
                   unsigned *tokens, float *logp, float *entropy, int vocab, double temperature, int top_k, double top_p) {
    SHARED float scratch[WIDE / 32];
    SHARED Search shared;
    long long row = blockIdx.x;
    logits += row * vocab;
    float spread, normal = normaliser(logits, vocab, scratch, &spread);
    float best = -INFINITY;
    for (int i = threadIdx.x; i < vocab; i += WIDE)
        if (!banned(i, forbidden, banned_count)) best = fmaxf(best, logits[i]);
    best = block_max(best, scratch);
    double inverse = temperature == 0.0 ? 0.0 : 1.0 / temperature;
    Cut cut = {temperature == 0.0 ? order_of(best) : 0u, vocab};
    auto mass = [&](int i) -> Mass {
        return kept(logits[i], i, cut) && !banned(i, forbidden, banned_count) ? mass_of(logits[i], best, inverse) : 0;
    };
    if (temperature != 0.0 && top_k > 0 && top_k < vocab)
        cut = tighten(logits, vocab, forbidden, banned_count, cut, best, inverse, false, (Mass)top_k, &shared);
    Mass total = sum_ids(vocab, &shared, mass);
    if (temperature != 0.0 && top_p < 1.0) {
        Mass wanted = (Mass)ceil(top_p * (double)total);
        cut = tighten(logits, vocab, forbidden, banned_count, cut, best, inverse, true, wanted, &shared);
        total = sum_ids(vocab, &shared, mass);
    }
    Mass target = temperature == 0.0 ? 0 : (Mass)(uniforms[row] * (double)total);
    int token = passing(vocab, target, &shared, mass);
    if (threadIdx.x == 0) {
        token = max(token, 0);
        tokens[row] = (unsigned)token;
        logp[row] = logits[token] - normal;
        entropy[row] = spread;
    }
}

// ---- paged keys and values ----------------------------------------------------------------------------------------
//
// A page holds PAGE tokens of one layer: (pages, kv heads, PAGE, size). Slot = page * PAGE + place in it.

KERNEL put_keys_values(T *keys, T *values, const T *k, const T *v, const unsigned *slots, int n, int kv, int size) {
    long long i = thread_index();
    int width = kv * size;
    if (i >= (long long)n * width) return;
    int row = (int)(i / width), head = (int)(i % width) / size, column = (int)(i % size);
    unsigned slot = slots[row];
    long long to = (((long long)(slot / PAGE) * kv + head) * PAGE + slot % PAGE) * size + column;
    keys[to] = k[i];
    values[to] = v[i];
}

// What the warps of a block share while they attend to pages.
struct Shared {
    float queries[GROUP][HEAD];
    float weights[WARPS][GROUP][PAGE];
    float peaks[WARPS][GROUP], sums[WARPS][GROUP];
    float merged[WARPS][HEAD];
};

// G query heads that share one head of keys; `keys` and `values` begin at that head of page 0.
template <int G>
static __device__ __forceinline__ void attend_group(Shared &shared, const T *keys, const T *values, const unsigned *pages,
                                                    const unsigned *span, T *out, int kv, int size) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float most[G], sum[G], acc[G][COLUMNS];
#pragma unroll
    for (int g = 0; g < G; g++) {
        most[g] = -INFINITY;
        sum[g] = 0.0f;
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) acc[g][c] = 0.0f;
    }
    int prompt_pages = ((int)span[1] + PAGE - 1) / PAGE, own_pages = ((int)span[3] + PAGE - 1) / PAGE;
    for (int index = warp; index < prompt_pages + own_pages; index += WARPS) {
        bool own = index >= prompt_pages;
        int place = own ? index - prompt_pages : index, here = min(PAGE, (int)(own ? span[3] : span[1]) - place * PAGE);
        long long at = (long long)pages[(own ? span[2] : span[0]) + place] * kv * PAGE * size;
        const T *key = keys + at + (long long)lane * size;
        float s[G];
#pragma unroll
        for (int g = 0; g < G; g++) s[g] = lane < here ? 0.0f : -INFINITY;
        if (lane < here) {
            if (packed(key, size)) {
                for (int i = 0; i < size; i += LANES) {
                    Pack p = *(const Pack *)(key + i);
                    for (int j = 0; j < LANES; j++) {
                        float x = f(p.v[j]);
#pragma unroll
                        for (int g = 0; g < G; g++) s[g] += shared.queries[g][i + j] * x;
                    }
                }
            } else {
                for (int i = 0; i < size; i++)
                    for (int g = 0; g < G; g++) s[g] += shared.queries[g][i] * f(key[i]);
            }
        }
#pragma unroll
        for (int g = 0; g < G; g++) {
            float peak = fmaxf(most[g], warp_max(s[g])), shrink = expf(most[g] - peak), p = expf(s[g] - peak);
            sum[g] = sum[g] * shrink + warp_sum(p);
            most[g] = peak;
            shared.weights[warp][g][lane] = p;
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) acc[g][c] *= shrink;
        }
        __syncwarp();
        for (int t = 0; t < here; t++)
#pragma unroll
            for (int c = 0; c < COLUMNS; c++)
                if (lane + 32 * c < size) {
                    float value = f(values[at + (long long)t * size + lane + 32 * c]);
#pragma unroll
                    for (int g = 0; g < G; g++) acc[g][c] += shared.weights[warp][g][t] * value;
                }
        __syncwarp();
    }
    if (lane == 0)
        for (int g = 0; g < G; g++) shared.peaks[warp][g] = most[g], shared.sums[warp][g] = sum[g];
#pragma unroll
    for (int g = 0; g < G; g++) {
        __syncthreads();
#pragma unroll
        for (int c = 0; c < COLUMNS; c++)
            if (lane + 32 * c < size) shared.merged[warp][lane + 32 * c] = acc[g][c];
        __syncthreads();
        float top = shared.peaks[0][g], total = 0.0f;
        for (int w = 1; w < WARPS; w++) top = fmaxf(top, shared.peaks[w][g]);
        for (int w = 0; w < WARPS; w++) total += shared.sums[w][g] * expf(shared.peaks[w][g] - top);
        for (int i = threadIdx.x; i < size; i += blockDim.x) {
            float value = 0.0f;
            for (int w = 0; w < WARPS; w++) value += shared.merged[w][i] * expf(shared.peaks[w][g] - top);
            put(&out[(long long)g * size + i], value / total);
        }
    }
}

// Attention of one query per sequence, q (b, heads * size), over its pages: a block per sequence and head of keys, whose
// warps share the pages and whose query heads share every key. `spans` (b, 4): first entry in `pages` and number of
// tokens of the prompt, then of the sequence's own.
KERNEL attend_pages(const T *q, const T *keys, const T *values, const unsigned *pages, const unsigned *spans, T *out,
                    int heads, int kv, int size, float scale) {
    SHARED Shared shared;
    int group = heads / kv;
    long long sequence = blockIdx.x, head = blockIdx.y;
    long long first = (sequence * heads + head * group) * size;
    for (int i = threadIdx.x; i < group * size; i += blockDim.x)
        shared.queries[i / size][i % size] = f(q[first + i]) * scale;
    __syncthreads();
    const unsigned *span = spans + 4 * sequence;
    keys += head * PAGE * size;
    values += head * PAGE * size;
    out += first;
    switch (group) {
    case 1: attend_group<1>(shared, keys, values, pages, span, out, kv, size); break;
    case 2: attend_group<2>(shared, keys, values, pages, span, out, kv, size); break;
    case 3: attend_group<3>(shared, keys, values, pages, span, out, kv, size); break;
    case 4: attend_group<4>(shared, keys, values, pages, span, out, kv, size); break;
    case 5: attend_group<5>(shared, keys, values, pages, span, out, kv, size); break;
    case 6: attend_group<6>(shared, keys, values, pages, span, out, kv, size); break;
    case 7: attend_group<7>(shared, keys, values, pages, span, out, kv, size); break;
    default: attend_group<8>(shared, keys, values, pages, span, out, kv, size); break;
    }
}

// ---- optimiser ----------------------------------------------------------------------------------------------------

// Sum of squares of each run of `run` gradients (f32 or bf16), in f64: one thread block per run.
KERNEL sum_squares(const void *g, int half, double *part, long long n, int run) {
    SHARED double scratch[WIDE];
    long long first = (long long)blockIdx.x * run, last = first + run < n ? first + run : n;
    double sum = 0.0;
    for (long long i = first + threadIdx.x; i < last; i += WIDE) {
        double x = either(g, i, half);
        sum += x * x;
    }
    scratch[threadIdx.x] = sum;
    __syncthreads();
    for (int half_of = WIDE / 2; half_of > 0; half_of /= 2) {
        if ((int)threadIdx.x < half_of) scratch[threadIdx.x] += scratch[threadIdx.x + half_of];
        __syncthreads();
    }
    if (threadIdx.x == 0) part[blockIdx.x] = scratch[0];
}

// AdamW with moments in f32.
KERNEL adamw(T *x, const void *g, int half, float *m, float *v, long long n, float scale, float beta1, float beta2,
             float step, float root, float epsilon, float keep) {
    long long i = thread_index();
    if (i >= n) return;
    float grad = either(g, i, half) * scale, first = m[i], second = v[i];
    first += (1.0f - beta1) * (grad - first);
    second += (1.0f - beta2) * (grad * grad - second);
    m[i] = first;
    v[i] = second;
    put(&x[i], f(x[i]) * keep - step * first / (sqrtf(second * root) + epsilon));
}

// AdamW with moments and a Kahan compensation in T: what the weight's rounding lost is added at the next update.
KERNEL adamw_kahan(T *x, const void *g, int half, T *m, T *v, T *lost, long long n, float scale, float beta1, float beta2,
                   float step, float root, float epsilon, float keep) {
    long long i = thread_index();
    if (i >= n) return;
    float grad = either(g, i, half) * scale, first = f(m[i]), second = f(v[i]);
    put(&m[i], first + (1.0f - beta1) * (grad - first));
    put(&v[i], second + (1.0f - beta2) * (grad * grad - second));
    T old;
    put(&old, f(x[i]) * keep);
    float change = f(lost[i]) - step * f(m[i]) / (sqrtf(f(v[i]) * root) + epsilon);
    put(&x[i], f(old) + change);
    put(&lost[i], change - (f(x[i]) - f(old)));
}

// Every kernel, for the table of the emulation.
#define KERNELS(X)                                                                                                      \
    X(add) X(accumulate) X(assign) X(add_rows) X(swiglu) X(swiglu_backward) X(gelu) X(gelu_backward) X(rotate) X(gather_rows)       \
    X(put_rows) X(scatter_rows) X(column_sums) X(sum_parts) X(rms_norm) X(rms_norm_backward) X(attention)                 \
    X(attention_backward_queries) X(attention_backward_keys) X(attention_merge) X(score_rows) X(score_rows_backward)      \
    X(compare_rows) X(sample_rows) X(put_keys_values) X(attend_pages) X(sum_squares) X(adamw) X(adamw_kahan)
