// Linear layers, GEGLU and convolutions of gemm.cu against the plain formulas: every tile,
// both types, sizes that are no multiples of tiles, every combination of absent tensors,
// and splits that begin anywhere in k.
#include "harness.h"

#include "../../src/kernel/cuda/gemm.cu"

using emulation::launch;
using harness::expect;
using harness::Tensor;
using harness::text;

namespace {

/// The error of sums in f32.
constexpr double SUMS = 2e-5;

/// Every schedule for one type; the types share all that schedules differ in.
template <class T, class F> void schedules(F test) {
    if (std::is_same<T, f16>::value) emulation::every_schedule(test);
    else test();
}

template <class T> struct Kernels {
    const char* tile;
    unsigned rows, columns, threads, shared;
    void (*linear)(const T*, const T*, const T*, const T*, T*, float*, int, int, int, int);
    void (*geglu)(const T*, const T*, const T*, T*, int, int, int);
    void (*conv)(const T*, const T*, const T*, const T*, const T*, T*, float*, int, int, int, int, int, int, int, int,
                 int, int, int, int, int);

    /// The grid for an output of m rows and n columns.
    dim3 grid(int m, int n, int splits) const {
        return {(n + columns - 1) / columns, (m + rows - 1) / rows, unsigned(splits)};
    }
};

#define TILE_OF(T, TILE)                                                                                     \
    {                                                                                                        \
        #TILE, Tile_##TILE::ROWS, Tile_##TILE::COLUMNS, Tile_##TILE::THREADS, Tile_##TILE::SHARED,           \
            linear_##T##_##TILE, linear_geglu_##T##_##TILE, conv_##T##_##TILE                                \
    }
#define TILES_OF(T) TILE_OF(T, 256x128), TILE_OF(T, 256x64), TILE_OF(T, 128x128), TILE_OF(T, 128x64), TILE_OF(T, 64x64)

template <class T> const std::vector<Kernels<T>> KERNELS_OF;
template <> const std::vector<Kernels<f16>> KERNELS_OF<f16> = {TILES_OF(f16)};
template <> const std::vector<Kernels<bf16>> KERNELS_OF<bf16> = {TILES_OF(bf16)};

void reduce_kernel(const float* partial, const f16* bias, const f16* shift, const f16* residual, f16* y, int m, int n,
                   int per_shift, int splits) {
    reduce_f16(partial, bias, shift, residual, y, m, n, per_shift, splits);
}
void reduce_kernel(const float* partial, const bf16* bias, const bf16* shift, const bf16* residual, bf16* y, int m,
                   int n, int per_shift, int splits) {
    reduce_bf16(partial, bias, shift, residual, y, m, n, per_shift, splits);
}

/// A tensor that may be absent.
template <class T> struct Maybe {
    bool present;
    Tensor<T> tensor;
    const T* data() const { return present ? tensor.data() : nullptr; }
    double operator[](size_t i) const { return present ? tensor[i] : 0; }
};

/// What an epilogue adds: bias (n), shift (m / rows_per_shift, n), residual (m, n).
template <class T> struct Added {
    int m, n, rows_per_shift;
    Maybe<T> bias, shift, residual;

    Added(int m, int n, int rows_per_shift, bool has_bias, bool has_shift, bool has_residual)
        : m(m), n(n), rows_per_shift(rows_per_shift), bias{has_bias, Tensor<T>::random(n, 3)},
          shift{has_shift, Tensor<T>::random(m / rows_per_shift * n, 4)},
          residual{has_residual, Tensor<T>::random(size_t(m) * n, 5)} {}

    /// To the products, of which `sum` gives one.
    template <class F> std::vector<double> to(F sum) const {
        std::vector<double> y(size_t(m) * n);
        for (int i = 0; i < m; ++i) {
            for (int j = 0; j < n; ++j) {
                y[i * n + j] = sum(i, j) + bias[j] + shift[i / rows_per_shift * n + j] + residual[i * n + j];
            }
        }
        return y;
    }

    /// The second step of a product in splits.
    void reduce(const Tensor<float>& partial, const Tensor<T>& y, int splits) const {
        const unsigned eights = m * ((n + 7) / 8);
        launch({(eights + 255) / 256}, {256}, 0, [&] {
            reduce_kernel(partial.data(), bias.data(), shift.data(), residual.data(), y.data(), m, n, rows_per_shift,
                          splits);
        });
    }
};

struct LinearCase {
    int m, n, k, splits;
    bool bias, residual;
};

const LinearCase LINEAR[] = {
    {1, 1, 8, 1, false, false},    {1, 40, 64, 1, true, false},    {77, 72, 40, 1, true, true},
    {130, 136, 72, 1, true, true}, {257, 130, 96, 1, false, true}, {65, 4, 328, 3, true, true},
    {64, 64, 256, 2, true, true},  {3, 80, 64, 5, false, false},   {33, 21, 200, 4, true, false},
    {700, 72, 16, 1, true, false},
};

template <class T> void test_linear(const LinearCase& of) {
    const auto [m, n, k, splits, has_bias, has_residual] = of;
    const auto x = Tensor<T>::random(size_t(m) * k, 1), w = Tensor<T>::random(size_t(n) * k, 2, 0.2f);
    const Added<T> added(m, n, m, has_bias, false, has_residual);
    const auto want = added.to([&, k = k](int i, int j) {
        double sum = 0;
        for (int at = 0; at < k; ++at) sum += x[i * k + at] * w[j * k + at];
        return sum;
    });
    for (const auto& kernels : KERNELS_OF<T>) {
        schedules<T>([&, m = m, n = n, k = k, splits = splits] {
            const Tensor<T> y(size_t(m) * n);
            const Tensor<float> partial(splits > 1 ? size_t(splits) * m * n : 0);
            launch(kernels.grid(m, n, splits), {kernels.threads}, kernels.shared, [&] {
                kernels.linear(x.data(), w.data(), added.bias.data(), added.residual.data(), y.data(),
                               partial.data(), m, n, k, splits);
            });
            if (splits > 1) added.reduce(partial, y, splits);
            const auto what = text("linear %s, m %d, n %d, k %d, splits %d", kernels.tile, m, n, k, splits);
            expect(what, y, [&](size_t i) { return want[i]; }, SUMS);
        });
    }
}

struct GegluCase {
    int m, n, k;
    bool bias;
};

const GegluCase GEGLU[] = {{1, 8, 8, true}, {70, 40, 72, true}, {129, 136, 96, false}, {66, 67, 32, true}};

template <class T> void test_geglu(const GegluCase& of) {
    const auto [m, n, k, has_bias] = of;
    const auto x = Tensor<T>::random(size_t(m) * k, 1), w = Tensor<T>::random(size_t(2 * n) * k, 2, 0.3f);
    const Maybe<T> bias{has_bias, Tensor<T>::random(2 * n, 3)};
    std::vector<double> want;
    const auto linear = [&, k = k](int i, int j) {
        double sum = bias[j];
        for (int at = 0; at < k; ++at) sum += x[i * k + at] * w[j * k + at];
        return sum;
    };
    for (int i = 0; i < m; ++i) {
        for (int j = 0; j < n; ++j) {
            const double gate = linear(i, n + j);
            want.push_back(linear(i, j) * 0.5 * gate * (1 + std::erf(gate / std::sqrt(2.0))));
        }
    }
    for (const auto& kernels : KERNELS_OF<T>) {
        schedules<T>([&, m = m, n = n, k = k] {
            const Tensor<T> y(size_t(m) * n);
            launch(kernels.grid(m, 2 * n, 1), {kernels.threads}, kernels.shared,
                   [&] { kernels.geglu(x.data(), w.data(), bias.data(), y.data(), m, n, k); });
            const auto what = text("linear_geglu %s, m %d, n %d, k %d", kernels.tile, m, n, k);
            expect(what, y, [&](size_t i) { return want[i]; }, 10 * SUMS);
        });
    }
}

struct ConvCase {
    int b, h, w, c, n, oh, ow, up_h, up_w, side, stride, before, splits;
    bool bias, shift, residual;
};

const ConvCase CONV[] = {
    // Keeps the size: channels less than a stage, a multiple of it, and neither.
    {1, 5, 7, 8, 4, 5, 7, 5, 7, 3, 1, 1, 1, true, false, false},
    {2, 9, 8, 32, 40, 9, 8, 9, 8, 3, 1, 1, 1, true, true, true},
    {2, 6, 11, 40, 72, 6, 11, 6, 11, 3, 1, 1, 1, false, true, false},
    {1, 17, 16, 72, 9, 17, 16, 17, 16, 3, 1, 1, 3, true, true, true},
    {2, 9, 8, 64, 72, 9, 8, 9, 8, 3, 1, 1, 1, true, false, true},
    {1, 6, 5, 128, 16, 6, 5, 6, 5, 3, 1, 1, 4, true, true, false},
    // A stride, padded on both sides and behind only.
    {2, 8, 10, 24, 16, 4, 5, 8, 10, 3, 2, 1, 1, true, false, true},
    {1, 9, 8, 32, 24, 4, 4, 9, 8, 3, 2, 0, 2, true, false, false},
    // Enlarged to twice, and to odd sizes.
    {1, 4, 5, 32, 24, 8, 10, 8, 10, 3, 1, 1, 1, true, false, false},
    {2, 3, 5, 16, 8, 7, 11, 7, 11, 3, 1, 1, 4, true, true, true},
    // One pixel wide.
    {2, 7, 5, 64, 72, 7, 5, 7, 5, 1, 1, 0, 1, true, false, true},
    {3, 1, 1, 8, 8, 1, 1, 1, 1, 3, 1, 1, 2, false, true, false},
};

/// The index before enlarging, as PyTorch rounds it.
int nearest(int i, int from, int to) {
    const float scale = float(from) / float(to);
    return std::min(int(float(i) * scale), from - 1);
}

template <class T> double convolved(const ConvCase& of, const Tensor<T>& x, const Tensor<T>& w, int pixel, int j) {
    const int picture = pixel / (of.oh * of.ow), oy = pixel / of.ow % of.oh, ox = pixel % of.ow;
    double sum = 0;
    for (int tap = 0; tap < of.side * of.side; ++tap) {
        const int y = oy * of.stride - of.before + tap / of.side, x_ = ox * of.stride - of.before + tap % of.side;
        if (y < 0 || y >= of.up_h || x_ < 0 || x_ >= of.up_w) continue;
        const int from = (picture * of.h + nearest(y, of.h, of.up_h)) * of.w + nearest(x_, of.w, of.up_w);
        for (int i = 0; i < of.c; ++i) sum += x[from * of.c + i] * w[(j * of.side * of.side + tap) * of.c + i];
    }
    return sum;
}

template <class T> void test_conv(const ConvCase& of) {
    const int m = of.b * of.oh * of.ow, n = of.n, k = of.side * of.side * of.c;
    const auto x = Tensor<T>::random(of.b * of.h * of.w * of.c, 1), w = Tensor<T>::random(n * k, 2, 0.2f);
    const Added<T> added(m, n, of.oh * of.ow, of.bias, of.shift, of.residual);
    const auto want = added.to([&](int pixel, int j) { return convolved(of, x, w, pixel, j); });
    for (const auto& kernels : KERNELS_OF<T>) {
        schedules<T>([&] {
            const Tensor<T> y(m * n);
            const Tensor<float> partial(of.splits > 1 ? of.splits * m * n : 0);
            launch(kernels.grid(m, n, of.splits), {kernels.threads}, kernels.shared, [&] {
                kernels.conv(x.data(), w.data(), added.bias.data(), added.shift.data(), added.residual.data(),
                             y.data(), partial.data(), of.b, of.h, of.w, of.c, n, of.oh, of.ow, of.up_h, of.up_w,
                             of.side, of.stride, of.before, of.splits);
            });
            if (of.splits > 1) added.reduce(partial, y, of.splits);
            const auto what =
                text("conv %s, (%d, %d, %d, %d) to (%d, %d), n %d, side %d, stride %d, splits %d", kernels.tile, of.b,
                     of.h, of.w, of.c, of.oh, of.ow, n, of.side, of.stride, of.splits);
            expect(what, y, [&](size_t i) { return want[i]; }, SUMS);
        });
    }
}

/// Numbers of parts of the sums, which begin at every tap and at many channels, more than
/// there are stages among them.
const int SPLITS[] = {2, 3, 5, 6, 8, 12};

template <class T> void test_splits() {
    for (const int splits : SPLITS) {
        for (const int k : {8, 72, 200}) test_linear<T>({5, 16, k, splits, true, false});
        // All taps of a stage's channels in turn, if that many divide the channels.
        for (const int c : {64, 96, 192}) {
            test_conv<T>({1, 3, 4, c, 8, 3, 4, 3, 4, 3, 1, 1, splits, true, false, false});
        }
        test_conv<T>({1, 5, 4, 128, 8, 3, 2, 5, 4, 3, 2, 1, splits, false, true, false});
        // Tap by tap: stages of two taps, an enlarged picture, a single tap.
        test_conv<T>({1, 3, 4, 40, 8, 3, 4, 3, 4, 3, 1, 1, splits, true, false, false});
        test_conv<T>({1, 2, 3, 64, 8, 4, 6, 4, 6, 3, 1, 1, splits, false, false, true});
        test_conv<T>({1, 3, 4, 200, 8, 3, 4, 3, 4, 1, 1, 0, splits, true, false, false});
    }
}

template <class T> void test() {
    for (const auto& of : LINEAR) test_linear<T>(of);
    for (const auto& of : GEGLU) test_geglu<T>(of);
    for (const auto& of : CONV) test_conv<T>(of);
}

} // namespace

int main() {
    test<f16>();
    test<bf16>();
    test_splits<bf16>();
    if (emulation::bank_conflicts() > 0) {
        fprintf(stderr, "%zu bank conflicts\n", emulation::bank_conflicts());
        return 1;
    }
}
