// Matrix products on tensor cores: linear layers, GEGLU and convolutions.
//
// All are y (m, n) = x (m, k) w (n, k)^T, sums in f32. For a convolution the rows of x are
// the patches of the picture, which are gathered while they are copied and never laid out
// in memory (implicit GEMM, arXiv 1410.0759).
//
// A block computes one tile of y. It copies the operands to shared memory, DEPTH columns
// of k in a stage, with cp.async several stages ahead; each warp multiplies its part of
// the tile with mma.sync, the next fragments being read while the present ones are
// multiplied. Where y has fewer tiles than the GPU has room for, z blocks share the sums
// of a tile (split-K): each writes its part in f32, and `reduce` adds them.
//
// Launch, with (bx, by) the tile's columns and rows:
//
//     linear        grid (ceil(n / bx), ceil(m / by), splits)
//     linear_geglu  grid (ceil(n / (bx / 2)), ceil(m / by)), n the width of the output
//     conv          grid (ceil(n / bx), ceil(b oh ow / by), splits)
//     reduce        grid ceil(m ceil(n / 8) / 256), 256 threads, no dynamic shared memory
//
// TILE is rows x columns. Above 48 KB of dynamic shared memory a kernel has to be allowed
// it first (CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES).
//
//     TILE     threads  bytes of dynamic shared memory  blocks on a multiprocessor
//     256x128      256                          101376                           1
//     256x64       128                           64512                           2
//     128x128      128                           67072                           2
//     128x64       128                           50688                           3
//     64x64        128                           49920                           4
//
// Tensors are contiguous and begin at multiples of 16 bytes; k and c are multiples of 8, n
// is any number, and best a multiple of 8. Absent tensors are null.
#include "device.cuh"

// ---- Tiles ---------------------------------------------------------------------------

/// The first input of an output pixel's patch, in the enlarged picture, and the index of
/// the first pixel of its picture.
struct Corner {
    int y, x, picture;
};

/// The division of labour: a block has ROWS x COLUMNS of y, a warp WARP_ROWS x
/// WARP_COLUMNS of these; STAGES of DEPTH columns of k are in shared memory, and BLOCKS
/// blocks are to fit on a multiprocessor.
template <int M, int N, int K, int WARP_M, int WARP_N, int STAGES_, int BLOCKS_> struct Tile {
    static constexpr int ROWS = M, COLUMNS = N, DEPTH = K, STAGES = STAGES_, BLOCKS = BLOCKS_;
    static constexpr int WARP_ROWS = WARP_M, WARP_COLUMNS = WARP_N;
    static constexpr int WARPS_ACROSS = N / WARP_N, WARPS = M / WARP_M * WARPS_ACROSS;
    static constexpr int THREADS = WARPS * WARP;

    /// Fragments of a warp: those of x are 16 x 16, those of w 16 x 8.
    static constexpr int DOWN = WARP_M / 16, ACROSS = WARP_N / 8, STEPS = K / 16;

    /// A stage holds rows of x, then rows of w, in chunks of 8 values, 16 bytes.
    static constexpr int CHUNKS = K / 8, ROW_BYTES = 2 * K;
    static constexpr int STAGE_BYTES = (M + N) * ROW_BYTES, STAGES_BYTES = STAGES * STAGE_BYTES;

    /// Of a block: the stages, and behind them a convolution's table of its rows.
    static constexpr int SHARED = STAGES_BYTES + M * int(sizeof(Corner));

    static_assert(STEPS % 2 == 0, "the two sets of fragments alternate across stages");
    static_assert(DOWN * 16 == WARP_M && ACROSS % 2 == 0, "w is read 16 rows at a time");

    /// Where in a matrix of a stage a chunk lies. Within lines of 128 bytes, which touch
    /// all banks, the chunks of the rows are permuted such that the same chunk of eight
    /// consecutive rows, which a matrix load reads at once, lies in different banks.
    static __device__ __forceinline__ int offset(int row, int chunk) {
        return row * ROW_BYTES + ((chunk ^ row / (128 / ROW_BYTES) % CHUNKS) * 16);
    }
};

using Tile_256x128 = Tile<256, 128, 32, 64, 64, 4, 1>;
using Tile_256x64 = Tile<256, 64, 32, 64, 64, 3, 2>;
using Tile_128x128 = Tile<128, 128, 32, 64, 64, 4, 2>;
using Tile_128x64 = Tile<128, 64, 32, 64, 32, 4, 3>;
using Tile_64x64 = Tile<64, 64, 64, 32, 32, 3, 4>;

/// The sums of a warp: [i][j] is the fragment at rows 16 i and columns 8 j.
template <class Tile> using Sums = float[Tile::DOWN][Tile::ACROSS][4];

__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

/// The position of a block's tile in units of tiles.
struct Position {
    int row, column;
};

/// Groups of eight rows of tiles are computed column by column: the blocks that run at one
/// time then share few rows of x and of w, which stay in the L2 cache.
__device__ __forceinline__ Position position() {
    constexpr int GROUP = 8;
    const int columns = gridDim.x, rows = gridDim.y;
    const int block = blockIdx.y * columns + blockIdx.x;
    const int first = block / (GROUP * columns) * GROUP, within = block % (GROUP * columns);
    const int height = min(GROUP, rows - first);
    return {first + within % height, within / height};
}

/// The stages of k that a block sums.
struct Span {
    int first, count;
};

template <class Tile> __device__ __forceinline__ Span span(int k, int splits) {
    const int stages = ceil_div(k, Tile::DEPTH), share = ceil_div(stages, splits);
    const int first = min(share * int(blockIdx.z), stages);
    return {first, min(share, stages - first)};
}

/// The columns of k that a block sums: where it begins, and how many there are.
struct Columns {
    int begin, count;
};

/// Those of stages that follow each other along k. The last stage of k may be short.
template <class Tile> __device__ __forceinline__ Columns consecutive(int k, Span span) {
    const int begin = span.first * Tile::DEPTH;
    return {begin, min(span.count * Tile::DEPTH, k - begin)};
}

// ---- Operands: from global to shared memory ------------------------------------------
//
// An operand begins to copy its present stage by `copy` and goes on to the next by
// `advance`. Behind the end of its span it copies zeros. `copy` has no branches, so that
// its instructions are scheduled among those of the product. The rows of x decide on the
// order of the stages: at which column of k the first begins, and how far it is from each
// to the next, which may be back. How many columns are left is thus not told by where one
// is, but counted.

/// What a thread copies of a matrix of N rows in each stage: one chunk of every STEP-th
/// row.
template <class Tile, int N> struct Share {
    static constexpr int STEP = Tile::THREADS / Tile::CHUNKS, COUNT = N / STEP;
    static_assert(STEP % 8 == 0 && COUNT * STEP == N, "all rows of a thread are permuted alike");

    static __device__ __forceinline__ int chunk() { return threadIdx.x % Tile::CHUNKS; }
    static __device__ __forceinline__ int row(int i) {
        return threadIdx.x / Tile::CHUNKS + i * STEP;
    }
    static __device__ __forceinline__ uint32_t offset(int i) {
        return Tile::offset(row(0), chunk()) + i * STEP * Tile::ROW_BYTES;
    }
};

/// Copies rows of a matrix (.., k).
template <class T, class Tile, int N> class MatrixRows {
    using Mine = Share<Tile, N>;
    const T* from_;
    int left_;               // columns from the thread's chunk on, in this and later stages
    int rows_[Mine::COUNT];  // where the thread's chunks are from there, in chunks

  public:
    /// `row(i)` is the row of the matrix that is row i of the tile.
    template <class F>
    __device__ __forceinline__ MatrixRows(const T* matrix, int k, Columns columns, F row)
        : from_(matrix + columns.begin), left_(columns.count - Mine::chunk() * 8) {
#pragma unroll
        for (int i = 0; i < Mine::COUNT; ++i) {
            rows_[i] = row(Mine::row(i)) * (k / 8) + Mine::chunk();
        }
    }

    __device__ __forceinline__ void copy(uint32_t to) const {
#pragma unroll
        for (int i = 0; i < Mine::COUNT; ++i) {
            cp_async_16(to + Mine::offset(i), from_ + int64_t(rows_[i]) * 8, left_ > 0);
        }
    }

    /// Goes on by a number of columns; returns it.
    __device__ __forceinline__ int advance(int columns = Tile::DEPTH) {
        from_ += columns;
        left_ -= Tile::DEPTH;
        return columns;
    }
};

/// A convolution of pictures (b, h, w, c), which are first enlarged to (up_h, up_w).
struct Geometry {
    int b, h, w, c, oh, ow, up_h, up_w, side, stride, before;
};

/// Lays out the corners of a tile's output pixels, from `pixel` on, behind the stages.
template <class Tile>
__device__ __forceinline__ const Corner* corners(const Geometry& of, int pixel) {
    Corner* corners = reinterpret_cast<Corner*>(dynamic_shared() + Tile::STAGES_BYTES);
    for (int i = threadIdx.x; i < Tile::ROWS; i += Tile::THREADS) {
        const int picture = (pixel + i) / (of.oh * of.ow), within = (pixel + i) % (of.oh * of.ow);
        const int y = within / of.ow * of.stride - of.before;
        const int x = within % of.ow * of.stride - of.before;
        // Pixels behind the last picture are zeros: outside, wherever the tap.
        corners[i] = picture < of.b ? Corner{y, x, picture * of.h * of.w} : Corner{-of.side, 0, 0};
    }
    __syncthreads();
    return corners;
}

/// Copies the patches of consecutive output pixels: matrix rows of side * side * c values,
/// tap by tap. A thread walks along k; only where its tap changes, every c columns, it
/// locates its pixels again, so that the walk itself is free of divisions.
template <class T, class Tile> class Patches {
    using Mine = Share<Tile, Tile::ROWS>;
    const T* x_;
    const Geometry& of_;
    const Corner* corners_;
    float scale_y_, scale_x_;
    int left_, channel_, tap_y_, tap_x_;
    int pixels_[Mine::COUNT];  // where their channels begin, in chunks; -1 outside

  public:
    static __device__ __forceinline__ Columns columns(const Geometry& of, Span span) {
        return consecutive<Tile>(of.side * of.side * of.c, span);
    }

    __device__ __forceinline__ Patches(const T* x, const Geometry& of, Span span,
                                       const Corner* corners)
        : x_(x), of_(of), corners_(corners) {
        scale_y_ = float(of.h) / float(of.up_h);
        scale_x_ = float(of.w) / float(of.up_w);
        const auto [begin, count] = columns(of, span);
        const int column = begin + Mine::chunk() * 8, tap = column / of.c;
        left_ = count - Mine::chunk() * 8;
        channel_ = column % of.c;
        tap_y_ = tap / of.side;
        tap_x_ = tap % of.side;
        locate();
    }

    __device__ __forceinline__ void copy(uint32_t to) const {
        const T* from = x_ + channel_;
#pragma unroll
        for (int i = 0; i < Mine::COUNT; ++i) {
            const bool valid = pixels_[i] >= 0 && left_ > 0;
            cp_async_16_cached(to + Mine::offset(i), from + int64_t(pixels_[i]) * 8, valid);
        }
    }

    __device__ __forceinline__ int advance() {
        left_ -= Tile::DEPTH;
        channel_ += Tile::DEPTH;
        if (channel_ >= of_.c) next_tap();
        return Tile::DEPTH;
    }

  private:
    __device__ __forceinline__ void next_tap() {
        for (; channel_ >= of_.c; channel_ -= of_.c) {
            if (++tap_x_ == of_.side) tap_x_ = 0, ++tap_y_;
        }
        locate();
    }

    __device__ __forceinline__ void locate() {
#pragma unroll
        for (int i = 0; i < Mine::COUNT; ++i) pixels_[i] = located(corners_[Mine::row(i)]);
    }

    /// The input under the tap. Its index in the picture before enlarging is rounded as in
    /// PyTorch's `interpolate`: floor(i h / up_h) in f32.
    __device__ __forceinline__ int located(Corner corner) const {
        const int y = corner.y + tap_y_, x = corner.x + tap_x_;
        const bool inside = unsigned(y) < unsigned(of_.up_h) && unsigned(x) < unsigned(of_.up_w);
        const int from_y = min(int(float(y) * scale_y_), of_.h - 1);
        const int from_x = min(int(float(x) * scale_x_), of_.w - 1);
        return inside ? (corner.picture + from_y * of_.w + from_x) * (of_.c / 8) : -1;
    }
};

/// Copies the patches of most convolutions: 3x3, of the picture as it is, whose channels
/// are a multiple of a stage.
///
/// The stages of one part of the channels follow each other, tap by tap. The taps of a
/// tile's pixels are for the most part the same inputs, so that most copies hit the L1
/// cache: from L2 alone, the patches would take longer than the product.
template <class T, class Tile> class Taps {
    using Mine = Share<Tile, Tile::ROWS>;
    const T* from_;  // the stage's channels at the tap of the picture's first pixel
    int c_, row_;    // how far it is to the next pixel, and from a last tap to the next row
    int left_;       // stages
    uint32_t tap_;   // a bit
    int pixels_[Mine::COUNT];       // where the thread's chunks of the first tap are, in chunks
    uint32_t inside_[Mine::COUNT];  // the taps that are inside the picture

  public:
    static __device__ __forceinline__ bool fit(const Geometry& of) {
        return of.side == 3 && of.up_h == of.h && of.up_w == of.w && of.c % Tile::DEPTH == 0;
    }

    /// All stages are whole, also those behind a walk's return to the first tap.
    static __device__ __forceinline__ Columns columns(const Geometry& of, Span span) {
        return {span.first % 9 * of.c + span.first / 9 * Tile::DEPTH, span.count * Tile::DEPTH};
    }

    __device__ __forceinline__ Taps(const T* x, const Geometry& of, Span span,
                                    const Corner* corners)
        : c_(of.c), row_((of.w - 3) * of.c), left_(span.count) {
        const int tap = span.first % 9;
        from_ = x + span.first / 9 * Tile::DEPTH + (tap / 3 * of.w + tap % 3) * of.c;
        tap_ = left_ > 0 ? 1 << tap : 0;
#pragma unroll
        for (int i = 0; i < Mine::COUNT; ++i) {
            const Corner corner = corners[Mine::row(i)];
            inside_[i] = inside(of, corner);
            pixels_[i] = (corner.picture + corner.y * of.w + corner.x) * (of.c / 8) + Mine::chunk();
        }
    }

    __device__ __forceinline__ void copy(uint32_t to) const {
#pragma unroll
        for (int i = 0; i < Mine::COUNT; ++i) {
            const T* from = from_ + int64_t(pixels_[i]) * 8;
            cp_async_16_cached(to + Mine::offset(i), from, inside_[i] & tap_);
        }
    }

    __device__ __forceinline__ int advance() {
        const bool last = tap_ == 1 << 8, end_of_row = tap_ & (1 << 2 | 1 << 5);
        // From the last tap back to the first, of the next channels.
        from_ += last ? Tile::DEPTH - 2 * row_ - 8 * c_ : c_ + (end_of_row ? row_ : 0);
        tap_ = --left_ <= 0 ? 0 : last ? 1 : tap_ << 1;
        return last ? Tile::DEPTH - 8 * c_ : c_;
    }

  private:
    static __device__ __forceinline__ uint32_t inside(const Geometry& of, Corner corner) {
        uint32_t across = 0, taps = 0;
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            if (unsigned(corner.x + i) < unsigned(of.w)) across |= 1 << i;
        }
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            if (unsigned(corner.y + i) < unsigned(of.h)) taps |= across << 3 * i;
        }
        return taps;
    }
};

// ---- The product ---------------------------------------------------------------------

/// The operands of a warp for 16 columns of k.
template <class Tile> struct Fragments {
    uint32_t x[Tile::DOWN][4], w[Tile::ACROSS / 2][4];
};

/// Reads a warp's fragments from a stage.
template <class Tile> class Reader {
    static constexpr int ROWS_16 = 16 * Tile::ROW_BYTES;
    uint32_t x_, w_;  // the lane's addresses in a stage for the first step

  public:
    __device__ __forceinline__ Reader() {
        const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
        const int row = warp / Tile::WARPS_ACROSS * Tile::WARP_ROWS;
        const int column = warp % Tile::WARPS_ACROSS * Tile::WARP_COLUMNS;
        // Of x: rows 0 and 8 of the first eight columns, then of the second. Of w: both
        // columns of the first eight rows, then of the second.
        x_ = Tile::offset(row + lane % 16, lane / 16);
        w_ = Tile::ROWS * Tile::ROW_BYTES +
             Tile::offset(column + lane % 8 + lane / 16 * 8, lane / 8 % 2);
    }

    /// A step is two chunks further, which in permuted order is an exclusive or.
    __device__ __forceinline__ void read(Fragments<Tile>& to, uint32_t stage, int step) const {
        const uint32_t x = stage + (x_ ^ step * 32), w = stage + (w_ ^ step * 32);
#pragma unroll
        for (int i = 0; i < Tile::DOWN; ++i) ldmatrix_x4(to.x[i], x + i * ROWS_16);
#pragma unroll
        for (int j = 0; j < Tile::ACROSS / 2; ++j) ldmatrix_x4(to.w[j], w + j * ROWS_16);
    }
};

template <class T, class Tile>
__device__ __forceinline__ void multiply(Sums<Tile>& sums, const Fragments<Tile>& of) {
#pragma unroll
    for (int i = 0; i < Tile::DOWN; ++i) {
#pragma unroll
        for (int j = 0; j < Tile::ACROSS; ++j) {
            mma<T>(sums[i][j], of.x[i], of.w[j / 2][j % 2 * 2], of.w[j / 2][j % 2 * 2 + 1]);
        }
    }
}

/// The address of the stage after one.
template <class Tile> __device__ __forceinline__ uint32_t next(uint32_t stage, uint32_t first) {
    stage += Tile::STAGE_BYTES;
    return stage == first + Tile::STAGES_BYTES ? first : stage;
}

/// Sums the products of the stages that x and w copy.
template <class T, class Tile, class X, class W>
__device__ __forceinline__ void sum(Sums<Tile>& sums, X& x, W& w, int stages) {
    const uint32_t first = shared_address(dynamic_shared());
    const auto copy = [&](uint32_t to) {
        x.copy(to);
        w.copy(to + Tile::ROWS * Tile::ROW_BYTES);
        cp_async_commit();
    };
    const auto advance = [&] { w.advance(x.advance()); };
    const auto wait = [] {
        cp_async_wait<Tile::STAGES - 2>();
        __syncthreads();
    };
#pragma unroll
    for (int i = 0; i < Tile::STAGES - 1; ++i) {
        copy(first + i * Tile::STAGE_BYTES);
        advance();
    }
    wait();

    const Reader<Tile> reader;
    Fragments<Tile> fragments[2];
    uint32_t from = first, to = first + (Tile::STAGES - 1) * Tile::STAGE_BYTES;
    reader.read(fragments[0], from, 0);
    for (int stage = 0; stage < stages; ++stage) {
#pragma unroll
        for (int step = 0; step < Tile::STEPS; ++step) {
            if (step == Tile::STEPS - 1) {
                // The next stage has arrived, and all warps have read this one.
                wait();
                from = next<Tile>(from, first);
            }
            reader.read(fragments[(step + 1) % 2], from, (step + 1) % Tile::STEPS);
            if (step == 0) copy(to);
            multiply<T, Tile>(sums, fragments[step % 2]);
        }
        to = next<Tile>(to, first);
        advance();
    }
    cp_async_wait<0>();
    __syncthreads();
}

// ---- The epilogue: from sums to y ----------------------------------------------------

/// Eight consecutive values of a row, or at its end the `left` that there are. ALIGNED: rows
/// are multiples of eight, so that all eight are there and are accessed at once.
template <bool ALIGNED> struct Eight {
    int left;

    template <class T> __device__ __forceinline__ void add(float (&x)[8], const T* from) const {
        float y[8];
        if constexpr (ALIGNED) load8(y, from);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            if constexpr (!ALIGNED) y[i] = i < left ? to_f32(from[i]) : 0.0f;
            x[i] += y[i];
        }
    }

    template <class T> __device__ __forceinline__ void store(T* to, const float (&x)[8]) const {
        if constexpr (ALIGNED) {
            store8(to, x);
        } else {
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                if (i < left) to[i] = from_f32<T>(x[i]);
            }
        }
    }
};

/// Eight values of a residual, read ahead of their use.
template <class T> struct __align__(16) Ahead {
    T values[8];
};

/// Where sums go, and what is added to them: bias (n), shift (m / rows_per_shift, n) and
/// residual (m, n), or null.
template <class T> struct Output {
    T* y;
    const T *bias, *shift, *residual;
    int m, n, rows_per_shift;

    __device__ __forceinline__ bool contains(int row, int column) const {
        return row < m && column < n;
    }

    /// Whether the rows up to `end` have one shift.
    __device__ __forceinline__ bool one_shift(int row, int end) const {
        return row / rows_per_shift == (min(end, m) - 1) / rows_per_shift;
    }

    template <bool ALIGNED>
    __device__ __forceinline__ void add_shift(int row, int column, float (&x)[8]) const {
        Eight<ALIGNED>{n - column}.add(x, shift + int64_t(row / rows_per_shift) * n + column);
    }

    /// What is added to eight columns of every row: the bias, and the shift of `row` if
    /// that is common.
    template <bool ALIGNED>
    __device__ __forceinline__ void read_common(int row, int column, bool common_shift,
                                                float (&x)[8]) const {
#pragma unroll
        for (int i = 0; i < 8; ++i) x[i] = 0.0f;
        if (!contains(row, column)) return;
        if (bias) Eight<ALIGNED>{n - column}.add(x, bias + column);
        if (shift && common_shift) add_shift<ALIGNED>(row, column, x);
    }

    __device__ __forceinline__ Ahead<T> read_residual(int row, int column) const {
        Ahead<T> ahead = {};
        if (residual && contains(row, column)) {
            ahead = *reinterpret_cast<const Ahead<T>*>(residual + int64_t(row) * n + column);
        }
        return ahead;
    }

    /// Writes eight sums of a row, to which what is common has been added. The residual has
    /// been read if it is aligned.
    template <bool ALIGNED>
    __device__ __forceinline__ void write(int row, int column, bool common_shift, float (&x)[8],
                                          const Ahead<T>& ahead) const {
        if (!contains(row, column)) return;
        const Eight<ALIGNED> eight{n - column};
        const int64_t at = int64_t(row) * n + column;
        if (shift && !common_shift) add_shift<ALIGNED>(row, column, x);
        if (residual) eight.add(x, ALIGNED ? ahead.values : residual + at);
        eight.store(y + at, x);
    }
};

/// Eight floats at a multiple of 32 bytes of shared memory. Half of the lanes read their
/// second half first: the lanes that read at once then use all banks.
__device__ __forceinline__ void read_shared(float (&x)[8], const float* from) {
    const bool swap = threadIdx.x & 4;
    const float4 a = reinterpret_cast<const float4*>(from)[swap];
    const float4 b = reinterpret_cast<const float4*>(from)[!swap];
    const float4 low = swap ? b : a, high = swap ? a : b;
    x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
    x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
}

/// Writes the first ACROSS columns of fragments of a warp's sums, at (row, column) of y.
/// A fragment's lanes hold pairs of eight rows; through shared memory, 16 rows at a time,
/// each lane gets eight values of one row, and the warp writes rows of whole lines.
template <bool ALIGNED, int ACROSS, class Tile, class T>
__device__ __forceinline__ void write_rows(const Sums<Tile>& sums, const Output<T>& output,
                                           int row, int column) {
    constexpr int COLUMNS = 8 * ACROSS, EIGHTS = 16 * ACROSS / WARP, ROWS = WARP / ACROSS;
    constexpr int STRIDE = COLUMNS + 8; // pairs of four rows, written at once, use all banks
    static_assert(Tile::WARPS * 16 * STRIDE * 4 <= Tile::STAGES_BYTES, "it replaces the stages");
    static_assert(WARP % ACROSS == 0 && EIGHTS > 0, "a lane keeps its columns");
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    float* rows = reinterpret_cast<float*>(dynamic_shared()) + warp * 16 * STRIDE;
    float* pair = rows + lane / 4 * STRIDE + lane % 4 * 2;
    const float* eight = rows + lane / ACROSS * STRIDE + lane % ACROSS * 8;
    const bool one_shift = output.shift && output.one_shift(row, row + Tile::WARP_ROWS);
    row += lane / ACROSS;
    column += lane % ACROSS * 8;
    // The residual is read 16 rows ahead: it comes from far.
    Ahead<T> ahead[2][EIGHTS];
    const auto read_ahead = [&](int i) {
#pragma unroll
        for (int p = 0; p < EIGHTS; ++p) {
            ahead[i % 2][p] = output.read_residual(row + 16 * i + ROWS * p, column);
        }
    };
    if (ALIGNED) read_ahead(0);
    float common[8];
    output.template read_common<ALIGNED>(row, column, one_shift, common);
#pragma unroll
    for (int i = 0; i < Tile::DOWN; ++i) {
        if (ALIGNED && i + 1 < Tile::DOWN) read_ahead(i + 1);
#pragma unroll
        for (int j = 0; j < ACROSS; ++j) {
            const float(&x)[4] = sums[i][j];
            *reinterpret_cast<float2*>(pair + 8 * j) = make_float2(x[0], x[1]);
            *reinterpret_cast<float2*>(pair + 8 * j + 8 * STRIDE) = make_float2(x[2], x[3]);
        }
        __syncwarp();
#pragma unroll
        for (int p = 0; p < EIGHTS; ++p) {
            float x[8];
            read_shared(x, eight + p * ROWS * STRIDE);
#pragma unroll
            for (int e = 0; e < 8; ++e) x[e] += common[e];
            const int at = row + 16 * i + ROWS * p;
            output.template write<ALIGNED>(at, column, one_shift, x, ahead[i % 2][p]);
        }
        __syncwarp();
    }
}

template <int ACROSS, class Tile, class T>
__device__ __forceinline__ void write(const Sums<Tile>& sums, const Output<T>& output, int row,
                                      int column) {
    if (!output.contains(row, column)) return;
    if (output.n % 8 == 0) return write_rows<true, ACROSS, Tile>(sums, output, row, column);
    write_rows<false, ACROSS, Tile>(sums, output, row, column);
}

/// The place of a warp's part in a tile of y.
template <class Tile> __device__ __forceinline__ Position warp_part() {
    const int warp = threadIdx.x / WARP;
    return {warp / Tile::WARPS_ACROSS * Tile::WARP_ROWS,
            warp % Tile::WARPS_ACROSS * Tile::WARP_COLUMNS};
}

/// Writes a block's sums to y, or where several blocks share them, to the block's part of
/// partial (splits, m, n).
template <class T, class Tile>
__device__ __forceinline__ void finish(const Sums<Tile>& sums, Position tile,
                                       const Output<T>& output, float* partial, int splits) {
    const Position part = warp_part<Tile>();
    const int row = tile.row * Tile::ROWS + part.row;
    const int column = tile.column * Tile::COLUMNS + part.column;
    if (splits == 1) return write<Tile::ACROSS, Tile>(sums, output, row, column);
    float* to = partial + int64_t(blockIdx.z) * output.m * output.n;
    const Output<float> share{to, nullptr, nullptr, nullptr, output.m, output.n, 1};
    write<Tile::ACROSS, Tile>(sums, share, row, column);
}

// ---- Layers --------------------------------------------------------------------------

/// Rows of a matrix of `count`, the last repeated behind the end: what is computed of
/// these is not written.
struct Clamped {
    int first, count;
    __device__ __forceinline__ int operator()(int i) const { return min(first + i, count - 1); }
};

template <class T, class Tile>
__device__ __forceinline__ void linear(const T* x, const T* w, int k, const Output<T>& output,
                                       float* partial, int splits) {
    const Position tile = position();
    const Span stages = span<Tile>(k, splits);
    const Columns share = consecutive<Tile>(k, stages);
    const Clamped row{tile.row * Tile::ROWS, output.m};
    const Clamped column{tile.column * Tile::COLUMNS, output.n};
    MatrixRows<T, Tile, Tile::ROWS> rows(x, k, share, row);
    MatrixRows<T, Tile, Tile::COLUMNS> columns(w, k, share, column);
    Sums<Tile> sums = {};
    sum<T, Tile>(sums, rows, columns, stages.count);
    finish<T, Tile>(sums, tile, output, partial, splits);
}

/// Sums the products of patches, copied by P, and rows of w.
template <class P, class T, class Tile>
__device__ __forceinline__ void sum_patches(Sums<Tile>& sums, const T* x, const T* w,
                                            const Geometry& of, Span stages,
                                            const Corner* corners, Clamped row) {
    P patches(x, of, stages, corners);
    MatrixRows<T, Tile, Tile::COLUMNS> columns(w, of.side * of.side * of.c,
                                               P::columns(of, stages), row);
    sum<T, Tile>(sums, patches, columns, stages.count);
}

template <class T, class Tile>
__device__ __forceinline__ void conv(const T* x, const T* w, const Geometry& of,
                                     const Output<T>& output, float* partial, int splits) {
    const Position tile = position();
    const Span stages = span<Tile>(of.side * of.side * of.c, splits);
    const Corner* table = corners<Tile>(of, tile.row * Tile::ROWS);
    const Clamped row{tile.column * Tile::COLUMNS, output.n};
    Sums<Tile> sums = {};
    if (Taps<T, Tile>::fit(of)) {
        sum_patches<Taps<T, Tile>, T, Tile>(sums, x, w, of, stages, table, row);
    } else {
        sum_patches<Patches<T, Tile>, T, Tile>(sums, x, w, of, stages, table, row);
    }
    finish<T, Tile>(sums, tile, output, partial, splits);
}

/// Exact GELU: x times the normal distribution function.
__device__ __forceinline__ float gelu(float x) {
    constexpr float ROOT_HALF = 0.70710678118654752f;
    return 0.5f * x * (1.0f + erff(x * ROOT_HALF));
}

/// The rows of w (2 n, k) for a tile of GEGLU: half of each warp's columns are first
/// factors, the other half their gates, so that a lane holds both of an output.
template <class Tile> struct GegluRows {
    int first, n;
    __device__ __forceinline__ int operator()(int i) const {
        constexpr int WIDTH = Tile::WARP_COLUMNS, HALF = WIDTH / 2;
        const int column = first + i / WIDTH * HALF + i % HALF;
        return min(column, n - 1) + (i % WIDTH < HALF ? 0 : n);
    }
};

/// Replaces the first half of a warp's sums, at `column` of y, by the outputs.
template <class T, class Tile>
__device__ __forceinline__ void apply_geglu(Sums<Tile>& sums, const T* bias, int n, int column) {
    column += threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < Tile::ACROSS / 2; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const int at = min(column + 8 * j + e, n - 1);
            const float factor = bias ? to_f32(bias[at]) : 0.0f;
            const float gate = bias ? to_f32(bias[n + at]) : 0.0f;
#pragma unroll
            for (int i = 0; i < Tile::DOWN; ++i) {
                float(&x)[4] = sums[i][j];
                const float(&g)[4] = sums[i][j + Tile::ACROSS / 2];
                x[e] = (x[e] + factor) * gelu(g[e] + gate);
                x[e + 2] = (x[e + 2] + factor) * gelu(g[e + 2] + gate);
            }
        }
    }
}

template <class T, class Tile>
__device__ __forceinline__ void linear_geglu(const T* x, const T* w, const T* bias, T* y, int m,
                                             int n, int k) {
    const Position tile = position(), part = warp_part<Tile>();
    const int first = tile.column * (Tile::COLUMNS / 2), column = first + part.column / 2;
    MatrixRows<T, Tile, Tile::ROWS> rows(x, k, {0, k}, Clamped{tile.row * Tile::ROWS, m});
    MatrixRows<T, Tile, Tile::COLUMNS> columns(w, k, {0, k}, GegluRows<Tile>{first, n});
    Sums<Tile> sums = {};
    sum<T, Tile>(sums, rows, columns, ceil_div(k, Tile::DEPTH));
    apply_geglu<T, Tile>(sums, bias, n, column);
    const Output<T> output{y, nullptr, nullptr, nullptr, m, n, 1};
    write<Tile::ACROSS / 2, Tile>(sums, output, tile.row * Tile::ROWS + part.row, column);
}

/// Eight outputs of a thread: the sums over the splits, finished as by `finish`.
template <bool ALIGNED, class T>
__device__ __forceinline__ void reduce(const float* partial, const Output<T>& output, int splits) {
    const int across = ceil_div(output.n, 8), index = blockIdx.x * blockDim.x + threadIdx.x;
    const int row = index / across, column = index % across * 8;
    if (row >= output.m) return;
    const Eight<ALIGNED> eight{output.n - column};
    Ahead<T> ahead = {};
    if (ALIGNED) ahead = output.read_residual(row, column);
    float x[8];
    output.template read_common<ALIGNED>(row, column, true, x);
#pragma unroll 4
    for (int i = 0; i < splits; ++i) {
        eight.add(x, partial + (int64_t(i) * output.m + row) * output.n + column);
    }
    output.template write<ALIGNED>(row, column, true, x, ahead);
}

// ---- Kernels -------------------------------------------------------------------------

#define KERNEL(TILE)                                                                               \
    extern "C" __global__ void __launch_bounds__(Tile_##TILE::THREADS, Tile_##TILE::BLOCKS)
#define IN(T) const T* __restrict__
#define OUT(T) T* __restrict__

/// x (m, k), w (n, k), bias (n), residual and y (m, n), partial (splits, m, n).
#define LINEAR(T, TILE)                                                                            \
    KERNEL(TILE)                                                                                   \
    linear_##T##_##TILE(IN(T) x, IN(T) w, IN(T) bias, IN(T) residual, OUT(T) y,                    \
                        OUT(float) partial, int m, int n, int k, int splits) {                     \
        const Output<T> output{y, bias, nullptr, residual, m, n, 1};                               \
        linear<T, Tile_##TILE>(x, w, k, output, partial, splits);                                  \
    }

/// x (m, k), w (2 n, k), bias (2 n), y (m, n) = first half times GELU of the second
/// (GEGLU, arXiv 2002.05202).
#define LINEAR_GEGLU(T, TILE)                                                                      \
    KERNEL(TILE)                                                                                   \
    linear_geglu_##T##_##TILE(IN(T) x, IN(T) w, IN(T) bias, OUT(T) y, int m, int n, int k) {       \
        linear_geglu<T, Tile_##TILE>(x, w, bias, y, m, n, k);                                      \
    }

/// x (b, h, w, c), weight (n, side, side, c), bias (n), shift (b, n), residual and y
/// (b, oh, ow, n), partial (splits, b oh ow, n). x is enlarged to (up_h, up_w) by nearest
/// neighbour and padded with zeros: `before` rows and columns, and behind as needed.
#define CONV(T, TILE)                                                                              \
    KERNEL(TILE)                                                                                   \
    conv_##T##_##TILE(IN(T) x, IN(T) weight, IN(T) bias, IN(T) shift, IN(T) residual, OUT(T) y,    \
                      OUT(float) partial, int b, int h, int w, int c, int n, int oh, int ow,       \
                      int up_h, int up_w, int side, int stride, int before, int splits) {          \
        const Geometry of{b, h, w, c, oh, ow, up_h, up_w, side, stride, before};                   \
        const Output<T> output{y, bias, shift, residual, b * oh * ow, n, oh * ow};                 \
        conv<T, Tile_##TILE>(x, weight, of, output, partial, splits);                              \
    }

/// The sums of split products: partial (splits, m, n), bias (n), shift
/// (m / rows_per_shift, n), residual and y (m, n).
#define REDUCE(T)                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                              \
        reduce_##T(IN(float) partial, IN(T) bias, IN(T) shift, IN(T) residual, OUT(T) y, int m,    \
                   int n, int rows_per_shift, int splits) {                                        \
        const Output<T> output{y, bias, shift, residual, m, n, rows_per_shift};                    \
        if (n % 8 == 0) return reduce<true>(partial, output, splits);                              \
        reduce<false>(partial, output, splits);                                                    \
    }

#define KERNELS(T, TILE) LINEAR(T, TILE) LINEAR_GEGLU(T, TILE) CONV(T, TILE)
#define TYPE(T)                                                                                    \
    KERNELS(T, 256x128)                                                                            \
    KERNELS(T, 256x64)                                                                             \
    KERNELS(T, 128x128)                                                                            \
    KERNELS(T, 128x64)                                                                             \
    KERNELS(T, 64x64)                                                                              \
    REDUCE(T)

TYPE(f16)
TYPE(bf16)
