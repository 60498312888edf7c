// The kernels of attention.cu against the plain formulas.

#include "../../src/kernel/cuda/attention.cu"
#include "harness.h"

using namespace harness;

/// The kernels of a type and a width, and the bytes of shared memory in the table of
/// attention.cu.
template <class T, int D> struct Kernels;
#define WIDTH_KERNELS(T, NAME, D, SHARED, MAPS_SHARED)                                           \
    template <> struct Kernels<T, D> {                                                           \
        static constexpr auto q64 = attention_##NAME##_d##D##_q64;                               \
        static constexpr auto maps = attention_maps_##NAME##_d##D;                               \
        static constexpr size_t q64_shared = SHARED, maps_shared = MAPS_SHARED;                  \
    };
#define KERNELS(T, NAME)                                                                         \
    WIDTH_KERNELS(T, NAME, 40, 25600, 15360)                                                     \
    WIDTH_KERNELS(T, NAME, 64, 46080, 27648)                                                     \
    WIDTH_KERNELS(T, NAME, 80, 56320, 33792)                                                     \
    WIDTH_KERNELS(T, NAME, 128, 87040, 52224)                                                    \
    WIDTH_KERNELS(T, NAME, 160, 107520, 64512)
KERNELS(f16, f16)
KERNELS(bf16, bf16)

/// The same of the kernels whose warps have 32 queries.
template <class T, int D, int QUERIES> struct Wide;
#define WIDE(T, NAME, D, QUERIES, SHARED)                                                        \
    template <> struct Wide<T, D, QUERIES> {                                                     \
        static constexpr auto kernel = attention_##NAME##_d##D##_q##QUERIES;                     \
        static constexpr size_t shared = SHARED;                                                 \
    };
#define WIDE_KERNELS(T, NAME)                                                                    \
    WIDE(T, NAME, 40, 128, 30720)                                                                \
    WIDE(T, NAME, 64, 96, 50688)                                                                 \
    WIDE(T, NAME, 64, 128, 55296)                                                                \
    WIDE(T, NAME, 64, 160, 59904)
WIDE_KERNELS(f16, f16)
WIDE_KERNELS(bf16, bf16)

enum class Mode { FULL, CAUSAL, FIRST_ROWS_MAPS };

/// An attention operation and its arguments. Keys and values are interleaved in rows of
/// one tensor, as a joint product of both writes them.
template <class T, int D> struct Attention {
    int b, heads, n, m;
    Mode mode;
    float scale;
    Tensor<T> q, kv, y;

    /// The larger `range`, the more the scores differ.
    Attention(int b, int heads, int n, int m, Mode mode, float range)
        : b(b), heads(heads), n(n), m(m), mode(mode), scale(1 / std::sqrt(float(D))),
          q(Tensor<T>::random(size_t(b) * n * heads * D, 1, range)),
          kv(Tensor<T>::random(size_t(b) * m * 2 * heads * D, 2)),
          y(size_t(b) * n * heads * D) {}

    int width() const { return heads * D; }

    template <class K> void run(K kernel, int queries, int threads, size_t shared) const {
        const dim3 grid = {unsigned((n + queries - 1) / queries), unsigned(heads), unsigned(b)};
        const bool first = mode == Mode::FIRST_ROWS_MAPS;
        const int64_t row = width(), q_batch = n * row, kv_batch = 2 * m * row;
        emulation::launch(grid, {unsigned(threads)}, shared, [&] {
            kernel(q.data(), kv.data(), kv.data() + row, y.data(), n, m, first ? 0 : q_batch, row,
                   first ? 0 : kv_batch, 2 * row, kv_batch, 2 * row, q_batch, row, scale,
                   mode == Mode::CAUSAL);
        });
        check(text("attention by %d queries", queries));
    }

    void maps() const {
        const Tensor<T> maps(size_t(b) * heads * n * m);
        const dim3 grid = {unsigned((n + 63) / 64), unsigned(heads), unsigned(b)};
        const int64_t row = width();
        emulation::launch(grid, {128}, Kernels<T, D>::maps_shared, [&] {
            Kernels<T, D>::maps(q.data(), kv.data(), maps.data(), n, m, n * row, row, 2 * m * row,
                                2 * row, scale);
        });
        const std::vector<double> want = plain_maps();
        expect(name("attention maps"), maps, [&](size_t i) { return want[i]; }, 1e-6);
    }

    /// (b, heads, n, m)
    std::vector<double> plain_maps() const {
        std::vector<double> maps;
        for (int i = 0; i < b * heads * n; ++i) {
            const int query = i % n, head = i / n % heads;
            const int batch = mode == Mode::FIRST_ROWS_MAPS ? 0 : i / n / heads;
            const int visible = mode == Mode::CAUSAL ? query + 1 : m;
            double row[1024], sum = 0;
            for (int key = 0; key < visible; ++key) {
                double score = 0;
                for (int c = head * D; c < (head + 1) * D; ++c) {
                    score += q[size_t(batch * n + query) * width() + c] *
                             kv[size_t(batch * m + key) * 2 * width() + c];
                }
                sum += row[key] = std::exp(score * scale);
            }
            for (int key = 0; key < m; ++key) maps.push_back(key < visible ? row[key] / sum : 0);
        }
        return maps;
    }

    void check(const std::string& what) const {
        const std::vector<double> maps = plain_maps();
        const auto want = [&](size_t i) {
            const size_t c = i % width(), query = i / width() % n, batch = i / width() / n;
            const size_t map = ((batch * heads + c / D) * n + query) * m;
            double sum = 0;
            for (int key = 0; key < m; ++key) {
                sum += maps[map + key] * kv[(batch * m + key) * 2 * width() + width() + c];
            }
            return sum;
        };
        // The weights are rounded to T, and add up to 1; the values are at most 1.
        expect(name(what), y, want, EPSILON<T>);
    }

    std::string name(const std::string& what) const {
        return text("%s of %d x %d x %d to %d, width %d, mode %d,", what.c_str(), b, heads, n, m,
                    D, int(mode));
    }
};

/// Shapes: one and several tiles, whole and cut; one query and one key; the 77 tokens of
/// a prompt. Ranges: scores that differ little, and those of which few count.
template <class T, int D, class F> void shapes(F run) {
    run(Attention<T, D>(1, 1, 1, 1, Mode::FULL, 1));
    run(Attention<T, D>(2, 2, 70, 77, Mode::FULL, 4));
    run(Attention<T, D>(1, 1, 5, 192, Mode::FULL, 30));
    run(Attention<T, D>(1, 2, 77, 77, Mode::CAUSAL, 8));
    run(Attention<T, D>(1, 1, 131, 131, Mode::CAUSAL, 1));
    run(Attention<T, D>(3, 1, 17, 33, Mode::FIRST_ROWS_MAPS, 4));
}

template <class T, int D> void narrow() {
    shapes<T, D>([](const Attention<T, D>& of) {
        of.run(Kernels<T, D>::q64, 64, 128, Kernels<T, D>::q64_shared);
        if (of.mode == Mode::FULL) of.maps();
    });
}

template <class T, int D, int QUERIES> void wide() {
    shapes<T, D>([](const Attention<T, D>& of) {
        of.run(Wide<T, D, QUERIES>::kernel, QUERIES, QUERIES, Wide<T, D, QUERIES>::shared);
    });
}

template <class T> void widths() {
    narrow<T, 40>();
    narrow<T, 64>();
    narrow<T, 80>();
    narrow<T, 128>();
    narrow<T, 160>();
    wide<T, 40, 128>();
    wide<T, 64, 96>();
    wide<T, 64, 128>();
    wide<T, 64, 160>();
}

int main() {
    emulation::every_schedule([] {
        widths<f16>();
        widths<bf16>();
    });
    if (emulation::bank_conflicts() > 0) emulation::fail("matrix loads have bank conflicts");
}
