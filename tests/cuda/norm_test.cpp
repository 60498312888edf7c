// The kernels of norm.cu against the plain formulas.

#include "../../src/kernel/cuda/norm.cu"
#include "harness.h"

using namespace harness;

/// The kernels of a type.
template <class T> struct Kernels;
#define KERNELS(T, NAME)                                                                         \
    template <> struct Kernels<T> {                                                              \
        static constexpr auto whole = group_norm_whole_##NAME;                                   \
        static constexpr auto sums = group_norm_sums_##NAME;                                     \
        static constexpr auto apply = group_norm_apply_##NAME;                                   \
        static constexpr auto layer = layer_norm_##NAME;                                         \
    };
KERNELS(f16, f16)
KERNELS(bf16, bf16)
KERNELS(float, f32)

constexpr float EPS = 1e-5f;

double swish(double x) { return x / (1 + std::exp(-x)); }

/// Mean and inverse deviation of values.
struct Expected {
    double sum = 0, squares = 0, count = 0;

    void add(double x) { sum += x, squares += x * x, count += 1; }
    double mean() const { return sum / count; }
    double inverse() const { return 1 / std::sqrt(squares / count - mean() * mean() + EPS); }
};

/// A group norm and its arguments.
template <class T> struct GroupNorm {
    int b, pixels, channels, groups;
    bool silu;
    Tensor<T> x, y;
    Tensor<float> weight, bias;

    GroupNorm(int b, int pixels, int channels, int groups, bool silu, float mean)
        : b(b), pixels(pixels), channels(channels), groups(groups), silu(silu),
          x(Tensor<T>::random(size_t(b) * pixels * channels, 1, 1, mean)),
          y(size_t(b) * pixels * channels),
          weight(Tensor<float>::random(channels, 2, 1, 0.5)),
          bias(Tensor<float>::random(channels, 3)) {}

    int width() const { return channels / groups; }

    void whole(bool cached) const {
        const size_t shared = cached ? size_t(pixels) * width() * sizeof(T) : 0;
        emulation::launch({unsigned(groups), unsigned(b)}, {512}, shared, [&] {
            Kernels<T>::whole(x.data(), weight.data(), bias.data(), y.data(), pixels, channels,
                              groups, EPS, silu, cached);
        });
        check(cached ? "whole group norm, cached," : "whole group norm");
    }

    void sliced(int span, int slice) const {
        const unsigned slices = (pixels + slice - 1) / slice;
        const dim3 grid = {slices, unsigned(channels / span), unsigned(b)};
        const Tensor<float> sums(size_t(b) * groups * slices * 2);
        emulation::launch(grid, {256}, 0, [&] {
            Kernels<T>::sums(x.data(), (float2*)sums.data(), pixels, channels, groups, span, slice);
        });
        emulation::launch(grid, {256}, 0, [&] {
            Kernels<T>::apply(x.data(), (const float2*)sums.data(), weight.data(), bias.data(),
                              y.data(), pixels, channels, groups, span, slice, EPS, silu);
        });
        check("sliced group norm");
    }

    void check(const char* what) const {
        std::vector<Expected> moments(b * groups);
        const auto group = [&](size_t i) {
            return i / channels / pixels * groups + i % channels / width();
        };
        for (size_t i = 0; i < x.size(); ++i) moments[group(i)].add(x[i]);
        const auto want = [&](size_t i) {
            const Expected& of = moments[group(i)];
            const size_t channel = i % channels;
            const double y = (x[i] - of.mean()) * of.inverse() * weight[channel] + bias[channel];
            return silu ? swish(y) : y;
        };
        const std::string shape = text("%s of (%d, %d, %d), %d groups, silu %d,", what, b, pixels,
                                       channels, groups, silu);
        // The mean is exact to the rounding of f32.
        expect(shape, y, want, 4e-6 + 3e-7 * std::fabs(moments[0].mean()));
    }
};

template <class T> void group_norms(float mean) {
    for (int width : {1, 3, 10, 20, 30, 40, 60, 80}) {
        GroupNorm<T>(1, 13, 2 * width, 2, width % 20 == 0, mean).whole(true);
    }
    GroupNorm<T>(2, 13, 30, 3, true, mean).whole(true);
    GroupNorm<T>(2, 13, 30, 3, true, mean).whole(false);
    // Many rounds of a thread, and fewer values than threads.
    GroupNorm<T>(1, 700, 12, 2, true, mean).whole(true);
    GroupNorm<T>(1, 1, 8, 2, false, mean).whole(true);
    // span, and slices that end with and after the picture, of one round and of several
    GroupNorm<T>(2, 16, 16, 16, true, mean).sliced(8, 8);
    GroupNorm<T>(1, 31, 128, 32, true, mean).sliced(64, 16);
    GroupNorm<T>(2, 50, 160, 16, false, mean).sliced(80, 25);
    GroupNorm<T>(1, 101, 80, 4, true, mean).sliced(40, 51);
    GroupNorm<T>(1, 37, 240, 8, true, mean).sliced(120, 36);
    GroupNorm<T>(1, 20, 240, 6, false, mean).sliced(80, 7);
    GroupNorm<T>(1, 20, 240, 4, true, mean).sliced(120, 20);
    GroupNorm<T>(2, 9, 256, 4, false, mean).sliced(256, 4);
    GroupNorm<T>(1, 40, 80, 1, false, mean).sliced(80, 1);
}

template <class T> void layer_norm_of(int rows, int channels, unsigned threads, float mean) {
    const Tensor<T> x = Tensor<T>::random(size_t(rows) * channels, 1, 1, mean);
    const Tensor<T> y(x.size());
    const Tensor<float> weight = Tensor<float>::random(channels, 2, 1, 0.5);
    const Tensor<float> bias = Tensor<float>::random(channels, 3);
    const unsigned warps = threads / 32;
    emulation::launch({(rows + warps - 1) / warps}, {threads}, 0, [&] {
        Kernels<T>::layer(x.data(), weight.data(), bias.data(), y.data(), rows, channels, EPS);
    });

    std::vector<Expected> moments(rows);
    for (size_t i = 0; i < x.size(); ++i) moments[i / channels].add(x[i]);
    const auto want = [&](size_t i) {
        const Expected& of = moments[i / channels];
        const size_t channel = i % channels;
        return (x[i] - of.mean()) * of.inverse() * weight[channel] + bias[channel];
    };
    const std::string shape = text("layer norm of (%d, %d)", rows, channels);
    expect(shape, y, want, 4e-6 + 3e-7 * std::fabs(mean));
}

template <class T> void layer_norms(float mean) {
    // Every number of loads in registers, and rows too long or odd for them.
    for (int channels : {8, 320, 640, 768, 1024, 1280, 2048, 2560, 77, 1001}) {
        layer_norm_of<T>(5, channels, 128, mean);
        layer_norm_of<T>(2, channels, 32, mean);
    }
    layer_norm_of<T>(9, 320, 256, mean);
}

template <class T> void norms() {
    for (float mean : {0.0f, 30.0f}) {
        group_norms<T>(mean);
        layer_norms<T>(mean);
    }
}

int main() {
    emulation::every_schedule([] {
        norms<f16>();
        norms<bf16>();
        norms<float>();
    });
}
