// The Gaussians of an evenly spaced row that count at one place.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>

#include "core/macros.h"
#include "core/math.h"
#include "cpu/buffer.h"
#include "cpu/heads.h"

namespace smoacs::cpu {

// Gaussians at a time, as many as fill the widest register.
template <typename T>
constexpr int kStep = 64 / sizeof(T);

// A window of those that there are, and of some more past the end if there are too few.
template <typename T>
class GaussianWindow {
  public:
    // Throws std::invalid_argument if the centers do not ascend by even steps.
    GaussianWindow(const T* centers, std::int64_t n, T width) {
        const T spacing = n > 1 ? (centers[n - 1] - centers[0]) / T(n - 1) : width;
        for (std::int64_t k = 0; k < n; ++k) {
            const T expected = centers[0] + T(k) * spacing;
            if (!(spacing > 0 && std::fabs(centers[k] - expected) < T(1e-3) * spacing)) {
                throw std::invalid_argument("centers must ascend by even steps");
            }
        }
        // Beyond, they count as nothing.
        const double reach = std::sqrt(-2 * kLeastPower<T> / kLog2E) * width;
        const auto whole_steps = [](double k) {
            return static_cast<std::int64_t>(std::ceil(k / kStep<T>)) * kStep<T>;
        };
        size_ = whole_steps(std::min(2 * reach / spacing, static_cast<double>(n)));
        n_ = std::max(n, size_);
        per_spacing_ = 1 / spacing;
        before_ = T(size_ / 2 - 1);
        last_ = T(n_ - size_);
        power_ = static_cast<T>(-0.5 * kLog2E / (double(width) * width));
        centers_.resize(n_);
        std::copy_n(centers, n, centers_.data());
        for (std::int64_t k = n; k < n_; ++k) centers_[k] = centers_[k - 1] + spacing;
    }

    std::int64_t n_functions() const { return n_; }
    std::int64_t size() const { return size_; }

    // First function; at least size / 2 spacings away from those left out.
    SMOACS_HD std::int64_t first(T length) const {
        const T from = (length - centers_[0]) * per_spacing_ - before_;
        return static_cast<std::int64_t>(from > 0 ? (from < last_ ? from : last_) : T(0));
    }

    // Their values, and these times the distance of centre and length.
    SMOACS_HD void values(std::int64_t first, T length, T* basis, T* moments) const {
        const T* const centers = centers_.data() + first;
        const T power = power_;
        for (std::int64_t k = 0; k < size_; k += kStep<T>) {
            SMOACS_INDEPENDENT
            for (int j = 0; j < kStep<T>; ++j) {
                const T away = centers[k + j] - length;
                const T value = exp2_or_nothing(power * (away * away));
                basis[k + j] = value;
                moments[k + j] = value * away;
            }
        }
    }

  private:
    std::int64_t n_, size_;
    T per_spacing_, before_, last_, power_;
    Buffer<T> centers_;
};

}  // namespace smoacs::cpu
