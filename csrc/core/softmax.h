// The masked temperature softmax, one site or one crystal at a time; shared by CPU and GPU.
//
//     p[k,:] = softmax_z of the logits that pattern k allows, over T      q = softmax_k(w / T)
//     exact: x = sum_k q[k] p[k,:]
//     paper: masked logits are 0, all logits at least 1e-6, x = softmax_z(sum_k q[k] p[k,:] / T)
//
// A pattern whose logit w is minus infinity is padding: it has weight 0 and its mask is not read.
#pragma once

#include <cstdint>
#include <limits>

#include "core/macros.h"
#include "core/math.h"
#include "core/row.h"

namespace smoacs {

template <typename T>
constexpr T kInfinity = std::numeric_limits<T>::infinity();

// The paper's lower bound on logits: a masked one counts as 0, below all others.
constexpr double kPaperFloor = 1e-6;

// Arrays of a batch: S sites in C crystals, K patterns, Z elements, W = ceil(Z / 32).
template <typename T>
struct SoftmaxBatch {
    std::int64_t n_sites, n_crystals;
    int n_patterns, n_elements;
    const T* element_logits;       // (S, Z)
    const T* pattern_logits;       // (C, K)
    const std::uint32_t* allowed;  // (S, K, W), bit z % 32 of word z / 32
    const std::int64_t* ptr;       // (C + 1)
    const T* temperature;          // (C) or, with stride 0, one for all
    std::int64_t temperature_stride;
};

template <typename T>
SMOACS_HD int n_words(const SoftmaxBatch<T>& batch) {
    return (batch.n_elements + kLanes - 1) / kLanes;
}

// What is wrong with the input, if anything: the kind in the top byte, where in the rest. The
// smallest of several is reported, so that the answer does not depend on the order of work.
enum class Fault : std::int64_t {
    offsets,
    temperature,
    pattern_logit,
    no_pattern,
    element_logit,
    no_element
};
constexpr std::int64_t kNoFault = std::numeric_limits<std::int64_t>::max();

SMOACS_HD std::int64_t fault_at(Fault kind, std::int64_t index) {
    return (static_cast<std::int64_t>(kind) << 56) + index;
}

// Whether crystal c's offsets are in order; the first and last also bound all sites.
template <typename T>
SMOACS_HD bool offsets_fit(const SoftmaxBatch<T>& batch, std::int64_t c) {
    const std::int64_t first = batch.ptr[c], last = batch.ptr[c + 1];
    return first <= last && (c > 0 || first == 0) &&
           (c + 1 < batch.n_crystals || last == batch.n_sites);
}

template <typename T>
SMOACS_HD bool is_padding(T pattern_logit) {
    return pattern_logit == -kInfinity<T>;
}

template <typename T>
SMOACS_HD bool is_finite(T value) {
    return value - value == T(0);
}

// Logit that the softmax sees.
template <bool Paper, typename T>
SMOACS_HD T floored(T logit) {
    return Paper && logit < T(kPaperFloor) ? T(kPaperFloor) : logit;
}

// --- One crystal ---------------------------------------------------------------------------------

// q = softmax(w / T) of crystal c.
template <bool Paper, typename T>
SMOACS_HD std::int64_t pattern_weights(const SoftmaxBatch<T>& batch, std::int64_t c, T* weights) {
    const int n = batch.n_patterns;
    const T* logits = batch.pattern_logits + c * n;
    T* q = weights + c * n;
    const T temperature = batch.temperature[c * batch.temperature_stride];
    const T inverse = T(1) / temperature;
    if (!(temperature > T(0)) || !(inverse > T(0)) || !is_finite(inverse)) {
        return fault_at(Fault::temperature, c);
    }
    T top = -kInfinity<T>;
    for (int k = 0; k < n; ++k) {
        if (is_padding(logits[k])) continue;
        if (!is_finite(logits[k])) return fault_at(Fault::pattern_logit, c * n + k);
        const T logit = floored<Paper>(logits[k]);
        top = logit > top ? logit : top;
    }
    if (is_padding(top)) return fault_at(Fault::no_pattern, c);
    T total = 0;
    for (int k = 0; k < n; ++k) {
        q[k] = is_padding(logits[k]) ? T(0)
                                     : exp_nonpositive((floored<Paper>(logits[k]) - top) * inverse);
        total += q[k];
    }
    for (int k = 0; k < n; ++k) q[k] /= total;
    return kNoFault;
}

// Gradient to w of crystal c. `dots` (S, K) holds <dL/dx_n, p[n,k,:]> of every site.
template <bool Paper, typename T>
SMOACS_HD void pattern_gradient(const SoftmaxBatch<T>& batch, std::int64_t c, const T* weights,
                                const T* dots, const T* grad_weights, T* grad_logits) {
    const int n = batch.n_patterns;
    const T* q = weights + c * n;
    const T* logits = batch.pattern_logits + c * n;
    T* grad = grad_logits + c * n;
    const T inverse = T(1) / batch.temperature[c * batch.temperature_stride];
    T mean = 0;
    for (int k = 0; k < n; ++k) {
        T slope = grad_weights[c * n + k];
        for (std::int64_t s = batch.ptr[c]; s < batch.ptr[c + 1]; ++s) slope += dots[s * n + k];
        grad[k] = slope;
        mean += q[k] * slope;
    }
    for (int k = 0; k < n; ++k) {
        const bool held = q[k] == T(0) || (Paper && logits[k] < T(kPaperFloor));
        grad[k] = held ? T(0) : q[k] * (grad[k] - mean) * inverse;
    }
}

// --- One site: the lanes share the elements ------------------------------------------------------

template <typename T, bool Paper>
struct SoftmaxSite {
    const SoftmaxBatch<T>& batch;
    const std::int64_t site;
    const T* const pattern_logits;       // (K) of the site's crystal
    const T* const weights;              // (K)
    const std::uint32_t* const allowed;  // (K, W)
    const T inverse;                     // 1 / T
    Row<T> logits;

    SMOACS_LANES SoftmaxSite(const SoftmaxBatch<T>& batch, std::int64_t site, std::int64_t crystal,
                             const T* weights)
        : batch(batch),
          site(site),
          pattern_logits(batch.pattern_logits + crystal * batch.n_patterns),
          weights(weights + crystal * batch.n_patterns),
          allowed(batch.allowed + site * batch.n_patterns * n_words(batch)),
          inverse(T(1) / batch.temperature[crystal * batch.temperature_stride]) {
        load(batch.element_logits + site * batch.n_elements, batch.n_elements, logits);
    }

    // Bits of word w that stand for elements.
    SMOACS_LANES std::uint32_t existing(int w) const {
        const int rest = batch.n_elements - w * kLanes;
        return rest >= kLanes ? 0xffffffffu : rest > 0 ? (1u << rest) - 1u : 0u;
    }

    SMOACS_LANES std::uint32_t word(int k, int w) const {
        const int n = n_words(batch);
        return w < n ? allowed[k * n + w] & existing(w) : 0u;
    }

    // Turns values, minus infinity where there is none, into exp((value - max) / T); returns
    // 1 / sum.
    SMOACS_LANES T exponentials(Row<T>& values) const {
        const T top = reduce<Max>(values);
        for (int i = 0; i < kHeld; ++i) values[i] = exp_nonpositive((values[i] - top) * inverse);
        return T(1) / reduce<Sum>(values);
    }

    // Numerators of p[k,:]; returns 1 / their sum.
    SMOACS_LANES T pattern(int k, Row<T>& values) const {
        const T none = -kInfinity<T>;
        for (int w = 0; w < kWords; ++w) {
            const std::uint32_t may = word(k, w), is = existing(w);
            for (int j = 0; j < kPerWord; ++j) {
                const int i = w * kPerWord + j;
                const T logit = floored<Paper>(logits[i]);
                const T masked = Paper && bit(is, j) ? T(0) : none;
                values[i] = bit(may, j) ? logit : masked;
            }
        }
        return exponentials(values);
    }

    // sum_k q[k] p[k,:]
    SMOACS_LANES void mixture(Row<T>& sum) const {
        for (int i = 0; i < kHeld; ++i) sum[i] = 0;
        for (int k = 0; k < batch.n_patterns; ++k) {
            if (weights[k] == T(0)) continue;
            Row<T> p;
            const T scale = pattern(k, p) * weights[k];
            for (int i = 0; i < kHeld; ++i) sum[i] += p[i] * scale;
        }
    }

    // The paper's second softmax, in place.
    SMOACS_LANES void sharpen(Row<T>& values) const {
        for (int w = 0; w < kWords; ++w) {
            const std::uint32_t is = existing(w);
            for (int j = 0; j < kPerWord; ++j) {
                T& value = values[w * kPerWord + j];
                value = bit(is, j) ? value : -kInfinity<T>;
            }
        }
        const T scale = exponentials(values);
        for (int i = 0; i < kHeld; ++i) values[i] *= scale;
    }

    SMOACS_LANES std::int64_t fault() const {
        Row<T> zeros;
        for (int i = 0; i < kHeld; ++i) zeros[i] = logits[i] - logits[i];
        if (!(reduce<Sum>(zeros) == T(0))) return fault_at(Fault::element_logit, site);
        for (int k = 0; k < batch.n_patterns; ++k) {
            std::uint32_t any = 0;
            for (int w = 0; w < kWords; ++w) any |= word(k, w);
            if (any == 0 && !is_padding(pattern_logits[k])) {
                return fault_at(Fault::no_element, site * batch.n_patterns + k);
            }
        }
        return kNoFault;
    }

    // x, the composition of the site.
    SMOACS_LANES void forward(T* composition) const {
        Row<T> x;
        mixture(x);
        if (Paper) sharpen(x);
        store(x, batch.n_elements, composition + site * batch.n_elements);
    }

    // Gradient to the logits of the site, and <dL/d mixture, p[k,:]> of every pattern.
    SMOACS_LANES void backward(const T* grad_composition, T* grad_logits, T* dots) const {
        Row<T> g, grad;
        load(grad_composition + site * batch.n_elements, batch.n_elements, g);
        if (Paper) {
            Row<T> x;
            mixture(x);
            sharpen(x);
            const T mean = dot(g, x);
            for (int i = 0; i < kHeld; ++i) g[i] = x[i] * (g[i] - mean) * inverse;
        }
        for (int i = 0; i < kHeld; ++i) grad[i] = 0;
        for (int k = 0; k < batch.n_patterns; ++k) {
            T mean = 0;
            if (weights[k] != T(0)) {
                Row<T> p;
                const T scale = pattern(k, p);
                mean = dot(g, p) * scale;
                const T weight = scale * weights[k] * inverse;
                for (int w = 0; w < kWords; ++w) {
                    const std::uint32_t may = word(k, w);
                    for (int j = 0; j < kPerWord; ++j) {
                        const int i = w * kPerWord + j;
                        const T slope = p[i] * (g[i] - mean) * weight;
                        grad[i] += bit(may, j) ? slope : T(0);
                    }
                }
            }
            if (is_first_lane()) dots[site * batch.n_patterns + k] = mean;
        }
        for (int i = 0; Paper && i < kHeld; ++i) {
            grad[i] = logits[i] < T(kPaperFloor) ? T(0) : grad[i];
        }
        store(grad, batch.n_elements, grad_logits + site * batch.n_elements);
    }
};

}  // namespace smoacs
