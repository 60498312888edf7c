// Multi-head attention without a score matrix in memory (T. Dao, FlashAttention-2, arXiv
// 2307.08691), and attention maps.
//
// Activations are f16 or bf16, scores and sums f32. The queries (b, n, heads * D), keys and
// values (b, m, heads * D) and the output (b, n, heads * D) are in the layout of linear
// layers: head h begins at column h * D. Their strides between batches and rows are
// counted in values. All rows begin at multiples of 16 bytes; m >= 1 and scale > 0.
//
// | kernel                | D                    | threads | bytes of dynamic shared memory     |
// |-----------------------|----------------------|---------|------------------------------------|
// | attention_T_d{D}_q64  | 40, 64, 80, 128, 160 | 128     | 25600, 46080, 56320, 87040, 107520 |
// | attention_T_d{D}_q96  | 64                   | 96      | 50688                              |
// | attention_T_d{D}_q128 | 40, 64               | 128     | 30720, 55296                       |
// | attention_T_d{D}_q160 | 64                   | 160     | 59904                              |
// | attention_maps_T_d{D} | 40, 64, 80, 128, 160 | 128     | 15360, 27648, 33792, 52224, 64512  |
//
// Grids are (ceil(n / Q), heads, b), for the Q queries of a block, which q{Q} names; 64 of
// maps. The larger Q, the less often keys and values are read; but all multiprocessors
// should be done at the same time: the best Q has the least
// ceil(blocks / multiprocessors) * (Q + 32).
//
// A warp has 16 queries (q64, maps) or 32, in registers as fragments of matrix products.
// Tiles of 64 keys and values pass through shared memory: while the warps work on one, the
// next is copied.

#include "device.cuh"

namespace {

/// Keys of a tile in shared memory.
constexpr int KEYS = 64;

/// Keys whose scores a warp has at once, for M * 16 queries.
template <int M> constexpr int STEP = KEYS / M;

/// Rows (.., D) in global memory, those of one head.
template <class T> struct Rows {
    T* at;
    int stride;

    __device__ __forceinline__ Rows from(int row) const {
        return {at + int64_t(row) * stride, stride};
    }
};

/// A tile of rows of D values in shared memory.
template <int D> struct Tile {
    /// Chunks of a row, 8 values each.
    static constexpr int CHUNKS = D / 8;
    /// Bytes of a row: an odd number of chunks, so that matrix loads have no bank conflicts.
    static constexpr int ROW = (CHUNKS | 1) * 16;
    static constexpr int BYTES = KEYS * ROW;
};

constexpr float LOG2_E = 1.4426950408889634f;

/// Begins to copy `ROWS` rows to shared memory. Rows from `count` on become zero.
template <int ROWS, int D, int THREADS, class T>
__device__ __forceinline__ void copy_rows(uint32_t to, Rows<const T> from, int count) {
    constexpr int CHUNKS = Tile<D>::CHUNKS, ROUND = THREADS / CHUNKS;
    const int first = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    if (first >= ROUND) return; // a thread that is left over
    const T* source = from.from(first).at + chunk * 8;
    to += first * Tile<D>::ROW + chunk * 16;
#pragma unroll
    for (int row = 0; row < ROWS; row += ROUND) {
        if (row + ROUND > ROWS && first + row >= ROWS) break;
        cp_async_16(to + row * Tile<D>::ROW, source, first + row < count);
        source += int64_t(ROUND) * from.stride;
    }
}

/// M * 16 queries of a warp, as left operands: of[i][j] are columns 8 j to 8 j + 7.
template <class T, int D, int M> struct Queries {
    uint32_t of[M][D / 8][2];

    /// Loads them from rows in shared memory.
    __device__ __forceinline__ void load(uint32_t rows) {
        const int lane = threadIdx.x % WARP;
        rows += lane % 16 * Tile<D>::ROW + lane / 16 * 16;
#pragma unroll
        for (int i = 0; i < M; ++i, rows += 16 * Tile<D>::ROW) {
#pragma unroll
            for (int j = 0; j + 1 < D / 8; j += 2) {
                uint32_t both[4];
                ldmatrix_x4(both, rows + j * 16);
                of[i][j][0] = both[0], of[i][j][1] = both[1];
                of[i][j + 1][0] = both[2], of[i][j + 1][1] = both[3];
            }
            if (D % 16 != 0) ldmatrix_x2(of[i][D / 8 - 1], rows + (D / 8 - 1) * 16);
        }
    }
};

/// Scores of M * 16 queries of a warp and of some keys, as sums of matrix products: with
/// g = lane / 4 and t = lane % 4, of[i][j] holds queries 16 i + g (twice) and 16 i + g + 8
/// (twice) by keys 8 j + 2 t and the next.
template <int M> struct Scores {
    float of[M][STEP<M> / 8][4];

    /// The products of the queries with the keys. If `EDGE`, those of keys behind the
    /// first `count`, which are zeros, may be left out.
    template <bool EDGE, class T, int D>
    __device__ __forceinline__ void multiply(const Queries<T, D, M>& q, uint32_t keys, int count) {
        const int lane = threadIdx.x % WARP;
#pragma unroll
        for (int i = 0; i < M; ++i) {
#pragma unroll
            for (int j = 0; j < STEP<M> / 8; ++j) {
#pragma unroll
                for (int e = 0; e < 4; ++e) of[i][j][e] = 0;
            }
        }
        const uint32_t pairs = keys + (lane / 16 * 8 + lane % 8) * Tile<D>::ROW + lane / 8 % 2 * 16;
#pragma unroll
        for (int step = 0; step + 1 < D / 8; step += 2) {
#pragma unroll
            for (int j = 0; j < STEP<M> / 8; j += 2) { // 16 keys, 16 columns
                if (EDGE && j * 8 >= count) break;
                uint32_t k[4];
                ldmatrix_x4(k, pairs + j * 8 * Tile<D>::ROW + step * 16);
#pragma unroll
                for (int i = 0; i < M; ++i) {
                    const auto& low = q.of[i][step];
                    const auto& high = q.of[i][step + 1];
                    const uint32_t both[4] = {low[0], low[1], high[0], high[1]};
                    mma<T>(of[i][j], both, k[0], k[1]);
                    mma<T>(of[i][j + 1], both, k[2], k[3]);
                }
            }
        }
        if (D % 16 == 0) return;
        const uint32_t last = keys + lane * Tile<D>::ROW + (D / 8 - 1) * 16;
#pragma unroll
        for (int j = 0; j < STEP<M> / 8; j += 4) { // 32 keys, 8 columns
            if (EDGE && j * 8 >= count) break;
            uint32_t k[4];
            ldmatrix_x4(k, last + j * 8 * Tile<D>::ROW);
#pragma unroll
            for (int i = 0; i < M; ++i) {
                const auto& rest = q.of[i][D / 8 - 1];
#pragma unroll
                for (int e = 0; e < 4; ++e) mma_8<T>(of[i][j + e], rest[0], rest[1], k[e]);
            }
        }
    }

    /// Hides the keys from `count` on; if causal, also those behind each query. `ahead` is
    /// the position of the warp's first query less that of the first key.
    __device__ __forceinline__ void hide(int count, int ahead, bool causal) {
        const int lane = threadIdx.x % WARP;
#pragma unroll
        for (int i = 0; i < M; ++i) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int query = ahead + i * 16 + e / 2 * 8 + lane / 4;
                const int visible = causal ? min(count, query + 1) : count;
                const int key = lane % 4 * 2 + e % 2;
#pragma unroll
                for (int j = 0; j < STEP<M> / 8; ++j) {
                    if (j * 8 + key >= visible) of[i][j][e] = -INFINITY;
                }
            }
        }
    }
};

/// The online softmax of M * 16 queries of a warp: two of each fragment belong to a lane,
/// and so does a quarter of their keys.
///
/// Weights are 2^(score * scale - level), with log2(e) in `scale`. A level is a recent
/// maximum of its query's scores. It rises only when a score exceeds it by SLACK: almost
/// never after the first tiles, and till then no weight exceeds 2^SLACK.
template <int M> struct Softmax {
    static constexpr float SLACK = 8;
    float level[M][2], sum[M][2];

    __device__ __forceinline__ Softmax() {
#pragma unroll
        for (int i = 0; i < M; ++i) {
            level[i][0] = level[i][1] = -INFINITY;
            sum[i][0] = sum[i][1] = 0;
        }
    }

    /// Raises the levels for new scores, if needed, and calls `f(i, half, factor)` to scale
    /// what was computed by the earlier ones.
    template <class F>
    __device__ __forceinline__ void raise(const Scores<M>& scores, float scale, F f) {
        float highest[M][2];
        bool exceeded = false;
#pragma unroll
        for (int i = 0; i < M; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float of = -INFINITY;
#pragma unroll
                for (int j = 0; j < STEP<M> / 8; ++j) {
                    of = fmaxf(of, fmaxf(scores.of[i][j][2 * half], scores.of[i][j][2 * half + 1]));
                }
                highest[i][half] = of * scale;
                exceeded |= highest[i][half] > level[i][half] + SLACK;
            }
        }
        if (!__any_sync(0xffffffffu, exceeded)) return;
#pragma unroll
        for (int i = 0; i < M; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float raised = fmaxf(level[i][half], lanes_max<4>(highest[i][half]));
                const float factor = exp2_approximate(level[i][half] - raised);
                level[i][half] = raised;
                sum[i][half] *= factor;
                f(i, half, factor);
            }
        }
    }

    /// Turns the scores of 16 keys, from 8 j on, into weights, adds them to the sums, and
    /// returns them as left operands.
    template <class T>
    __device__ __forceinline__ void weigh(uint32_t (&weights)[M][4], const Scores<M>& scores, int j,
                                          float scale) {
#pragma unroll
        for (int i = 0; i < M; ++i) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int half = e % 2;
                const float* pair = &scores.of[i][j + e / 2][2 * half];
                const float low = exp2_approximate(pair[0] * scale - level[i][half]);
                const float high = exp2_approximate(pair[1] * scale - level[i][half]);
                sum[i][half] += low;
                sum[i][half] += high;
                weights[i][e] = pack<T>(low, high);
            }
        }
    }

    /// Writes the weights of the first `count` keys, divided by the sums, to rows of m values:
    /// those of `query` and the next, less than n.
    template <class T>
    __device__ __forceinline__ void write(const Scores<M>& scores, float scale, T* maps,
                                          int query, int n, int m, int count) const {
        const int lane = threadIdx.x % WARP;
#pragma unroll
        for (int e = 0; e < 4 * M; ++e) {
            const int i = e / 4, half = e % 4 / 2, key = lane % 4 * 2 + e % 2;
            const int row = query + i * 16 + half * 8 + lane / 4;
            if (row >= n) continue;
            const float factor = __fdividef(1.0f, sum[i][half]);
            T* const to = maps + int64_t(row) * m + key;
#pragma unroll
            for (int j = 0; j < STEP<M> / 8; ++j) {
                const float weight = scores.of[i][j][e % 4] * scale - level[i][half];
                if (j * 8 + key >= count) continue;
                to[j * 8] = from_f32<T>(exp2_approximate(weight) * factor);
            }
        }
    }

    /// Adds the sums of a query's four lanes.
    __device__ __forceinline__ void finish() {
#pragma unroll
        for (int i = 0; i < M; ++i) {
            sum[i][0] = lanes_sum<4>(sum[i][0]);
            sum[i][1] = lanes_sum<4>(sum[i][1]);
        }
    }
};

/// The output of M * 16 queries of a warp, as sums of matrix products.
template <class T, int D, int M> struct Output {
    float of[M][D / 8][4];

    __device__ __forceinline__ Output() {
#pragma unroll
        for (int i = 0; i < M; ++i) {
#pragma unroll
            for (int j = 0; j < D / 8; ++j) {
#pragma unroll
                for (int e = 0; e < 4; ++e) of[i][j][e] = 0;
            }
        }
    }

    /// Multiplies queries 16 i + 8 half and on by a factor, one for each four lanes.
    __device__ __forceinline__ void scale(int i, int half, float factor) {
#pragma unroll
        for (int j = 0; j < D / 8; ++j) {
            of[i][j][2 * half] *= factor;
            of[i][j][2 * half + 1] *= factor;
        }
    }

    /// Adds the products of weights (M * 16, 16) and 16 rows of values.
    __device__ __forceinline__ void add(const uint32_t (&weights)[M][4], uint32_t values) {
        const int lane = threadIdx.x % WARP;
        values += lane % 16 * Tile<D>::ROW + lane / 16 * 16;
#pragma unroll
        for (int j = 0; j + 1 < D / 8; j += 2) {
            uint32_t v[4];
            ldmatrix_x4_trans(v, values + j * 16);
#pragma unroll
            for (int i = 0; i < M; ++i) {
                mma<T>(of[i][j], weights[i], v[0], v[1]);
                mma<T>(of[i][j + 1], weights[i], v[2], v[3]);
            }
        }
        if (D % 16 != 0) { // the last 8 columns; the upper lanes' addresses are unused
            uint32_t v[2];
            ldmatrix_x2_trans(v, values + (D / 8 - 1) * 16);
#pragma unroll
            for (int i = 0; i < M; ++i) mma<T>(of[i][D / 8 - 1], weights[i], v[0], v[1]);
        }
    }

    /// Writes the first `count` queries, divided by the sums of their weights, through the
    /// warp's rows in shared memory.
    __device__ __forceinline__ void write(const Softmax<M>& softmax, unsigned char* rows, Rows<T> y,
                                          int count) {
        const int lane = threadIdx.x % WARP;
#pragma unroll
        for (int i = 0; i < M; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float factor = __fdividef(1.0f, softmax.sum[i][half]);
                const int row = i * 16 + half * 8 + lane / 4;
                unsigned char* to = rows + row * Tile<D>::ROW + lane % 4 * 4;
#pragma unroll
                for (int j = 0; j < D / 8; ++j) {
                    const float* pair = &of[i][j][2 * half];
                    *reinterpret_cast<uint32_t*>(to + j * 16) =
                        pack<T>(pair[0] * factor, pair[1] * factor);
                }
            }
        }
        __syncwarp();
        constexpr int CHUNKS = Tile<D>::CHUNKS;
        for (int i = lane; i < M * 16 * CHUNKS; i += WARP) {
            const int row = i / CHUNKS, chunk = i % CHUNKS;
            if (row >= count) break;
            *reinterpret_cast<uint4*>(y.from(row).at + chunk * 8) =
                *reinterpret_cast<const uint4*>(rows + row * Tile<D>::ROW + chunk * 16);
        }
    }
};

/// The attention of M * 16 queries of a warp.
template <class T, int D, int M> struct WarpAttention {
    Queries<T, D, M> queries;
    Softmax<M> softmax;
    Output<T, D, M> output;

    /// Adds STEP<M> keys and values in shared memory, if `EDGE` only those that
    /// `Scores::hide` leaves.
    template <bool EDGE>
    __device__ __forceinline__ void add(uint32_t keys, uint32_t values, int count, int ahead,
                                        bool causal, float scale) {
        Scores<M> scores;
        scores.template multiply<EDGE>(queries, keys, count);
        if (EDGE) scores.hide(count, ahead, causal);
        softmax.raise(scores, scale, [&](int i, int half, float factor) {
            output.scale(i, half, factor);
        });
#pragma unroll
        for (int j = 0; j < STEP<M> / 8; j += 2) {
            if (EDGE && j * 8 >= count) break;
            uint32_t weights[M][4];
            softmax.template weigh<T>(weights, scores, j, scale);
            output.add(weights, values + j * 8 * Tile<D>::ROW);
        }
    }
};

/// softmax(q k^T scale) v of the block's queries and head, m keys. If causal, query i sees
/// keys 0 to i.
template <int D, int M, int QUERIES, class T>
__device__ __forceinline__ void attention(Rows<const T> q, Rows<const T> k, Rows<const T> v,
                                          Rows<T> y, int n, int m, float scale, bool causal) {
    constexpr int THREADS = QUERIES / (16 * M) * WARP;
    // The queries, later the output; then the keys and values of two tiles.
    unsigned char* const shared = dynamic_shared();
    const uint32_t queries = shared_address(shared);
    const uint32_t tiles = queries + QUERIES * Tile<D>::ROW;
    const int block_first = blockIdx.x * QUERIES;
    const int warp_row = threadIdx.x / WARP * 16 * M, first = block_first + warp_row;

    const auto copy_tile = [&](int key) {
        const uint32_t to = tiles + key / KEYS % 2 * 2 * Tile<D>::BYTES;
        copy_rows<KEYS, D, THREADS>(to, k.from(key), m - key);
        copy_rows<KEYS, D, THREADS>(to + Tile<D>::BYTES, v.from(key), m - key);
        cp_async_commit();
    };
    copy_rows<QUERIES, D, THREADS>(queries, q.from(block_first), n - block_first);
    copy_tile(0);

    WarpAttention<T, D, M> warp;
    const int keys = causal ? min(m, block_first + QUERIES) : m;
    const int visible = causal ? min(m, first + 1) : m; // to every query of the warp
    for (int tile = 0; tile < keys; tile += KEYS) {
        cp_async_wait<0>();
        __syncthreads(); // this tile is complete, and no warp reads the other any more
        if (tile + KEYS < keys) copy_tile(tile + KEYS);
        if (tile == 0) warp.queries.load(queries + warp_row * Tile<D>::ROW);
#pragma unroll
        for (int step = 0; step < KEYS; step += STEP<M>) {
            const int key = tile + step, count = min(m - key, STEP<M>);
            const uint32_t at = tiles + (tile / KEYS % 2 * 2 * KEYS + step) * Tile<D>::ROW;
            if (key + STEP<M> <= visible) {
                warp.template add<false>(at, at + Tile<D>::BYTES, count, 0, false, scale);
            } else if (key < keys) {
                warp.template add<true>(at, at + Tile<D>::BYTES, count, first - key, causal, scale);
            }
        }
    }
    warp.softmax.finish();
    warp.output.write(warp.softmax, shared + warp_row * Tile<D>::ROW, y.from(first), n - first);
}

/// softmax(q k^T scale) of the block's queries and head: n rows of m values. The first pass
/// over the keys computes levels and sums, the second the maps.
template <int D, int QUERIES, class T>
__device__ __forceinline__ void attention_maps(Rows<const T> q, Rows<const T> k, T* maps, int n,
                                               int m, float scale) {
    constexpr int M = 1, THREADS = QUERIES / (16 * M) * WARP;
    // The queries; then the keys of two tiles.
    const uint32_t queries = shared_address(dynamic_shared());
    const uint32_t tiles = queries + QUERIES * Tile<D>::ROW;
    const int block_first = blockIdx.x * QUERIES, warp_row = threadIdx.x / WARP * 16 * M;
    const int count = (m + KEYS - 1) / KEYS; // of tiles

    const auto copy_tile = [&](int i) {
        const int key = i % count * KEYS;
        copy_rows<KEYS, D, THREADS>(tiles + i % 2 * Tile<D>::BYTES, k.from(key), m - key);
        cp_async_commit();
    };
    copy_rows<QUERIES, D, THREADS>(queries, q.from(block_first), n - block_first);
    copy_tile(0);

    Queries<T, D, M> own;
    Softmax<M> softmax;
    for (int i = 0; i < 2 * count; ++i) {
        cp_async_wait<0>();
        __syncthreads(); // this tile is complete, and no warp reads the other any more
        if (i + 1 < 2 * count) copy_tile(i + 1);
        if (i == 0) own.load(queries + warp_row * Tile<D>::ROW);
        if (i == count) softmax.finish();

        const int key = i % count * KEYS;
        Scores<M> scores;
        scores.template multiply<false>(own, tiles + i % 2 * Tile<D>::BYTES, KEYS);
        scores.hide(m - key, 0, false);
        if (i < count) {
            softmax.raise(scores, scale, [](int, int, float) {});
#pragma unroll
            for (int j = 0; j < KEYS / 8; j += 2) {
                uint32_t unused[M][4];
                softmax.template weigh<T>(unused, scores, j, scale);
            }
        } else {
            softmax.write(scores, scale, maps + key, block_first + warp_row, n, m, m - key);
        }
    }
}

/// The addresses of a block's head.
template <class T>
__device__ __forceinline__ Rows<T> head(T* at, int64_t batch, int64_t row, int width) {
    return {at + blockIdx.z * batch + blockIdx.y * width, int(row)};
}

} // namespace

// ---- The kernels of each type, width and number of queries ---------------------------

/* Attention of blocks of Q queries, M * 16 for each warp, at least BLOCKS at a time. */
#define ATTENTION(T, NAME, D, M, Q, BLOCKS)                                                      \
    extern "C" __global__ void __launch_bounds__(2 * Q / M, BLOCKS)                              \
        attention_##NAME##_d##D##_q##Q(                                                          \
            const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v,           \
            T* __restrict__ y, int n, int m, int64_t q_batch, int64_t q_row, int64_t k_batch,    \
            int64_t k_row, int64_t v_batch, int64_t v_row, int64_t y_batch, int64_t y_row,       \
            float scale, int causal) {                                                           \
        attention<D, M, Q>(head(q, q_batch, q_row, D), head(k, k_batch, k_row, D),               \
                           head(v, v_batch, v_row, D), head(y, y_batch, y_row, D), n, m,         \
                           scale * LOG2_E, causal);                                              \
    }

/* The maps (b, heads, n, m), contiguous. */
#define MAPS(T, NAME, D)                                                                         \
    extern "C" __global__ void __launch_bounds__(128) attention_maps_##NAME##_d##D(              \
        const T* __restrict__ q, const T* __restrict__ k, T* __restrict__ maps, int n, int m,    \
        int64_t q_batch, int64_t q_row, int64_t k_batch, int64_t k_row, float scale) {           \
        T* const of_head = maps + (int64_t(blockIdx.z) * gridDim.y + blockIdx.y) * n * m;        \
        attention_maps<D, 64>(head(q, q_batch, q_row, D), head(k, k_batch, k_row, D), of_head, n,\
                              m, scale * LOG2_E);                                                \
    }

#define WIDTHS(T, NAME)                                                                          \
    ATTENTION(T, NAME, 40, 2, 128, 4)                                                            \
    ATTENTION(T, NAME, 64, 2, 160, 2)                                                            \
    ATTENTION(T, NAME, 64, 2, 128, 3)                                                            \
    ATTENTION(T, NAME, 64, 2, 96, 4)                                                             \
    ATTENTION(T, NAME, 40, 1, 64, 4)                                                             \
    ATTENTION(T, NAME, 64, 1, 64, 4)                                                             \
    ATTENTION(T, NAME, 80, 1, 64, 3)                                                             \
    ATTENTION(T, NAME, 128, 1, 64, 2)                                                            \
    ATTENTION(T, NAME, 160, 1, 64, 2)                                                            \
    MAPS(T, NAME, 40)                                                                            \
    MAPS(T, NAME, 64)                                                                            \
    MAPS(T, NAME, 80)                                                                            \
    MAPS(T, NAME, 128)                                                                           \
    MAPS(T, NAME, 160)

WIDTHS(f16, f16)
WIDTHS(bf16, bf16)
