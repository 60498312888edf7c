// The kernels of rows.cu against the plain formula.

#include "../../src/kernel/cuda/rows.cu"
#include "harness.h"

using namespace harness;

template <class T> struct Kernel;
template <> struct Kernel<f16> { static constexpr auto of = linear_rows_f16; };
template <> struct Kernel<bf16> { static constexpr auto of = linear_rows_bf16; };
template <> struct Kernel<float> { static constexpr auto of = linear_rows_f32; };

/// A layer, with a bias and a residual if `full`.
template <class T> void layer(int m, int n, int k, bool full) {
    const Tensor<T> x = Tensor<T>::random(size_t(m) * k, 1), w = Tensor<T>::random(size_t(n) * k, 2);
    const Tensor<T> bias = Tensor<T>::random(n, 3), residual = Tensor<T>::random(size_t(m) * n, 4);
    const Tensor<T> y(size_t(m) * n);
    emulation::launch({unsigned(n + 7) / 8}, {256}, 0, [&] {
        Kernel<T>::of(x.data(), w.data(), full ? bias.data() : nullptr,
                      full ? residual.data() : nullptr, y.data(), m, n, k);
    });
    const auto want = [&](size_t i) {
        double sum = full ? bias[i % n] + residual[i] : 0;
        for (int j = 0; j < k; ++j) sum += x[i / n * k + j] * w[i % n * k + j];
        return sum;
    };
    expect(text("%d rows of %d to %d", m, k, n), y, want, 1e-6 * std::sqrt(double(k)));
}

template <class T> void layers() {
    for (int m : {1, 2, 5, 8}) {
        layer<T>(m, 1, 8, true);
        layer<T>(m, 19, 264, false);
        layer<T>(m, 40, 1280, true);
    }
}

int main() {
    emulation::every_schedule([] {
        layers<f16>();
        layers<bf16>();
        layers<float>();
    });
    puts("linear layers of few rows are the plain formula");
}
