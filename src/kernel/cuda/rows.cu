// Linear layers of few rows, as those of a time embedding: y (m, n) = x (m, k) w (n, k)^T +
// bias (n) + residual (m, n), m at most 8, k a multiple of 8. T is f16, bf16 or f32; sums
// are f32. Tensors are contiguous and begin at multiples of 16 bytes; absent ones are null.
//
// The weights are read once, which takes most of the time: a warp has one column of y, and
// its lanes read the row of w together. The rows of x come from the cache.
//
//     linear_rows_T   grid ceil(n / 8), 256 threads, no dynamic shared memory

#include "device.cuh"

namespace {

constexpr int ROWS = 8, COLUMNS = 8, THREADS = COLUMNS * WARP;

template <class T>
__device__ __forceinline__ void linear_rows(const T* x, const T* w, const T* bias,
                                            const T* residual, T* y, int m, int n, int k) {
    const int lane = threadIdx.x % WARP, column = blockIdx.x * COLUMNS + threadIdx.x / WARP;
    if (column >= n) return;
    w += int64_t(column) * k;
    float sums[ROWS] = {};
    for (int i = lane * 8; i < k; i += WARP * 8) {
        float a[8];
        load8(a, w + i);
#pragma unroll
        for (int row = 0; row < ROWS; ++row) {
            if (row >= m) break;
            float b[8];
            load8(b, x + int64_t(row) * k + i);
#pragma unroll
            for (int j = 0; j < 8; ++j) sums[row] += a[j] * b[j];
        }
    }
#pragma unroll
    for (int row = 0; row < ROWS; ++row) {
        if (row >= m) break;
        const int64_t at = int64_t(row) * n + column;
        float sum = lanes_sum(sums[row]);
        if (bias) sum += to_f32(bias[column]);
        if (residual) sum += to_f32(residual[at]);
        if (lane == 0) y[at] = from_f32<T>(sum);
    }
}

} // namespace

#define LINEAR_ROWS(T, NAME)                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS) linear_rows_##NAME(                    \
        const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ bias,            \
        const T* __restrict__ residual, T* __restrict__ y, int m, int n, int k) {                \
        linear_rows(x, w, bias, residual, y, m, n, k);                                           \
    }

LINEAR_ROWS(f16, f16)
LINEAR_ROWS(bf16, bf16)
LINEAR_ROWS(float, f32)
