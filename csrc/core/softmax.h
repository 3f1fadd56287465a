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

// exp(a / T) is 2^(a rate_at(T)).
template <typename T>
SMOACS_HD T rate_at(T temperature) {
    return T(1.4426950408889634) / temperature;
}

// --- One crystal ---------------------------------------------------------------------------------

template <typename T>
SMOACS_HD std::int64_t crystal_fault(const SoftmaxBatch<T>& batch, std::int64_t c) {
    const int n = batch.n_patterns;
    const T* logits = batch.pattern_logits + c * n;
    const T temperature = batch.temperature[c * batch.temperature_stride];
    const T rate = rate_at(temperature);
    if (!offsets_fit(batch, c)) return fault_at(Fault::offsets, c);
    if (!(temperature > T(0)) || !(rate > T(0)) || !is_finite(rate)) {
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
    const T rate = rate_at(batch.temperature[c * batch.temperature_stride]);
    T top = -kInfinity<T>;
    for (int k = 0; k < n; ++k) {
        const T logit = is_padding(logits[k]) ? logits[k] : floored<Paper>(logits[k]);
        top = logit > top ? logit : top;
    }
    T total = 0;
    for (int k = 0; k < n; ++k) {
        q[k] = is_padding(logits[k]) ? T(0)
                                     : exp2_nonpositive((floored<Paper>(logits[k]) - top) * rate);
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

// All patterns share the exponentials of a site, u[z] = exp((a[z] - top) / T), taken relative to
// the largest logit that any of them allows; in the paper's form a forbidden element has
// f = exp(-top / T) instead, else f = 0. With the masks M, v = u - f and g = dL/dx,
//
//     Z[k] = sum_z M[k,z] v[z] + Z f                 p[k,z] = (M[k,z] v[z] + f) / Z[k]
//     x[z] = v[z] sum_k M[k,z] c[k] + f sum_k c[k]   c[k] = q[k] / Z[k]
//     d[k] = <g, p[k,:]> = sum_z M[k,z] v[z] g[z] / Z[k]
//     dL/da[z] = u[z] sum_k M[k,z] c[k] (g[z] - d[k]) / T
//
// so that a pattern costs no more than masked sums. (d[k] lacks f sum_z g[z], which is 0: the
// paper's second softmax does not change if a constant is added to all x.) A pattern whose
// own logits all lie far below the top has too small a Z[k], where the error of exp's argument
// would show, or none: below this one its exponentials are its own.
constexpr double kLeastSum = 1e-4;

// Patterns whose sums are found before they are used; a GPU has no registers for more.
#ifdef __CUDACC__
constexpr int kBundle = 1;
#else
constexpr int kBundle = 16;
#endif

// exp((logit - top) / T) of a forbidden element, and what it is more where a pattern allows it.
template <typename T>
struct Numerators {
    Row<T> excess;
    T forbidden;
    T top;
};

// A site goes through steps: begin, exponentiate, and those of one direction. On the CPU several
// sites take each step together, so that the waits of one are filled with the work of others.
template <typename T, bool Paper>
struct SoftmaxSite {
    const SoftmaxBatch<T>* batch;
    std::int64_t site;
    const T* pattern_logits;               // (K) of the site's crystal
    const T* weights;                      // (K)
    const std::uint32_t* allowed[kWords];  // words of the first pattern's mask
    T inverse;                             // 1 / T
    T rate;                                // exp(a / T) = 2^(a rate)
    Row<T> logits;
    Numerators<T> shared;
    Row<T> values;  // x, or g
    T top;          // of x

    SMOACS_LANES void begin(const SoftmaxBatch<T>& of, std::int64_t s, std::int64_t crystal,
                            const T* all_weights) {
        batch = &of;
        site = s;
        pattern_logits = of.pattern_logits + crystal * of.n_patterns;
        weights = all_weights + crystal * of.n_patterns;
        const int words_held = n_words(of);
        for (int w = 0; w < kWords; ++w) {
            const int exists = w < words_held ? w : words_held - 1;
            allowed[w] = of.allowed + s * of.n_patterns * words_held + exists;
        }
        const T temperature = of.temperature[crystal * of.temperature_stride];
        inverse = T(1) / temperature;
        rate = rate_at(temperature);
        load(of.element_logits + s * of.n_elements, of.n_elements, logits);
        std::uint32_t any[kWords] = {};
        for (int k = 0; k < of.n_patterns; ++k) {
            if (weights[k] == T(0)) continue;
            for (int w = 0; w < kWords; ++w) any[w] |= word(k, w);
        }
        choose(any, shared);
    }

    // Word w of pattern k's mask; past the last element it may hold anything.
    SMOACS_LANES std::uint32_t word(int k, int w) const { return allowed[w][k * n_words(*batch)]; }

    SMOACS_LANES void words(int k, std::uint32_t (&may)[kWords]) const {
        for (int w = 0; w < kWords; ++w) may[w] = word(k, w);
    }

    // Bits of word w that stand for elements.
    SMOACS_LANES std::uint32_t existing(int w) const {
        const int rest = batch->n_elements - w * kLanes;
        return rest >= kLanes ? 0xffffffffu : rest > 0 ? (1u << rest) - 1u : 0u;
    }

    // Puts the logits under a mask where their exponentials will be.
    SMOACS_LANES void choose(const std::uint32_t (&may)[kWords], Numerators<T>& to) const {
        for (int w = 0; w < kWords; ++w) {
            const std::uint32_t here = may[w] & existing(w);
            for (int j = 0; j < kPerWord; ++j) {
                const T logit = floored<Paper>(logits[w * kPerWord + j]);
                to.excess[w * kPerWord + j] = bit(here, j) ? logit : -kInfinity<T>;
            }
        }
        to.top = largest(to.excess);
    }

    SMOACS_LANES static T largest(const Row<T>& row) {
        return reduce<Max>([&](int w, int j) { return row[w * kPerWord + j]; });
    }

    SMOACS_LANES void exponentiate(Numerators<T>& to) const {
        to.forbidden = Paper ? exp2_nonpositive(-to.top * rate) : T(0);
        for (int i = 0; i < kHeld; ++i) {
            const T power = exp2_nonpositive((to.excess[i] - to.top) * rate);
            const T more = power - to.forbidden;
            to.excess[i] = !Paper ? power : more > T(0) ? more : T(0);
        }
    }

    SMOACS_LANES void exponentiate(Row<T>& row, T top) const {
        for (int i = 0; i < kHeld; ++i) row[i] = exp2_nonpositive((row[i] - top) * rate);
    }

    // Z of the pattern with this mask.
    SMOACS_LANES T total(const std::uint32_t (&may)[kWords], const Numerators<T>& from) const {
        const T sum = masked_sum(may, from.excess);
        return Paper ? sum + T(batch->n_elements) * from.forbidden : sum;
    }

    SMOACS_LANES static T masked_sum(const std::uint32_t (&may)[kWords], const Row<T>& row) {
        return reduce<Sum>([&](int w, int j) {
            const T value = row[w * kPerWord + j];
            return bit(may[w], j) ? value : T(0);
        });
    }

    // Calls weigh(i, k, words, numerators, 1 / Z[k]) for i = 0 ... n - 1 and the patterns k from
    // `first` on, then spread(n, first, numerators), with n at most kBundle. 1 / Z[k] is 0 for
    // patterns that have no weight or come on their own, with their own numerators.
    template <typename Weigh, typename Spread>
    SMOACS_LANES void for_patterns(Weigh&& weigh, Spread&& spread) const {
        for (int first = 0; first < batch->n_patterns; first += kBundle) {
            const int rest = batch->n_patterns - first, n = rest < kBundle ? rest : kBundle;
            int alone = 0;
            for (int i = 0; i < n; ++i) {
                std::uint32_t may[kWords];
                words(first + i, may);
                const T sum = total(may, shared);
                const bool weighs = weights[first + i] != T(0), small = sum < T(kLeastSum);
                alone += weighs && small;
                weigh(i, first + i, may, shared, weighs && !small ? T(1) / sum : T(0));
            }
            spread(n, first, shared);
            for (int k = first; alone > 0 && k < first + n; ++k) {
                if (weights[k] == T(0)) continue;
                std::uint32_t may[kWords];
                words(k, may);
                if (!(total(may, shared) < T(kLeastSum))) continue;
                Numerators<T> own;
                choose(may, own);
                exponentiate(own);
                weigh(0, k, may, own, T(1) / total(may, own));
                spread(1, k, own);
            }
        }
    }

    // --- Forward: mix, in the paper's form exponentiate again, finish ---

    // sum_k q[k] p[k,:]
    SMOACS_LANES void mix() {
        for (int i = 0; i < kHeld; ++i) values[i] = T(0);
        T scale[kBundle], all = 0;
        const auto weigh = [&](int i, int k, const std::uint32_t (&)[kWords], const Numerators<T>&,
                               T over) SMOACS_INLINE {
            scale[i] = weights[k] * over;
            all = i == 0 ? scale[i] : all + scale[i];
        };
        const auto spread = [&](int n, int first, const Numerators<T>& from) SMOACS_INLINE {
            for (int w = 0; w < kWords; ++w) {
                T sum[kPerWord];
                for (int j = 0; j < kPerWord; ++j) sum[j] = T(0);
                SMOACS_ROLLED
                for (int k = 0; k < n; ++k) {
                    const std::uint32_t may = word(first + k, w);
                    const T part = scale[k];
                    for (int j = 0; j < kPerWord; ++j) sum[j] += bit(may, j) ? part : T(0);
                }
                for (int j = 0; j < kPerWord; ++j) {
                    const int i = w * kPerWord + j;
                    values[i] += from.excess[i] * sum[j] + (Paper ? from.forbidden * all : T(0));
                }
            }
        };
        for_patterns(weigh, spread);
        for (int w = 0; Paper && w < kWords; ++w) {
            for (int j = 0; j < kPerWord; ++j) {
                const T value = values[w * kPerWord + j];
                values[w * kPerWord + j] = bit(existing(w), j) ? value : -kInfinity<T>;
            }
        }
        if (Paper) top = largest(values);
    }

    // Writes x, the composition of the site.
    SMOACS_LANES void finish(bool good, T* composition) {
        if (Paper) {
            const T scale =
                T(1) / reduce<Sum>([&](int w, int j) { return values[w * kPerWord + j]; });
            for (int i = 0; i < kHeld; ++i) values[i] *= scale;
        }
        for (int i = 0; !good && i < kHeld; ++i) values[i] = kNaN<T>;
        store(values, batch->n_elements, composition + site * batch->n_elements);
    }

    // What is wrong with the site.
    SMOACS_LANES std::int64_t fault() const {
        const T zero = reduce<Sum>([&](int w, int j) {
            const T logit = logits[w * kPerWord + j];
            return logit - logit;
        });
        if (!(zero == T(0))) return fault_at(Fault::element_logit, site);
        for (int k = 0; k < batch->n_patterns; ++k) {
            std::uint32_t all = 0;
            for (int w = 0; w < kWords; ++w) all |= word(k, w) & existing(w);
            if (all == 0 && !is_padding(pattern_logits[k])) {
                return fault_at(Fault::no_element, site * batch->n_patterns + k);
            }
        }
        return kNoFault;
    }

    // --- Backward ---

    // The gradient to the mixture.
    SMOACS_LANES void receive(const T* composition, const T* grad_composition) {
        load(grad_composition + site * batch->n_elements, batch->n_elements, values);
        if (Paper) {
            Row<T> x;
            load(composition + site * batch->n_elements, batch->n_elements, x);
            const T mean = reduce<Sum>([&](int w, int j) {
                const int i = w * kPerWord + j;
                return values[i] * x[i];
            });
            for (int i = 0; i < kHeld; ++i) values[i] = x[i] * (values[i] - mean) * inverse;
        }
    }

    // Gradient to the logits of the site, and <g, p[k,:]> of every pattern.
    SMOACS_LANES void backward(T* grad_logits, T* dots) const {
        Row<T> grad;
        for (int i = 0; i < kHeld; ++i) grad[i] = T(0);
        T mean[kBundle], scale[kBundle];
        const auto weigh = [&](int i, int k, const std::uint32_t (&may)[kWords],
                               const Numerators<T>& from, T over) SMOACS_INLINE {
            const T sum = reduce<Sum>([&](int w, int j) {
                const T product = from.excess[w * kPerWord + j] * values[w * kPerWord + j];
                return bit(may[w], j) ? product : T(0);
            });
            mean[i] = sum * over;
            scale[i] = weights[k] * over;
            if (is_first_lane()) dots[site * batch->n_patterns + k] = mean[i];
        };
        const auto spread = [&](int n, int first, const Numerators<T>& from) SMOACS_INLINE {
            for (int w = 0; w < kWords; ++w) {
                T sum[kPerWord];
                for (int j = 0; j < kPerWord; ++j) sum[j] = T(0);
                SMOACS_ROLLED
                for (int k = 0; k < n; ++k) {
                    const std::uint32_t may = word(first + k, w);
                    const T less = mean[k], part = scale[k];
                    for (int j = 0; j < kPerWord; ++j) {
                        const T slope = (values[w * kPerWord + j] - less) * part;
                        sum[j] += bit(may, j) ? slope : T(0);
                    }
                }
                for (int j = 0; j < kPerWord; ++j) {
                    const int i = w * kPerWord + j;
                    grad[i] += (from.excess[i] + from.forbidden) * sum[j];
                }
            }
        };
        for_patterns(weigh, spread);
        for (int i = 0; i < kHeld; ++i) {
            const T slope = grad[i] * inverse;
            grad[i] = Paper && logits[i] < T(kPaperFloor) ? T(0) : slope;
        }
        store(grad, batch->n_elements, grad_logits + site * batch->n_elements);
    }
};

}  // namespace smoacs
