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
#include "core/short_row.h"

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

struct SiteRange {
    std::int64_t first, last;
};

// The sites of crystal c. Nobody has checked the offsets on a GPU: every site belongs to a crystal
// all the same.
template <typename T>
SMOACS_HD SiteRange sites_of(const SoftmaxBatch<T>& batch, std::int64_t c) {
    const auto bounded = [&](std::int64_t offset) SMOACS_INLINE {
        return offset < 0 ? 0 : offset < batch.n_sites ? offset : batch.n_sites;
    };
    return {c == 0 ? 0 : bounded(batch.ptr[c]),
            c + 1 == batch.n_crystals ? batch.n_sites : bounded(batch.ptr[c + 1])};
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
    return T(kLog2E) / temperature;
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
        q[k] =
            is_padding(logits[k]) ? T(0) : exp2_nonpositive(floored<Paper>(logits[k]) - top, rate);
        total += q[k];
    }
    for (int k = 0; k < n; ++k) q[k] /= total;
    return kNoFault;
}

// Gradient to w of crystal c. `dots` (S, K) holds <dL/dx_n, p[n,k,:]> of every site.
template <bool Paper, typename T>
SMOACS_LANES void pattern_gradient(const SoftmaxBatch<T>& batch, std::int64_t c, const T* weights,
                                   const T* dots, const T* grad_weights, T* grad_logits) {
    const int n = batch.n_patterns;
    const T* q = weights + c * n;
    const T* logits = batch.pattern_logits + c * n;
    T* grad = grad_logits + c * n;
    const T inverse = T(1) / batch.temperature[c * batch.temperature_stride];
    const SiteRange sites = sites_of(batch, c);
    for_columns(n, [&](std::int64_t k, int) {
        T sum = grad_weights[c * n + k];
        for (std::int64_t s = sites.first; s < sites.last; ++s) sum += dots[s * n + k];
        grad[k] = sum;
    });
    const T mean = sum_columns<T>(n, [&](std::int64_t k) { return q[k] * grad[k]; });
    for_columns(n, [&](std::int64_t k, int) {
        const bool held = q[k] == T(0) || (Paper && logits[k] < T(kPaperFloor));
        grad[k] = held ? T(0) : q[k] * (grad[k] - mean) * inverse;
    });
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
//
// The forward pass keeps K + 2 numbers per site for the backward pass, which need not search for
// the top and add up Z[k] again: the top, f, then 1 / Z[k], or 0 where a pattern has no weight or
// its own exponentials.
constexpr double kLeastSum = 1e-4;

// Numbers that the forward pass keeps for each site.
template <typename T>
SMOACS_HD int n_kept(const SoftmaxBatch<T>& batch) {
    return batch.n_patterns + 2;
}

// Patterns whose sums are found before they are used.
constexpr int kBundle = 16;

// A site goes through steps: begin, then those of one direction, which end where something has been
// added up over the elements. On the CPU several sites take each step together, so that the waits
// of one are filled with the work of others.
template <typename T, bool Paper, int Size>
struct SoftmaxSite {
    using Parts = Row<T, Size>;
    using Lanes = Several<T>;
    static constexpr int kWords = (Size + kLanes - 1) / kLanes;

    // exp((logit - top) / T) of a forbidden element, and what it is more where a pattern allows it.
    struct Numerators {
        Parts excess;
        T forbidden;
    };

    const SoftmaxBatch<T>* batch;
    std::int64_t site;
    const T* pattern_logits;       // (K) of the site's crystal
    const T* weights;              // (K)
    const T* logits;               // (Z)
    const std::uint32_t* allowed;  // (K, W)
    T inverse;                     // 1 / T
    T rate;                        // exp(a / T) = 2^(a rate)
    T top;
    bool suspect = false;    // this site, or one before, may be at fault
    Row<T, kLanes> doubt{};  // NaN if a logit of one was not finite
    Numerators shared;
    // Of a bundle of patterns: c[k], in the backward pass -c[k] d[k], and a bit for each pattern
    // whose exponentials are its own.
    PerLane<T, kBundle> scale, less;
    std::uint32_t alone;
    // Of the paper's form: its mixture, or the gradient to that; the largest; 1 / their sum.
    Parts values;
    T most, over_sum;

    SMOACS_LANES void begin(const SoftmaxBatch<T>& of, std::int64_t s, std::int64_t crystal,
                            const T* all_weights) {
        batch = &of;
        site = s;
        pattern_logits = of.pattern_logits + crystal * of.n_patterns;
        weights = all_weights + crystal * of.n_patterns;
        logits = of.element_logits + s * of.n_elements;
        allowed = of.allowed + s * of.n_patterns * kWords;
        const T temperature = of.temperature[crystal * of.temperature_stride];
        inverse = T(1) / temperature;
        rate = rate_at(temperature);
    }

    // Mask of pattern k; past the last element it may hold anything.
    SMOACS_LANES const std::uint32_t* words(int k) const { return allowed + k * kWords; }

    SMOACS_LANES Part<T> logit(int p) const {
        return load_part<Size>(logits, batch->n_elements, p);
    }

    // The part with zeros where there is no element.
    SMOACS_LANES Part<T> existing(const Part<T>& part, int p) const {
        if ((p + 1) * kSpan<T> <= kLeast<Size>) return part;
        return select(below<T>(batch->n_elements, p), part, Part<T>{});
    }

    // The largest logit that a mask allows, as the softmax sees it.
    SMOACS_LANES T largest(const std::uint32_t* may) const {
        const T found = reduce<Max, T, Size>([&](int p) SMOACS_INLINE {
            const Part<T> none = all_of(-kInfinity<T>);
            const Part<T> part = select(mask_part<T>(may, p), logit(p), none);
            if ((p + 1) * kSpan<T> <= kLeast<Size>) return part;
            return select(below<T>(batch->n_elements, p), part, none);
        });
        return floored<Paper>(found);
    }

    SMOACS_LANES T forbidden_below(T highest) const {
        return Paper ? exp2_nonpositive(-highest, rate) : T(0);
    }

    // Logits above `highest` count as that. (A row is stored when it is ready: after each store the
    // compiler would load again what it has read before.)
    SMOACS_LANES void exponentiate(T highest, Numerators& to) const {
        const T forbidden = to.forbidden;
        Parts parts;
        SMOACS_UNROLLED
        for (int p = 0; p < Parts::n; ++p) {
            const Part<T> seen = Paper ? larger(logit(p), all_of(T(kPaperFloor))) : logit(p);
            parts[p] = larger(highest - seen, Part<T>{});
        }
        exp2_row(parts, -rate);
        SMOACS_UNROLLED
        for (int p = 0; p < Parts::n; ++p) {
            to.excess[p] = existing(Paper ? parts[p] - forbidden : parts[p], p);
        }
    }

    // Patterns from `first` on that are treated together.
    SMOACS_LANES int bundle(int first) const {
        const int rest = batch->n_patterns - first;
        return rest < kBundle ? rest : kBundle;
    }

    // Z of the pattern whose masked sum this is.
    SMOACS_LANES T total(T sum, T forbidden) const {
        return Paper ? sum + T(batch->n_elements) * forbidden : sum;
    }

    // Calls use(k, numerators, 1 / Z[k]) for the patterns k = first + i with bit i of `alone`.
    template <typename Use>
    SMOACS_LANES void for_alone(std::uint32_t alone, int first, Use&& use) const {
        for (int k = first; alone != 0; ++k, alone >>= 1) {
            if ((alone & 1u) == 0) continue;
            const T highest = largest(words(k));
            Numerators own;
            own.forbidden = forbidden_below(highest);
            exponentiate(highest, own);
            use(k, own, T(1) / total(masked_sum(words(k), own.excess), own.forbidden));
        }
    }

    // --- Forward: find the top, exponentiate, add up and mix each bundle, then the paper's ---

    SMOACS_LANES void find_top() {
        std::uint32_t found[kWords] = {}, any[kWords];  // in registers, then where masks are read
        for (int k = 0; k < batch->n_patterns; ++k) {
            if (weights[k] == T(0)) continue;
            for (int w = 0; w < kWords; ++w) found[w] |= words(k)[w];
        }
        for (int w = 0; w < kWords; ++w) any[w] = found[w];
        top = largest(any);
        Row<T, kLanes> doubts = doubt;
        SMOACS_UNROLLED
        for (int p = 0; p < Parts::n; ++p) {
            Part<T>& sum = doubts[p % doubts.n];
            sum = Lanes::multiply_add(logit(p), Part<T>{}, sum);
        }
        doubt = doubts;
    }

    SMOACS_LANES void exponentiate() {
        shared.forbidden = forbidden_below(top);
        exponentiate(top, shared);
    }

    // Z[k] of a bundle of patterns.
    SMOACS_LANES void add_up(int first, T* kept) {
        kept += site * n_kept(*batch);
        if (is_first_lane()) {
            kept[0] = top;
            kept[1] = shared.forbidden;
        }
        alone = 0;
        for (int i = 0; i < bundle(first); ++i) {
            const T sum = masked_sum(words(first + i), shared.excess);
            const T whole = total(sum, shared.forbidden), weight = weights[first + i];
            T over = 0;
            if (whole >= T(kLeastSum)) {
                over = T(1) / whole;
            } else {
                alone |= std::uint32_t(weight != T(0)) << i;
            }
            if (sum == T(0)) suspect = true;
            scale.set(i, weight * over);
            if (is_first_lane()) kept[2 + first + i] = over;
        }
    }

    // sum_k q[k] p[k,:], after the bundles before.
    SMOACS_LANES void mix(int first, T* composition) {
        const int n_elements = batch->n_elements;
        composition += site * n_elements;
        const auto spread = [&](int n, int k, const Numerators& from, bool more) SMOACS_INLINE {
            Parts sum{};
            T all = 0;
            const std::uint32_t* may = words(k);
            SMOACS_ROLLED
            for (int i = 0; i < n; ++i, may += kWords) {
                const T weight = scale[i];
                const Part<T> part = all_of(weight);
                all += weight;
                SMOACS_UNROLLED
                for (int p = 0; p < Parts::n; ++p) {
                    add_where(mask_part<T>(may, p), part, sum[p]);
                }
            }
            all *= from.forbidden;
            SMOACS_UNROLLED
            for (int p = 0; p < Parts::n; ++p) {
                if (Paper) {
                    const Part<T> rest = more ? values[p] + all : all_of(all);
                    values[p] = Lanes::multiply_add(from.excess[p], sum[p], rest);
                } else {
                    Part<T> x = from.excess[p] * sum[p];
                    if (more) x += load_part<Size>(composition, n_elements, p);
                    store_part<Size>(x, composition, n_elements, p);
                }
            }
        };
        spread(bundle(first), first, shared, first > 0);
        for_alone(alone, first, [&](int k, const Numerators& own, T over) SMOACS_INLINE {
            scale.set(0, weights[k] * over);
            spread(1, k, own, true);
        });
    }

    // The paper's second softmax, not yet over its sum.
    SMOACS_LANES void find_most() {
        // A forbidden element, or none, holds no more than others.
        most = reduce<Max, T, Size>([&](int p) SMOACS_INLINE { return values[p]; });
    }

    SMOACS_LANES void sharpen() {
        Parts parts;
        SMOACS_UNROLLED
        for (int p = 0; p < Parts::n; ++p) parts[p] = values[p] - most;
        exp2_row(parts, rate);
        values = parts;
    }

    SMOACS_LANES void add_up_sharpened() {
        over_sum = T(1) / reduce<Sum, T, Size>(
                              [&](int p) SMOACS_INLINE { return existing(values[p], p); });
    }

    SMOACS_LANES void finish(T* composition) const {
        const int n = batch->n_elements;
        SMOACS_UNROLLED
        for (int p = 0; p < Parts::n; ++p) {
            store_part<Size>(values[p] * over_sum, composition + site * n, n, p);
        }
    }

    // Whether this site, or one before, may be at fault.
    SMOACS_LANES bool is_suspect() const {
        return suspect || !is_finite(reduce<Sum, T, kLanes>([&](int p) { return doubt[p]; }));
    }

    // What is wrong with the site, if anything; its composition is then NaN, as for any site of a
    // crystal with a fault.
    SMOACS_LANES std::int64_t check(bool good, T* composition) const {
        const std::int64_t found = fault();
        if (good && found == kNoFault) return kNoFault;
        const int n = batch->n_elements;
        for (int p = 0; p < Parts::n; ++p) {
            store_part<Size>(all_of(kNaN<T>), composition + site * n, n, p);
        }
        return found;
    }

    // What is wrong with the site.
    SMOACS_LANES std::int64_t fault() const {
        const T zero = reduce<Sum, T, Size>([&](int p) { return logit(p) - logit(p); });
        if (!(zero == T(0))) return fault_at(Fault::element_logit, site);
        for (int k = 0; k < batch->n_patterns; ++k) {
            std::uint32_t all = 0;
            for (int w = 0; w < kWords; ++w) {
                const int rest = batch->n_elements - w * kLanes;
                all |= words(k)[w] & (rest < kLanes ? (1u << rest) - 1u : ~0u);
            }
            if (all == 0 && !is_padding(pattern_logits[k])) {
                return fault_at(Fault::no_element, site * batch->n_patterns + k);
            }
        }
        return kNoFault;
    }

    // --- Backward: recall, in the paper's form receive, weigh and backward each bundle ---

    SMOACS_LANES void recall(const T* kept) {
        kept += site * n_kept(*batch);
        top = kept[0];
        shared.forbidden = kept[1];
        exponentiate(top, shared);
    }

    // The gradient to the paper's mixture.
    SMOACS_LANES void receive(const T* composition, const T* grad_composition) {
        const int n = batch->n_elements;
        Parts x, g;
        SMOACS_UNROLLED
        for (int p = 0; p < Parts::n; ++p) {
            x[p] = load_part<Size>(composition + site * n, n, p);
            g[p] = load_part<Size>(grad_composition + site * n, n, p);
        }
        const T mean = reduce<Sum, T, Size>([&](int p) SMOACS_INLINE { return g[p] * x[p]; });
        const Part<T> factor = all_of(inverse), rest = all_of(-mean * inverse);
        SMOACS_UNROLLED
        for (int p = 0; p < Parts::n; ++p) {
            values[p] = x[p] * Lanes::multiply_add(g[p], factor, rest);
        }
    }

    SMOACS_LANES Part<T> slope_at(int p, const T* grad_composition) const {
        const int n = batch->n_elements;
        return Paper ? values[p] : load_part<Size>(grad_composition + site * n, n, p);
    }

    SMOACS_LANES void multiply(const Numerators& from, const T* grad_composition,
                               Parts& product) const {
        SMOACS_UNROLLED
        for (int p = 0; p < Parts::n; ++p) {
            product[p] = from.excess[p] * slope_at(p, grad_composition);
        }
    }

    // <g, p[k,:]> = d[k] of pattern k, the i-th of its bundle.
    SMOACS_LANES void weigh_one(int i, int k, const Parts& product, T over, T* dots) {
        const T mean = masked_sum(words(k), product) * over;
        const T weight = weights[k] * over * inverse;
        scale.set(i, weight);
        less.set(i, -mean * weight);
        if (is_first_lane()) dots[site * batch->n_patterns + k] = mean;
    }

    SMOACS_LANES void weigh(int first, const T* kept, const T* grad_composition, T* dots) {
        kept += site * n_kept(*batch);
        alone = 0;
        Parts product;
        multiply(shared, grad_composition, product);
        for (int i = 0; i < bundle(first); ++i) {
            const T over = kept[2 + first + i];
            weigh_one(i, first + i, product, over, dots);
            alone |= std::uint32_t(over == T(0) && weights[first + i] != T(0)) << i;
        }
    }

    // Gradient to the logits of the site, after the bundles before.
    SMOACS_LANES void backward(int first, const T* grad_composition, T* grad_logits, T* dots) {
        const int n_elements = batch->n_elements;
        T* slopes = grad_logits + site * n_elements;
        const auto spread = [&](int n, int k, const Numerators& from, bool more) SMOACS_INLINE {
            Parts here, sum{};
            SMOACS_UNROLLED
            for (int p = 0; p < Parts::n; ++p) here[p] = slope_at(p, grad_composition);
            const std::uint32_t* may = words(k);
            SMOACS_ROLLED
            for (int i = 0; i < n; ++i, may += kWords) {
                const Part<T> part = all_of(scale[i]), rest = all_of(less[i]);
                SMOACS_UNROLLED
                for (int p = 0; p < Parts::n; ++p) {
                    const Part<T> slope = Lanes::multiply_add(here[p], part, rest);
                    add_where(mask_part<T>(may, p), slope, sum[p]);
                }
            }
            SMOACS_UNROLLED
            for (int p = 0; p < Parts::n; ++p) {
                sum[p] *= Paper ? from.excess[p] + from.forbidden : from.excess[p];
                // A logit below the paper's floor has no part in it.
                if (Paper) sum[p] = logit(p) < T(kPaperFloor) ? Part<T>{} : sum[p];
                if (more) sum[p] += load_part<Size>(slopes, n_elements, p);
            }
            SMOACS_UNROLLED
            for (int p = 0; p < Parts::n; ++p) store_part<Size>(sum[p], slopes, n_elements, p);
        };
        spread(bundle(first), first, shared, first > 0);
        for_alone(alone, first, [&](int k, const Numerators& own, T over) SMOACS_INLINE {
            Parts product;
            multiply(own, grad_composition, product);
            weigh_one(0, k, product, over, dots);
            spread(1, k, own, true);
        });
    }
};

}  // namespace smoacs
