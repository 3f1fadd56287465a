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
template <typename T>
constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();

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
// smallest of several is reported, so that the answer does not depend on the order of work. What
// cannot be worked out is NaN: a GPU reports nothing else, since the host would have to wait.
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

template <typename T>
SMOACS_HD std::int64_t crystal_fault(const SoftmaxBatch<T>& batch, std::int64_t c) {
    const int n = batch.n_patterns;
    const T* logits = batch.pattern_logits + c * n;
    const T temperature = batch.temperature[c * batch.temperature_stride];
    const T inverse = T(1) / temperature;
    if (!offsets_fit(batch, c)) return fault_at(Fault::offsets, c);
    if (!(temperature > T(0)) || !(inverse > T(0)) || !is_finite(inverse)) {
        return fault_at(Fault::temperature, c);
    }
    bool any = false;
    for (int k = 0; k < n; ++k) {
        if (is_padding(logits[k])) continue;
        if (!is_finite(logits[k])) return fault_at(Fault::pattern_logit, c * n + k);
        any = true;
    }
    return any ? kNoFault : fault_at(Fault::no_pattern, c);
}

// q = softmax(w / T) of crystal c.
template <bool Paper, typename T>
SMOACS_HD std::int64_t pattern_weights(const SoftmaxBatch<T>& batch, std::int64_t c, T* weights) {
    const int n = batch.n_patterns;
    const T* logits = batch.pattern_logits + c * n;
    T* q = weights + c * n;
    const std::int64_t fault = crystal_fault(batch, c);
    if (fault != kNoFault) {
        for (int k = 0; k < n; ++k) q[k] = kNaN<T>;
        return fault;
    }
    const T inverse = T(1) / batch.temperature[c * batch.temperature_stride];
    T top = -kInfinity<T>;
    for (int k = 0; k < n; ++k) {
        const T logit = is_padding(logits[k]) ? logits[k] : floored<Paper>(logits[k]);
        top = logit > top ? logit : top;
    }
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
    for (int k = 0; k < n; ++k) grad[k] = grad_weights[c * n + k];
    // Nobody has checked the offsets on a GPU.
    const std::int64_t first = batch.ptr[c] > 0 ? batch.ptr[c] : 0;
    const std::int64_t last = batch.ptr[c + 1] < batch.n_sites ? batch.ptr[c + 1] : batch.n_sites;
    for (std::int64_t s = first; s < last; ++s) {
        for (int k = 0; k < n; ++k) grad[k] += dots[s * n + k];
    }
    T mean = 0;
    for (int k = 0; k < n; ++k) mean += q[k] * grad[k];
    for (int k = 0; k < n; ++k) {
        const bool held = q[k] == T(0) || (Paper && logits[k] < T(kPaperFloor));
        grad[k] = held ? T(0) : q[k] * (grad[k] - mean) * inverse;
    }
}

// --- One site: the lanes share the elements ------------------------------------------------------

// All patterns share the exponentials of a site, taken relative to the largest logit that any of
// them allows. A pattern whose own logits all lie far below has too small a sum, where the error of
// exp's argument would show, or none: below this one its exponentials are its own.
constexpr double kLeastSum = 1e-4;

// exp((logit - max) / T) of every element where a pattern allows it, and of one that is forbidden.
template <typename T>
struct Numerators {
    Row<T> allowed;
    T forbidden;
};

template <typename T, bool Paper>
struct SoftmaxSite {
    const SoftmaxBatch<T>& batch;
    const std::int64_t site;
    const T* const pattern_logits;       // (K) of the site's crystal
    const T* const weights;              // (K)
    const std::uint32_t* const allowed;  // (K, W)
    const T inverse;                     // 1 / T
    int gap;                             // pattern that allows no element, or -1
    std::uint32_t existing[kWords];      // bits that stand for elements
    Row<T> logits;
    Numerators<T> shared;

    SMOACS_LANES SoftmaxSite(const SoftmaxBatch<T>& batch, std::int64_t site, std::int64_t crystal,
                             const T* weights)
        : batch(batch),
          site(site),
          pattern_logits(batch.pattern_logits + crystal * batch.n_patterns),
          weights(weights + crystal * batch.n_patterns),
          allowed(batch.allowed + site * batch.n_patterns * n_words(batch)),
          inverse(T(1) / batch.temperature[crystal * batch.temperature_stride]),
          gap(-1) {
        load(batch.element_logits + site * batch.n_elements, batch.n_elements, logits);
        std::uint32_t any[kWords];
        for (int w = 0; w < kWords; ++w) {
            const int rest = batch.n_elements - w * kLanes;
            existing[w] = rest >= kLanes ? 0xffffffffu : rest > 0 ? (1u << rest) - 1u : 0u;
            any[w] = 0;
        }
        for (int k = batch.n_patterns - 1; k >= 0; --k) {
            if (is_padding(pattern_logits[k])) continue;
            std::uint32_t may[kWords], all = 0;
            words(k, may);
            for (int w = 0; w < kWords; ++w) {
                all |= may[w];
                any[w] |= this->weights[k] == T(0) ? 0u : may[w];
            }
            if (all == 0) gap = k;
        }
        numerators(any, shared);
    }

    // The mask of pattern k.
    SMOACS_LANES void words(int k, std::uint32_t (&may)[kWords]) const {
        const int n = n_words(batch);
        for (int w = 0; w < kWords; ++w) may[w] = w < n ? allowed[k * n + w] & existing[w] : 0u;
    }

    // For the elements in `may`.
    SMOACS_LANES void numerators(const std::uint32_t (&may)[kWords], Numerators<T>& result) const {
        const T other = Paper ? T(0) : -kInfinity<T>;  // logit of a forbidden element
        Row<T>& values = result.allowed;
        for (int w = 0; w < kWords; ++w) {
            for (int j = 0; j < kPerWord; ++j) {
                const int i = w * kPerWord + j;
                values[i] = bit(may[w], j) ? floored<Paper>(logits[i]) : other;
            }
        }
        const T top = reduce<Max>(values);
        for (int i = 0; i < kHeld; ++i) values[i] = exp_nonpositive((values[i] - top) * inverse);
        result.forbidden = Paper ? exp_nonpositive(-top * inverse) : T(0);
    }

    // Those under the mask `may`; returns their sum.
    SMOACS_LANES T choose(const std::uint32_t (&may)[kWords], const Numerators<T>& from,
                          Row<T>& values) const {
        for (int w = 0; w < kWords; ++w) {
            for (int j = 0; j < kPerWord; ++j) {
                const int i = w * kPerWord + j;
                const T other = Paper && bit(existing[w], j) ? from.forbidden : T(0);
                values[i] = bit(may[w], j) ? from.allowed[i] : other;
            }
        }
        return reduce<Sum>(values);
    }

    // Numerators of p[k,:], whose mask is `may`; returns 1 / their sum.
    SMOACS_LANES T pattern(const std::uint32_t (&may)[kWords], Row<T>& values) const {
        T sum = choose(may, shared, values);
        if (sum < T(kLeastSum)) {
            Numerators<T> own;
            numerators(may, own);
            sum = choose(may, own, values);
        }
        return T(1) / sum;
    }

    // sum_k q[k] p[k,:]
    SMOACS_LANES void mixture(Row<T>& sum) const {
        for (int i = 0; i < kHeld; ++i) sum[i] = 0;
        for (int k = 0; k < batch.n_patterns; ++k) {
            if (weights[k] == T(0)) continue;
            std::uint32_t may[kWords];
            words(k, may);
            Row<T> p;
            const T scale = pattern(may, p) * weights[k];
            for (int i = 0; i < kHeld; ++i) sum[i] += p[i] * scale;
        }
    }

    // The paper's second softmax, in place.
    SMOACS_LANES void sharpen(Row<T>& values) const {
        for (int w = 0; w < kWords; ++w) {
            for (int j = 0; j < kPerWord; ++j) {
                T& value = values[w * kPerWord + j];
                value = bit(existing[w], j) ? value : -kInfinity<T>;
            }
        }
        const T top = reduce<Max>(values);
        for (int i = 0; i < kHeld; ++i) values[i] = exp_nonpositive((values[i] - top) * inverse);
        const T scale = T(1) / reduce<Sum>(values);
        for (int i = 0; i < kHeld; ++i) values[i] *= scale;
    }

    SMOACS_LANES std::int64_t fault() const {
        Row<T> zeros;
        for (int i = 0; i < kHeld; ++i) zeros[i] = logits[i] - logits[i];
        if (!(reduce<Sum>(zeros) == T(0))) return fault_at(Fault::element_logit, site);
        return gap < 0 ? kNoFault : fault_at(Fault::no_element, site * batch.n_patterns + gap);
    }

    // x, the composition of the site; returns what is wrong with the site.
    SMOACS_LANES std::int64_t forward(T* composition) const {
        const std::int64_t found = fault();
        Row<T> x;
        mixture(x);
        if (Paper) sharpen(x);
        for (int i = 0; found != kNoFault && i < kHeld; ++i) x[i] = kNaN<T>;
        store(x, batch.n_elements, composition + site * batch.n_elements);
        return found;
    }

    // Gradient to the logits of the site, and <dL/d mixture, p[k,:]> of every pattern.
    SMOACS_LANES void backward(const T* composition, const T* grad_composition, T* grad_logits,
                               T* dots) const {
        Row<T> g, grad;
        load(grad_composition + site * batch.n_elements, batch.n_elements, g);
        if (Paper) {
            Row<T> x;
            load(composition + site * batch.n_elements, batch.n_elements, x);
            const T mean = dot(g, x);
            for (int i = 0; i < kHeld; ++i) g[i] = x[i] * (g[i] - mean) * inverse;
        }
        for (int i = 0; i < kHeld; ++i) grad[i] = 0;
        for (int k = 0; k < batch.n_patterns; ++k) {
            T mean = 0;
            if (weights[k] != T(0)) {
                std::uint32_t may[kWords];
                words(k, may);
                Row<T> p;
                const T scale = pattern(may, p);
                mean = dot(g, p) * scale;
                const T weight = scale * weights[k] * inverse;
                for (int w = 0; w < kWords; ++w) {
                    for (int j = 0; j < kPerWord; ++j) {
                        const int i = w * kPerWord + j;
                        const T slope = p[i] * (g[i] - mean) * weight;
                        // In the exact form p is 0 wherever the element is forbidden.
                        grad[i] += !Paper || bit(may[w], j) ? slope : T(0);
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
