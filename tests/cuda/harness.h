// What the emulated tests share: tensors, random values and comparison.
#pragma once

#include <cstdarg>
#include <random>
#include <string>

#include "../../src/kernel/cuda/device.cuh"

namespace harness {

/// The rounding of a type, relative.
template <class T> constexpr double EPSILON = 0x1p-24;
template <> constexpr double EPSILON<f16> = 0x1p-11;
template <> constexpr double EPSILON<bf16> = 0x1p-8;

template <class T> constexpr const char* NAME = "f32";
template <> constexpr const char* NAME<f16> = "f16";
template <> constexpr const char* NAME<bf16> = "bf16";

/// A tensor in memory whose end is guarded; NaN until it is filled.
template <class T> class Tensor {
  public:
    explicit Tensor(size_t count)
        : count_(count), pages_(std::make_shared<emulation::Pages>(count * sizeof(T))),
          data_((T*)pages_->last(count * sizeof(T), 16)) {}

    /// Uniformly random between -1 and 1, scaled and shifted; the same for each seed.
    static Tensor random(size_t count, unsigned seed, float scale = 1, float shift = 0) {
        Tensor tensor(count);
        std::minstd_rand bits(seed + 1);
        for (size_t i = 0; i < count; ++i) {
            const float uniform = float(bits() % 65536) / 32768 - 1;
            tensor.data_[i] = from_f32<T>(uniform * scale + shift);
        }
        return tensor;
    }

    size_t size() const { return count_; }
    T* data() const { return data_; }
    double operator[](size_t i) const { return to_f32(data_[i]); }

  private:
    size_t count_;
    std::shared_ptr<emulation::Pages> pages_;
    T* data_;
};

/// A text as printf writes it.
inline std::string text(const char* format, ...) {
    char buffer[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(buffer, sizeof buffer, format, arguments);
    va_end(arguments);
    return buffer;
}

/// Ends the program at the first value that is not `want(i)` to `ulps` roundings of its
/// type and an absolute error.
template <class T, class F>
void expect(const std::string& what, const Tensor<T>& got, F want, double absolute,
            double ulps = 1.01) {
    for (size_t i = 0; i < got.size(); ++i) {
        const double value = want(i);
        if (std::fabs(got[i] - value) <= absolute + ulps * EPSILON<T> * std::fabs(value)) continue;
        const auto [backwards, late] = emulation::schedule;
        fprintf(stderr, "%s %s: value %zu is %.9g, not %.9g (threads %s, copies %s)\n",
                what.c_str(), NAME<T>, i, got[i], value, backwards ? "backwards" : "forwards",
                late ? "late" : "early");
        exit(1);
    }
}

} // namespace harness
