// Group norm (Y. Wu and K. He, arXiv 1803.08494) and layer norm (J. L. Ba et al., arXiv
// 1607.06450).
//
// Activations x and y are f16, bf16 or f32, channels last, and do not overlap. Weights and
// biases (channels) are f32, and so are all sums. Results do not depend on the order in
// which blocks run.
//
// | kernel             | grid                                       | threads  | dynamic shared memory |
// |--------------------|--------------------------------------------|----------|-----------------------|
// | group_norm_whole_T | (groups, b)                                | 512      | a group, if cached    |
// | group_norm_sums_T  | (ceil(pixels / slice), channels / span, b) | 256      | none                  |
// | group_norm_apply_T | the same                                   | 256      | none                  |
// | layer_norm_T       | ceil(rows / warps of a block)              | 32 - 256 | none                  |
//
// A small picture is normalised by one launch of `group_norm_whole`. A block keeps one
// group of one picture in shared memory: pixels * channels / groups values of T. Without
// `cached` it reads them from global memory three times; that is slow, but for any size.
//
// A larger one takes two launches, in which a block covers `slice` pixels of `span`
// channels: a divisor of channels, a multiple of 8 and of channels / groups, and at most
// 256. Spans of less than 64 read with less bandwidth. A block reads 256 / (span / 8)
// pixels at once, of which `slice` is best a multiple. The first launch writes `sums` (b,
// groups, slices, 2): mean, and sum of squared deviations, of each group in each slice.

#include "device.cuh"

namespace {

constexpr int WHOLE_THREADS = 512;
constexpr int SLICE_THREADS = 256;
constexpr int MAX_SPAN = 256;

/// Channels that a thread reads at once.
constexpr int V = 8;

/// The mean and the inverse deviation of a group or row.
struct Moments {
    float mean, inverse;
};

/// x sigmoid(x) (arXiv 1702.03118).
__device__ __forceinline__ float silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

// ---- Group norm by one block for each group ------------------------------------------

/// W values in one access.
template <class T, int W> struct __align__(W * sizeof(T)) Values {
    T at[W];
};

template <class T, int W> __device__ __forceinline__ Values<T, W> load(const T* from) {
    return *reinterpret_cast<const Values<T, W>*>(from);
}

template <class T, int W> __device__ __forceinline__ void store(T* to, const Values<T, W>& values) {
    *reinterpret_cast<Values<T, W>*>(to) = values;
}

/// The sums of two values over the threads of a block of `WHOLE_THREADS`.
__device__ __forceinline__ float2 block_sum(float2 x) {
    constexpr int WARPS = WHOLE_THREADS / WARP;
    __shared__ float2 sums[WARPS];
    x = make_float2(lanes_sum(x.x), lanes_sum(x.y));
    __syncthreads(); // an earlier sum may still be read
    if (threadIdx.x % WARP == 0) sums[threadIdx.x / WARP] = x;
    __syncthreads();
    x = sums[threadIdx.x % WARPS];
    return make_float2(lanes_sum<WARPS>(x.x), lanes_sum<WARPS>(x.y));
}

/// A group of a picture (pixels, channels): `width` channels of each pixel, W at once. Its
/// values (pixels, width) are in shared memory if `CACHED`.
template <class T, int W, bool CACHED> struct Group {
    int pixels, channels, width;

    /// Calls `f(offset in the picture, first channel in the group, index in the cache)` for
    /// this thread's share of the group.
    template <class F> __device__ __forceinline__ void each(F f) const {
        const int columns = width / W, total = pixels * columns;
        const int pixel_step = WHOLE_THREADS / columns, column_step = WHOLE_THREADS % columns;
        int pixel = threadIdx.x / columns, column = threadIdx.x % columns;
#pragma unroll 4
        for (int i = threadIdx.x; i < total; i += WHOLE_THREADS) {
            f(size_t(pixel) * channels + column * W, column * W, i * W);
            pixel += pixel_step;
            column += column_step;
            if (column >= columns) {
                column -= columns;
                ++pixel;
            }
        }
    }

    __device__ __forceinline__ Values<T, W> read(const T* x, size_t offset, int index) const {
        return CACHED ? load<T, W>(cache() + index) : load<T, W>(x + offset);
    }

    static __device__ __forceinline__ T* cache() { return reinterpret_cast<T*>(dynamic_shared()); }

    /// Fills the cache and returns the mean.
    __device__ __forceinline__ float mean(const T* x) const {
        float sum = 0;
        each([&](size_t offset, int, int index) {
            const Values<T, W> values = load<T, W>(x + offset);
            if (CACHED) store(cache() + index, values);
#pragma unroll
            for (int j = 0; j < W; ++j) sum += to_f32(values.at[j]);
        });
        return block_sum(make_float2(sum, 0)).x / (float(pixels) * width);
    }

    /// The moments, by deviations from an approximate mean, which they correct.
    __device__ __forceinline__ Moments moments(const T* x, float about, float eps) const {
        float2 sums = make_float2(0, 0);
        each([&](size_t offset, int, int index) {
            const Values<T, W> values = read(x, offset, index);
#pragma unroll
            for (int j = 0; j < W; ++j) {
                const float d = to_f32(values.at[j]) - about;
                sums.x += d;
                sums.y += d * d;
            }
        });
        sums = block_sum(sums);
        const float count = float(pixels) * width, correction = sums.x / count;
        const float variance = fmaxf(sums.y / count - correction * correction, 0.0f);
        return {about + correction, rsqrtf(variance + eps)};
    }

    /// Normalises the group. All pointers are to its first channel.
    __device__ __forceinline__ void normalise(const T* x, const float* weight, const float* bias,
                                              T* y, float eps, bool swish) const {
        const Moments of = moments(x, mean(x), eps);
        each([&](size_t offset, int channel, int index) {
            Values<T, W> values = read(x, offset, index);
#pragma unroll
            for (int j = 0; j < W; ++j) {
                const float scale = of.inverse * weight[channel + j];
                const float value = (to_f32(values.at[j]) - of.mean) * scale + bias[channel + j];
                values.at[j] = from_f32<T>(swish ? silu(value) : value);
            }
            store(y + offset, values);
        });
    }
};

template <class T>
__device__ __forceinline__ void group_norm_whole(const T* x, const float* weight,
                                                 const float* bias, T* y, int pixels,
                                                 int channels, int groups, float eps, bool swish,
                                                 bool cached) {
    const int width = channels / groups, first = blockIdx.x * width;
    const size_t start = size_t(blockIdx.y) * pixels * channels + first;
    const auto normalise = [&](auto group) {
        group.normalise(x + start, weight + first, bias + first, y + start, eps, swish);
    };
    // A group begins at a multiple of its width in every pixel, and so is aligned to it.
    if (!cached) {
        normalise(Group<T, 1, false>{pixels, channels, width});
    } else if (width % 8 == 0 && sizeof(T) == 2) {
        normalise(Group<T, 16 / sizeof(T), true>{pixels, channels, width});
    } else if (width % 4 == 0) {
        normalise(Group<T, 4, true>{pixels, channels, width});
    } else if (width % 2 == 0) {
        normalise(Group<T, 2, true>{pixels, channels, width});
    } else {
        normalise(Group<T, 1, true>{pixels, channels, width});
    }
}

// ---- Group norm by slices of pixels --------------------------------------------------

/// A block's part of x (b, pixels, channels): pixels from `first` to before `last` of one
/// picture, and `span` channels. A thread has V channels of every `rows`-th pixel.
struct Slice {
    int channels, span, columns, rows, first, last, column, row;
    /// The index in x of this thread's first channel, in the picture's first pixel.
    size_t start;

    __device__ __forceinline__ Slice(int pixels, int channels, int span, int slice)
        : channels(channels), span(span), columns(span / V), rows(SLICE_THREADS / columns),
          first(blockIdx.x * slice), last(min(first + slice, pixels)),
          column(threadIdx.x % columns), row(threadIdx.x / columns),
          start(size_t(blockIdx.z) * pixels * channels + blockIdx.y * span + column * V) {}

    /// The index in x of this thread's first channel in a pixel.
    __device__ __forceinline__ size_t at(int pixel) const {
        return start + size_t(pixel) * channels;
    }

    /// Calls `f(index in x)` for this thread's pixels.
    template <class F> __device__ __forceinline__ void each(F f) const {
        if (row >= rows) return; // a thread that is left over
        const size_t step = size_t(rows) * channels;
        size_t index = at(first + row);
#pragma unroll 4
        for (int pixel = first + row; pixel < last; pixel += rows, index += step) f(index);
    }

    /// The index in `sums` of the first slice of the block's `group`-th group.
    __device__ __forceinline__ size_t sums_of(int group, int width) const {
        const int groups = channels / width, before = blockIdx.y * (span / width);
        return (size_t(blockIdx.z) * groups + before + group) * gridDim.x;
    }
};

/// Mean and squared deviations of `width` channels from those of each channel, `count`
/// values each, by a warp.
template <class F>
__device__ __forceinline__ float2 merge_channels(F channel, int width, float count) {
    const int lane = threadIdx.x % WARP;
    float mean = 0, squares = 0;
    for (int i = lane; i < width; i += WARP) mean += channel(i).x;
    mean = lanes_sum(mean) / width;
    for (int i = lane; i < width; i += WARP) {
        const float2 of = channel(i);
        squares += of.y + count * (of.x - mean) * (of.x - mean);
    }
    return make_float2(mean, lanes_sum(squares));
}

/// Sums are relative to each channel's value in the slice's first pixel: a mean far from
/// zero does not reduce their precision.
template <class T>
__device__ __forceinline__ void group_norm_sums(const T* x, float2* sums, int pixels,
                                                int channels, int groups, int span, int slice) {
    // The sums of a thread's j-th channel; then, in the places of row 0, the channel's mean
    // and squared deviations.
    __shared__ float2 parts[V][SLICE_THREADS];
    const Slice of(pixels, channels, span, slice);

    float about[V];
    load8(about, x + of.at(of.first));
    float2 own[V] = {};
    of.each([&](size_t index) {
        float values[V];
        load8(values, x + index);
#pragma unroll
        for (int j = 0; j < V; ++j) {
            const float d = values[j] - about[j];
            own[j].x += d;
            own[j].y += d * d;
        }
    });
#pragma unroll
    for (int j = 0; j < V; ++j) parts[j][threadIdx.x] = own[j];
    __syncthreads();

    const float count = of.last - of.first;
    if (int(threadIdx.x) < span) {
        const int j = threadIdx.x / of.columns, column = threadIdx.x % of.columns;
        float2 sum = make_float2(0, 0);
        for (int i = column; i < of.rows * of.columns; i += of.columns) {
            sum.x += parts[j][i].x;
            sum.y += parts[j][i].y;
        }
        const float shift = to_f32(x[of.at(of.first) + (column - of.column) * V + j]);
        const float mean = sum.x / count;
        parts[j][column] = make_float2(shift + mean, fmaxf(sum.y - sum.x * mean, 0.0f));
    }
    __syncthreads();

    const int width = channels / groups;
    for (int group = threadIdx.x / WARP; group * width < span; group += SLICE_THREADS / WARP) {
        const auto channel = [&](int i) {
            i += group * width;
            return parts[i % V][i / V];
        };
        const float2 merged = merge_channels(channel, width, count);
        if (threadIdx.x % WARP == 0) sums[of.sums_of(group, width) + blockIdx.x] = merged;
    }
}

/// The moments of a group from its sums in every slice, by a warp.
__device__ __forceinline__ Moments merge_slices(const float2* sums, int pixels, int slice,
                                                int width, float eps) {
    const int lane = threadIdx.x % WARP, slices = gridDim.x;
    const auto count = [&](int i) { return float(min(slice, pixels - i * slice)); };
    float mean = 0, squares = 0;
    for (int i = lane; i < slices; i += WARP) mean += sums[i].x * count(i);
    mean = lanes_sum(mean) / pixels;
    for (int i = lane; i < slices; i += WARP) {
        const float d = sums[i].x - mean;
        squares += sums[i].y + count(i) * width * d * d;
    }
    return {mean, rsqrtf(lanes_sum(squares) / (float(pixels) * width) + eps)};
}

template <class T>
__device__ __forceinline__ void group_norm_apply(const T* x, const float2* sums,
                                                 const float* weight, const float* bias, T* y,
                                                 int pixels, int channels, int groups, int span,
                                                 int slice, float eps, bool swish) {
    __shared__ Moments moments[MAX_SPAN];
    const Slice of(pixels, channels, span, slice);
    const int width = channels / groups;
    for (int group = threadIdx.x / WARP; group * width < span; group += SLICE_THREADS / WARP) {
        const Moments merged =
            merge_slices(sums + of.sums_of(group, width), pixels, slice, width, eps);
        if (threadIdx.x % WARP == 0) moments[group] = merged;
    }
    __syncthreads();

    const int channel = of.column * V; // in the span
    float mean[V], scale[V], shift[V];
    load8(scale, weight + blockIdx.y * span + channel);
    load8(shift, bias + blockIdx.y * span + channel);
#pragma unroll
    for (int j = 0; j < V; ++j) {
        const Moments group = moments[(channel + j) / width];
        mean[j] = group.mean;
        scale[j] *= group.inverse;
    }
    of.each([&](size_t index) {
        float values[V];
        load8(values, x + index);
#pragma unroll
        for (int j = 0; j < V; ++j) {
            const float value = (values[j] - mean[j]) * scale[j] + shift[j];
            values[j] = swish ? silu(value) : value;
        }
        store8(y + index, values);
    });
}

// ---- Layer norm ----------------------------------------------------------------------

/// A row of at most N * WARP * V channels, which a warp keeps in registers.
template <int N, class T>
__device__ __forceinline__ void layer_norm_row(const T* x, const float* weight,
                                               const float* bias, T* y, int channels, float eps) {
    const int first = threadIdx.x % WARP * V;
    float values[N][V], sum = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const int channel = first + i * WARP * V;
        if (channel >= channels) continue;
        load8(values[i], x + channel);
#pragma unroll
        for (int j = 0; j < V; ++j) sum += values[i][j];
    }
    const float mean = lanes_sum(sum) / channels;
#pragma unroll
    for (int i = 0; i < N; ++i) {
        if (first + i * WARP * V >= channels) continue;
#pragma unroll
        for (int j = 0; j < V; ++j) squares += (values[i][j] - mean) * (values[i][j] - mean);
    }
    const float inverse = rsqrtf(lanes_sum(squares) / channels + eps);
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const int channel = first + i * WARP * V;
        if (channel >= channels) continue;
        float scale[V], shift[V];
        load8(scale, weight + channel);
        load8(shift, bias + channel);
#pragma unroll
        for (int j = 0; j < V; ++j) {
            values[i][j] = (values[i][j] - mean) * inverse * scale[j] + shift[j];
        }
        store8(y + channel, values[i]);
    }
}

/// A row of any number of channels, which a warp reads three times.
template <class T>
__device__ __forceinline__ void layer_norm_long_row(const T* x, const float* weight,
                                                    const float* bias, T* y, int channels,
                                                    float eps) {
    const int lane = threadIdx.x % WARP;
    float sum = 0, squares = 0;
    for (int i = lane; i < channels; i += WARP) sum += to_f32(x[i]);
    const float mean = lanes_sum(sum) / channels;
    for (int i = lane; i < channels; i += WARP) {
        const float d = to_f32(x[i]) - mean;
        squares += d * d;
    }
    const float inverse = rsqrtf(lanes_sum(squares) / channels + eps);
    for (int i = lane; i < channels; i += WARP) {
        y[i] = from_f32<T>((to_f32(x[i]) - mean) * inverse * weight[i] + bias[i]);
    }
}

template <class T>
__device__ __forceinline__ void layer_norm(const T* x, const float* weight, const float* bias,
                                           T* y, int rows, int channels, float eps) {
    const int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (row >= rows) return;
    x += size_t(row) * channels;
    y += size_t(row) * channels;
    const int loads = (channels + WARP * V - 1) / (WARP * V); // of a lane
    if (channels % V != 0 || loads > 8) {
        layer_norm_long_row(x, weight, bias, y, channels, eps);
    } else if (loads <= 2) {
        layer_norm_row<2>(x, weight, bias, y, channels, eps);
    } else if (loads == 3) {
        layer_norm_row<3>(x, weight, bias, y, channels, eps);
    } else if (loads <= 5) {
        layer_norm_row<5>(x, weight, bias, y, channels, eps);
    } else {
        layer_norm_row<8>(x, weight, bias, y, channels, eps);
    }
}

} // namespace

// ---- The kernels of each type --------------------------------------------------------

#define NORMS(T, NAME)                                                                           \
    /* Group norm of x (b, pixels, channels), then SiLU if `silu`. */                            \
    extern "C" __global__ void __launch_bounds__(WHOLE_THREADS) group_norm_whole_##NAME(         \
        const T* __restrict__ x, const float* __restrict__ weight,                               \
        const float* __restrict__ bias, T* __restrict__ y, int pixels, int channels, int groups, \
        float eps, int silu, int cached) {                                                       \
        group_norm_whole(x, weight, bias, y, pixels, channels, groups, eps, silu, cached);       \
    }                                                                                            \
    /* The sums (b, groups, slices, 2) of x (b, pixels, channels). */                            \
    extern "C" __global__ void __launch_bounds__(SLICE_THREADS, 4) group_norm_sums_##NAME(       \
        const T* __restrict__ x, float2* __restrict__ sums, int pixels, int channels,            \
        int groups, int span, int slice) {                                                       \
        group_norm_sums(x, sums, pixels, channels, groups, span, slice);                         \
    }                                                                                            \
    /* Group norm of x (b, pixels, channels) by these sums, then SiLU if `silu`. */              \
    extern "C" __global__ void __launch_bounds__(SLICE_THREADS, 4) group_norm_apply_##NAME(      \
        const T* __restrict__ x, const float2* __restrict__ sums,                                \
        const float* __restrict__ weight, const float* __restrict__ bias, T* __restrict__ y,     \
        int pixels, int channels, int groups, int span, int slice, float eps, int silu) {        \
        group_norm_apply(x, sums, weight, bias, y, pixels, channels, groups, span, slice, eps,   \
                         silu);                                                                  \
    }                                                                                            \
    /* Layer norm of x (rows, channels), a warp for each row. */                                 \
    extern "C" __global__ void __launch_bounds__(256) layer_norm_##NAME(                         \
        const T* __restrict__ x, const float* __restrict__ weight,                               \
        const float* __restrict__ bias, T* __restrict__ y, int rows, int channels, float eps) {  \
        layer_norm(x, weight, bias, y, rows, channels, eps);                                     \
    }

NORMS(f16, f16)
NORMS(bf16, bf16)
NORMS(float, f32)
