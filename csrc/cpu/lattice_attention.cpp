#include "cpu/lattice_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "core/math.h"
#include "core/row.h"
#include "cpu/buffer.h"
#include "cpu/threads.h"

namespace smoacs::cpu {

namespace {

// Heads at a time: one vector of doubles.
constexpr int kHeads = 8;
// Atoms that a thread takes at a time.
constexpr std::int64_t kAtoms = 16;
// Fewer terms times heads than this per thread are not worth waking it.
constexpr std::int64_t kWorkPerThread = 1 << 12;
constexpr double kLog2E = 1.4426950408889634;

// Gaussians, and weights as parts of an atom's largest or of its sum, that are below this power of
// 2 count as nothing: 1.5e-11 in single precision, 8e-22 in double.
template <typename T>
constexpr T kLeastPower = sizeof(T) == sizeof(float) ? T(-36) : T(-70);
// Gaussians at a time, as many as fill the widest register.
template <typename T>
constexpr int kStep = 64 / sizeof(T);

// A number for each of eight heads. (In arrays the compiler would not keep sums in registers.)
template <typename T>
using Heads = typename Pack<T, kHeads>::type;

template <typename T>
SMOACS_HD Heads<T> broadcast(T value) {
    Heads<T> out;
    for (int h = 0; h < kHeads; ++h) out[h] = value;
    return out;
}

// The first n; the others are zero.
template <typename T>
SMOACS_HD Heads<T> load(const T* from, int n) {
    Heads<T> out{};
    if (n == kHeads) {
        memcpy(&out, from, sizeof out);
    } else {
        for (int h = 0; h < n; ++h) out[h] = from[h];
    }
    return out;
}

template <typename T>
SMOACS_HD void store(const Heads<T>& from, int n, T* to) {
    if (n == kHeads) {
        memcpy(to, &from, sizeof from);
    } else {
        for (int h = 0; h < n; ++h) to[h] = from[h];
    }
}

// a b + c
template <typename H>
SMOACS_HD H add_product(const H& a, const H& b, const H& c) {
    H out;
    for (int h = 0; h < kHeads; ++h) out[h] = multiply_add(a[h], b[h], c[h]);
    return out;
}

struct Larger {
    template <typename T>
    SMOACS_HD static void into(T& a, const T& b) {
        a = a > b ? a : b;
    }
};

template <typename T>
SMOACS_HD T largest(const Heads<T>& x) {
    T lane[kHeads];
    memcpy(lane, &x, sizeof lane);
    return fold<Larger, kHeads>(lane);
}

template <typename T>
SMOACS_HD T total(const Heads<T>& x) {
    T lane[kHeads];
    memcpy(lane, &x, sizeof lane);
    return fold<Sum, kHeads>(lane);
}

template <typename T>
SMOACS_HD T exp2_or_nothing(T x) {
    const T power = exp2_normal(x);  // without a branch, so that loops become vector code
    return x < kLeastPower<T> ? T(0) : power;
}

template <typename T>
SMOACS_HD Heads<T> exp2_or_nothing(const Heads<T>& x) {
    T lane[kHeads];
    memcpy(lane, &x, sizeof lane);
    for (int h = 0; h < kHeads; ++h) lane[h] = exp2_or_nothing(lane[h]);
    Heads<T> out;
    memcpy(&out, lane, sizeof lane);
    return out;
}

// The Gaussians that count at one length: a window of those that there are, and of some more past
// the end if there are too few.
template <typename T>
class Window {
  public:
    explicit Window(const LatticeSum<T>& sum) {
        const std::int64_t n = sum.n_functions;
        const T spacing = n > 1 ? (sum.centers[n - 1] - sum.centers[0]) / T(n - 1) : sum.width;
        for (std::int64_t k = 0; k < n; ++k) {
            const T expected = sum.centers[0] + T(k) * spacing;
            if (!(spacing > 0 && std::fabs(sum.centers[k] - expected) < T(1e-3) * spacing)) {
                throw std::invalid_argument("centers must ascend by even steps");
            }
        }
        const double reach = std::sqrt(-2 * kLeastPower<T> / kLog2E) * sum.width;
        const auto whole_steps = [](double k) {
            return static_cast<std::int64_t>(std::ceil(k / kStep<T>)) * kStep<T>;
        };
        size_ = whole_steps(std::min(2 * reach / spacing, static_cast<double>(n)));
        n_ = std::max(n, size_);
        per_spacing_ = 1 / spacing;
        before_ = T(size_ / 2 - 1);
        last_ = T(n_ - size_);
        power_ = static_cast<T>(-0.5 * kLog2E / (double(sum.width) * sum.width));
        centers_.resize(n_);
        std::copy_n(sum.centers, n, centers_.data());
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

// What one thread needs for eight heads of one atom.
template <typename T>
struct Scratch {
    Buffer<Heads<T>> logits, pairs, outer, terms, functions;
    Buffer<std::int64_t> kept;
    Buffer<T> basis, moments;

    Scratch(const LatticeSum<T>& sum, const Window<T>& window) {
        std::int64_t pair_count = 0, term_count = 0;
        for (std::int64_t a = 0; a < sum.n_atoms; ++a) {
            pair_count = std::max(pair_count, sum.pair_count[a]);
            term_count = std::max(term_count, sum.term_count[a]);
        }
        logits.resize(pair_count);
        pairs.resize(pair_count);
        outer.resize(pair_count);
        terms.resize(term_count);
        kept.resize(term_count);
        functions.resize(window.n_functions());
        basis.resize(window.size());
        moments.resize(window.size());
    }
};

// Eight heads of an atom, or as many as are left.
struct Part {
    std::int64_t atom, head;
    int n;
};

// Exponents to base 2 of an atom's terms.
template <typename T>
class Exponents {
  public:
    SMOACS_HD Exponents(const LatticeSum<T>& sum, const Part& part, const Heads<T>* logits)
        : sum_(sum), logits_(logits), first_pair_(sum.first_pair[part.atom]) {
        decay = load(sum.decay + part.atom * sum.n_heads + part.head, part.n);
        power_ = decay * T(kLog2E);
        sigma_ = broadcast(std::numeric_limits<T>::infinity());
        for (int h = 0; h < part.n; ++h) sigma_[h] = std::sqrt(T(-0.5) / decay[h]);
    }

    SMOACS_HD std::int64_t pair(std::int64_t term) const { return sum_.pair[term] - first_pair_; }

    SMOACS_HD Heads<T> of(std::int64_t term, std::int64_t pair) const {
        const Heads<T> exponent = add_product(power_, broadcast(sum_.squares[term]), logits_[pair]);
        if (sum_.reach == nullptr) return exponent;
        return sigma_ > sum_.reach[term] ? exponent
                                         : broadcast(-std::numeric_limits<T>::infinity());
    }

    Heads<T> decay;

  private:
    const LatticeSum<T>& sum_;
    const Heads<T>* logits_;
    std::int64_t first_pair_;
    Heads<T> power_, sigma_;
};

template <typename T>
SMOACS_HD void forward_part(const LatticeAttentionJob<T>& job, const Window<T>& window,
                            const Part& part, Scratch<T>& scratch) {
    const auto& sum = job.sum;
    const std::int64_t heads = sum.n_heads, n_pairs = sum.pair_count[part.atom];
    const std::int64_t n_terms = sum.term_count[part.atom], first = sum.first_term[part.atom];
    const std::int64_t pair_row = sum.first_pair[part.atom] * heads + part.head;
    Heads<T>*const logits = scratch.logits.data(), *const pairs = scratch.pairs.data();
    Heads<T>*const terms = scratch.terms.data(), *const functions = scratch.functions.data();
    std::int64_t* const kept = scratch.kept.data();
    T* const basis = scratch.basis.data();
    for (std::int64_t p = 0; p < n_pairs; ++p) {
        logits[p] = load(sum.pair_logits + pair_row + p * heads, part.n) * T(kLog2E);
        pairs[p] = broadcast(T(0));
    }
    const Exponents<T> exponents(sum, part, logits);
    Heads<T> top = broadcast(-std::numeric_limits<T>::infinity());
    for (std::int64_t t = 0; t < n_terms; ++t) {
        terms[t] = exponents.of(first + t, exponents.pair(first + t));
        top = terms[t] > top ? terms[t] : top;
    }
    Heads<T> norm = broadcast(T(0));
    std::int64_t n_kept = 0;
    for (std::int64_t t = 0; t < n_terms; ++t) {
        const Heads<T> exponent = terms[t] - top;
        terms[t] = exp2_or_nothing<T>(exponent);
        norm += terms[t];
        pairs[exponents.pair(first + t)] += terms[t];
        kept[n_kept] = t;
        n_kept += largest<T>(exponent) > kLeastPower<T>;
    }
    for (std::int64_t k = 0; k < window.n_functions(); ++k) functions[k] = broadcast(T(0));
    for (std::int64_t i = 0; i < n_kept; ++i) {
        const T length = sum.lengths[first + kept[i]];
        const std::int64_t begin = window.first(length);
        window.values(begin, length, basis, scratch.moments.data());
        const Heads<T> weight = terms[kept[i]];
        for (std::int64_t k = 0; k < window.size(); ++k) {
            functions[begin + k] = add_product(weight, broadcast(basis[k]), functions[begin + k]);
        }
    }
    const Heads<T> share = T(1) / norm;
    Heads<T> level = top;
    for (int h = 0; h < part.n; ++h) {
        level[h] = static_cast<T>(top[h] + log_positive(norm[h]) * kLog2E);
    }
    store<T>(level, part.n, job.level + part.atom * heads + part.head);
    for (std::int64_t p = 0; p < n_pairs; ++p) {
        store<T>(pairs[p] * share, part.n, job.weights + pair_row + p * heads);
    }
    T* const radial = job.radial + (part.atom * heads + part.head) * sum.n_functions;
    for (int h = 0; h < part.n; ++h) {
        for (std::int64_t k = 0; k < sum.n_functions; ++k) {
            radial[h * sum.n_functions + k] = functions[k][h] * share[h];
        }
    }
}

template <typename T>
SMOACS_HD void backward_part(const LatticeGradientJob<T>& job, const Window<T>& window,
                             const Part& part, Scratch<T>& scratch) {
    const auto& sum = job.sum;
    const std::int64_t heads = sum.n_heads, n_pairs = sum.pair_count[part.atom];
    const std::int64_t first = sum.first_term[part.atom];
    const std::int64_t end = first + sum.term_count[part.atom];
    const std::int64_t pair_row = sum.first_pair[part.atom] * heads + part.head;
    const std::int64_t row = (part.atom * heads + part.head) * sum.n_functions;
    Heads<T>*const logits = scratch.logits.data(), *const pairs = scratch.pairs.data();
    Heads<T>*const outer = scratch.outer.data(), *const functions = scratch.functions.data();
    Heads<T>* const terms = scratch.terms.data();
    std::int64_t* const kept = scratch.kept.data();
    T *const basis = scratch.basis.data(), *const moments = scratch.moments.data();
    for (std::int64_t k = 0; k < window.n_functions(); ++k) functions[k] = broadcast(T(0));
    // Mean of the terms' gradients over the softmax, from what was summed up forward.
    Heads<T> mean = broadcast(T(0));
    for (int h = 0; h < part.n; ++h) {
        const T* const grad = job.grad_radial + row + h * sum.n_functions;
        const T* const radial = job.radial + row + h * sum.n_functions;
        mean[h] =
            sum_columns<T>(sum.n_functions, [&](std::int64_t k) { return grad[k] * radial[k]; });
        for (std::int64_t k = 0; k < sum.n_functions; ++k) functions[k][h] = grad[k];
    }
    const Heads<T> level = load(job.level + part.atom * heads + part.head, part.n);
    for (std::int64_t p = 0; p < n_pairs; ++p) {
        logits[p] = load(sum.pair_logits + pair_row + p * heads, part.n) * T(kLog2E) - level;
        outer[p] = load(job.grad_weights + pair_row + p * heads, part.n);
        mean += load(job.weights + pair_row + p * heads, part.n) * outer[p];
        pairs[p] = broadcast(T(0));
    }
    for (std::int64_t p = 0; p < n_pairs; ++p) outer[p] -= mean;
    const Exponents<T> exponents(sum, part, logits);
    Heads<T> grad_decay = broadcast(T(0));
    const T per_square = 1 / (sum.width * sum.width);
    std::int64_t n_kept = 0;
    for (std::int64_t t = first; t < end; ++t) {
        const Heads<T> exponent = exponents.of(t, exponents.pair(t));
        terms[n_kept] = exponent;
        kept[n_kept] = t;
        n_kept += largest<T>(exponent) > kLeastPower<T>;
    }
    for (std::int64_t i = 0; i < n_kept; ++i) {
        const std::int64_t t = kept[i], pair = exponents.pair(t);
        const T length = sum.lengths[t];
        const std::int64_t begin = window.first(length);
        window.values(begin, length, basis, moments);
        const Heads<T>* const slopes = functions + begin;
        // Two sums each, that need not wait for each other.
        Heads<T> inner = broadcast(T(0)), inner_odd = inner, moment = inner, moment_odd = inner;
        for (std::int64_t k = 0; k < window.size(); k += 2) {
            inner = add_product(slopes[k], broadcast(basis[k]), inner);
            moment = add_product(slopes[k], broadcast(moments[k]), moment);
            inner_odd = add_product(slopes[k + 1], broadcast(basis[k + 1]), inner_odd);
            moment_odd = add_product(slopes[k + 1], broadcast(moments[k + 1]), moment_odd);
        }
        const Heads<T> weight = exp2_or_nothing<T>(terms[i]);
        const Heads<T> grad = (outer[pair] + (inner + inner_odd)) * weight;
        pairs[pair] += grad;
        grad_decay += grad * sum.squares[t];
        job.grad_lengths[t] += total<T>((moment + moment_odd) * weight) * per_square;
        job.grad_squares[t] += total<T>(grad * exponents.decay);
    }
    store<T>(grad_decay, part.n, job.grad_decay + part.atom * heads + part.head);
    for (std::int64_t p = 0; p < n_pairs; ++p) {
        store<T>(pairs[p], part.n, job.grad_logits + pair_row + p * heads);
    }
}

template <typename T>
SMOACS_CLONES void run_part(const LatticeAttentionJob<T>& job, const Window<T>& window,
                            const Part& part, Scratch<T>& scratch) {
    forward_part(job, window, part, scratch);
}

template <typename T>
SMOACS_CLONES void run_part(const LatticeGradientJob<T>& job, const Window<T>& window,
                            const Part& part, Scratch<T>& scratch) {
    backward_part(job, window, part, scratch);
}

template <typename T>
void check(const LatticeSum<T>& sum) {
    bool good = true;
    for (std::int64_t a = 0; a < sum.n_atoms && good; ++a) {
        const std::int64_t term = sum.first_term[a], pair = sum.first_pair[a];
        const std::int64_t terms = sum.term_count[a], pairs = sum.pair_count[a];
        good = term >= 0 && terms >= 1 && terms <= sum.n_terms - term && pair >= 0 && pairs >= 1 &&
               pairs <= sum.n_pairs - pair;
        if (!good) break;
        for (std::int64_t t = term; t < term + terms; ++t) {
            good &= sum.pair[t] >= pair && sum.pair[t] < pair + pairs;
        }
    }
    if (!good) throw std::invalid_argument("terms or pairs of an atom are not there");
}

template <typename T, typename Job>
void run(const Job& job) {
    const LatticeSum<T>& sum = job.sum;
    if (sum.n_atoms == 0) return;
    const Window<T> window(sum);
    const std::int64_t n = (sum.n_atoms + kAtoms - 1) / kAtoms;
    const int threads = num_threads(sum.n_terms * sum.n_heads / kWorkPerThread);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Scratch<T> scratch(sum, window);
#pragma omp for schedule(dynamic)
        for (std::int64_t i = 0; i < n; ++i) {
            const std::int64_t end = std::min(sum.n_atoms, (i + 1) * kAtoms);
            for (std::int64_t a = i * kAtoms; a < end; ++a) {
                for (std::int64_t h = 0; h < sum.n_heads; h += kHeads) {
                    const int count =
                        static_cast<int>(std::min<std::int64_t>(kHeads, sum.n_heads - h));
                    run_part(job, window, {a, h, count}, scratch);
                }
            }
        }
    }
}

}  // namespace

template <typename T>
void lattice_attention(const LatticeAttentionJob<T>& job) {
    check(job.sum);
    run<T>(job);
}

template <typename T>
void lattice_attention_backward(const LatticeGradientJob<T>& job) {
    run<T>(job);
}

#define SMOACS_INSTANTIATE(T)                                       \
    template void lattice_attention(const LatticeAttentionJob<T>&); \
    template void lattice_attention_backward(const LatticeGradientJob<T>&);
SMOACS_INSTANTIATE(float)
SMOACS_INSTANTIATE(double)
#undef SMOACS_INSTANTIATE

}  // namespace smoacs::cpu
