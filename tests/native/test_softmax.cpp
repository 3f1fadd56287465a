// The CPU kernel on exactly sized buffers, against the formula written out in double precision; the
// GPU's kernels against that.
#include <cmath>
#include <vector>

#include "check.h"
#include "cpu/masked_softmax.h"
#include "cuda/masked_softmax.h"

using smoacs::Fault;
using smoacs::SoftmaxBatch;

namespace {

// Three sites in two crystals, two patterns; element z is allowed where (z + site + k) % 3 == 0.
template <typename T>
struct Case {
    static constexpr int kSites = 3, kCrystals = 2, kPatterns = 2;
    int elements;
    std::vector<T> logits, patterns{T(0.3), T(-0.2), T(0.1), T(0.4)}, temperature{T(0.5)};
    std::vector<std::uint32_t> allowed;
    std::vector<std::int64_t> ptr{0, 1, 3};

    explicit Case(int elements) : elements(elements) {
        const int words = (elements + 31) / 32;
        allowed.resize(kSites * kPatterns * words);
        for (int s = 0; s < kSites; ++s) {
            for (int z = 0; z < elements; ++z) {
                logits.push_back(T(std::sin(1.0 + s + 3.0 * z)));
                for (int k = 0; k < kPatterns; ++k) {
                    const auto bit = static_cast<std::uint32_t>(may(s, k, z)) << z % 32;
                    allowed[(s * kPatterns + k) * words + z / 32] |= bit;
                }
            }
        }
    }

    bool may(int s, int k, int z) const { return elements < 3 || (z + s + k) % 3 == 0; }

    SoftmaxBatch<T> batch() const {
        return {kSites,          kCrystals,      kPatterns,  elements,           logits.data(),
                patterns.data(), allowed.data(), ptr.data(), temperature.data(), 0};
    }

    double expected(int s, int z) const {
        const int c = s == 0 ? 0 : 1;
        double x = 0, q_total = 0;
        for (int k = 0; k < kPatterns; ++k) q_total += std::exp(patterns[c * 2 + k] / 0.5);
        for (int k = 0; k < kPatterns; ++k) {
            double total = 0;
            for (int y = 0; y < elements; ++y) {
                if (may(s, k, y)) total += std::exp(logits[s * elements + y] / 0.5);
            }
            if (may(s, k, z)) {
                x += std::exp(patterns[c * 2 + k] / 0.5) / q_total *
                     std::exp(logits[s * elements + z] / 0.5) / total;
            }
        }
        return x;
    }
};

template <typename T>
void matches_the_formula(double tolerance) {
    for (int elements : {1, 3, 32, 33, 98, 127, 128}) {
        const Case<T> given(elements);
        std::vector<T> x(3 * elements), q(4), gx(3 * elements, T(1)), gq(4, T(1)), dots(6),
            kept(3 * 4);
        std::vector<T> ga(3 * elements), gw(4);
        const auto fault =
            smoacs::cpu::masked_softmax(given.batch(), false, x.data(), q.data(), kept.data());
        CHECK(fault == smoacs::kNoFault);
        for (int s = 0; s < 3; ++s) {
            for (int z = 0; z < elements; ++z) {
                CHECK(std::fabs(x[s * elements + z] - given.expected(s, z)) < tolerance);
            }
        }
        // The sum of all probabilities is constant: its gradient vanishes, in both forms.
        for (bool paper : {false, true}) {
            smoacs::cpu::masked_softmax(given.batch(), paper, x.data(), q.data(), kept.data());
            smoacs::cpu::masked_softmax_backward(given.batch(), paper, x.data(), q.data(),
                                                 kept.data(), gx.data(), gq.data(), dots.data(),
                                                 ga.data(), gw.data());
            for (T g : ga) CHECK(std::fabs(g) < tolerance);
            for (T g : gw) CHECK(std::fabs(g) < 10 * tolerance);
        }
    }
}

void reports_the_smallest_fault() {
    Case<float> given(98);
    std::vector<float> x(3 * 98), q(4), kept(3 * 4);
    const auto run = [&] {
        return smoacs::cpu::masked_softmax(given.batch(), false, x.data(), q.data(), kept.data());
    };
    for (int w = 0; w < 4; ++w) given.allowed[(2 * 2 + 1) * 4 + w] = 0;
    CHECK(run() == smoacs::fault_at(Fault::no_element, 2 * 2 + 1));
    CHECK(std::isfinite(x[2 * 98 - 1]) && std::isnan(x[2 * 98]) && std::isnan(x[3 * 98 - 1]));
    given.logits[98 + 97] = std::nanf("");
    CHECK(run() == smoacs::fault_at(Fault::element_logit, 1));
    given.patterns[3] = std::nanf("");
    CHECK(run() == smoacs::fault_at(Fault::pattern_logit, 3));
    CHECK(std::isfinite(q[1]) && std::isnan(q[2]) && std::isnan(q[3]));
    given.temperature[0] = 0;
    CHECK(run() == smoacs::fault_at(Fault::temperature, 0));
}

// Results and gradients of 40 sites in crystals of all sizes, in one array.
template <typename T>
std::vector<T> run(int elements, int patterns, bool paper, bool on_gpu) {
    const std::vector<std::int64_t> ptr{0, 5, 5, 36, 40};
    const std::vector<T> temperature{T(0.01), T(0.1), T(0.2), T(1)};
    const int sites = 40, crystals = 4, words = (elements + 31) / 32;
    std::vector<T> logits(sites * elements), pattern_logits(crystals * patterns);
    std::vector<std::uint32_t> allowed(sites * patterns * words);
    for (std::size_t i = 0; i < logits.size(); ++i) logits[i] = T(std::sin(1 + 3.7 * i));
    for (std::size_t i = 0; i < pattern_logits.size(); ++i) {
        pattern_logits[i] = T(0.1 * std::sin(2 + 1.3 * i));
        if (patterns > 1 && i % 7 == 3) pattern_logits[i] = -smoacs::kInfinity<T>;
    }
    for (std::size_t i = 0; i < allowed.size(); ++i) {
        allowed[i] = static_cast<std::uint32_t>(i * 2654435761u) | 1u;
    }
    const SoftmaxBatch<T> batch{sites,
                                crystals,
                                patterns,
                                elements,
                                logits.data(),
                                pattern_logits.data(),
                                allowed.data(),
                                ptr.data(),
                                temperature.data(),
                                1};
    std::vector<T> x(sites * elements), q(crystals * patterns), kept(sites * (patterns + 2)),
        dots(sites * patterns), gx(x.size()), gq(q.size()), ga(x.size()), gw(q.size());
    for (std::size_t i = 0; i < gx.size(); ++i) gx[i] = T(std::cos(0.3 * i));
    for (std::size_t i = 0; i < gq.size(); ++i) gq[i] = T(std::cos(0.7 * i));
    if (on_gpu) {
        smoacs::cuda::masked_softmax(batch, paper, x.data(), q.data(), kept.data(), 0);
        smoacs::cuda::masked_softmax_backward(batch, paper, x.data(), q.data(), kept.data(),
                                              gx.data(), gq.data(), dots.data(), ga.data(),
                                              gw.data(), 0);
    } else {
        CHECK(smoacs::cpu::masked_softmax(batch, paper, x.data(), q.data(), kept.data()) ==
              smoacs::kNoFault);
        smoacs::cpu::masked_softmax_backward(batch, paper, x.data(), q.data(), kept.data(),
                                             gx.data(), gq.data(), dots.data(), ga.data(),
                                             gw.data());
    }
    for (const auto* more : {&q, &ga, &gw}) x.insert(x.end(), more->begin(), more->end());
    return x;
}

template <typename T>
void a_gpu_gives_the_same_bits() {
    for (const int elements : {1, 33, 98, 127}) {
        for (const int patterns : {1, 3, 20}) {
            for (const bool paper : {false, true}) {
                CHECK(run<T>(elements, patterns, paper, true) ==
                      run<T>(elements, patterns, paper, false));
            }
        }
    }
}

}  // namespace

int main() {
    matches_the_formula<float>(1e-6);
    matches_the_formula<double>(1e-14);
    reports_the_smallest_fault();
    a_gpu_gives_the_same_bits<float>();
    a_gpu_gives_the_same_bits<double>();
}
