#include "cpu/lattice_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <utility>

#include "core/math.h"
#include "core/ragged.h"
#include "core/row.h"
#include "cpu/buffer.h"
#include "cpu/gaussian_window.h"
#include "cpu/heads.h"
#include "cpu/threads.h"

namespace smoacs::cpu {

namespace {

// Atoms that a thread takes at a time.
constexpr std::int64_t kAtoms = 16;
// Fewer terms times heads than this per thread are not worth waking it.
constexpr std::int64_t kWorkPerThread = 1 << 12;

enum Vector { kQuery, kKey, kValue };

// Eight heads of an atom.
template <typename T>
struct Part {
    const LatticeSum<T>& sum;
    std::int64_t atom, head;
    std::int64_t crystal, first_atom, n_atoms;  // of its crystal

    SMOACS_HD std::int64_t own() const { return atom - first_atom; }

    // The same heads of an array (A, H).
    template <typename U>
    SMOACS_HD U* of_heads(U* values) const {
        return values + atom * sum.n_heads + head;
    }

    // Rows of all atoms of the crystal.
    SMOACS_HD Rows<T> vectors(Vector which) const {
        const std::int64_t first = (3 * first_atom + which) * row_size();
        return {sum.vectors + first + head, 3 * row_size(), sum.n_heads};
    }
    SMOACS_HD Rows<T> rows(const T* values) const {
        return {values + first_atom * row_size() + head, row_size(), sum.n_heads};
    }

    SMOACS_HD T* vector(Vector which, T* vectors) const {
        return vectors + (3 * atom + which) * row_size() + head;
    }

    SMOACS_HD Rows<T> added() const { return {sum.added + head, row_size(), sum.n_heads}; }

    SMOACS_HD std::int64_t row_size() const { return sum.head_width * sum.n_heads; }

    SMOACS_HD void take(const Rows<T>& rows, Heads<T>* row) const {
        for (std::int64_t d = 0; d < sum.head_width; ++d) row[d] = rows.at(own(), d);
    }
    SMOACS_HD void put(const Heads<T>* row, const Heads<T>& factor, T* to) const {
        for (std::int64_t d = 0; d < sum.head_width; ++d) {
            store<T>(row[d] * factor, to + d * sum.n_heads);
        }
    }
};

// What one thread needs for a part.
template <typename T>
struct Scratch {
    Buffer<Heads<T>> row, sums;                      // (D)
    Buffer<Heads<T>> logits, weights, grads, outer;  // by atom of the crystal
    Buffer<Heads<T>> terms, functions;
    Buffer<std::int64_t> kept;
    Buffer<T> basis, moments;

    Scratch(const LatticeSum<T>& sum, const GaussianWindow<T>& window) {
        std::int64_t n_atoms = 0, n_terms = 0;
        for (std::int64_t c = 0; c < sum.n_crystals; ++c) {
            n_atoms = std::max(n_atoms, sum.ptr[c + 1] - sum.ptr[c]);
        }
        for (std::int64_t a = 0; a < sum.n_atoms; ++a) {
            n_terms = std::max(n_terms, sum.first_term[a + 1] - sum.first_term[a]);
        }
        for (auto* values : {&row, &sums}) values->resize(sum.head_width);
        for (auto* values : {&logits, &weights, &grads, &outer}) values->resize(n_atoms);
        terms.resize(n_terms + 1);
        kept.resize(n_terms + 1);
        functions.resize(window.n_functions());
        basis.resize(window.size());
        moments.resize(window.size());
    }
};

// The terms of an atom, the atom itself last since it weighs most.
template <typename T>
class Terms {
  public:
    SMOACS_HD Terms(const Part<T>& part, const Heads<T>* logits)
        : part_(part),
          sum_(part.sum),
          logits_(logits),
          first_(sum_.first_term[part.atom]),
          itself_(sum_.first_term[part.atom + 1] - first_) {
        decay = load(part.of_heads(sum_.decay));
        power_ = decay * T(kLog2E);
        for (int h = 0; h < kHeads; ++h) sigma_[h] = std::sqrt(T(-0.5) / decay[h]);
    }

    SMOACS_HD std::int64_t size() const { return itself_ + 1; }
    SMOACS_HD bool is_itself(std::int64_t t) const { return t == itself_; }
    SMOACS_HD std::int64_t number(std::int64_t t) const { return first_ + t; }

    // Which atom of the crystal it is an image of.
    SMOACS_HD std::int64_t atom(std::int64_t t) const {
        return is_itself(t) ? part_.own() : sum_.image_of[number(t)] - part_.first_atom;
    }
    SMOACS_HD T length(std::int64_t t) const { return is_itself(t) ? 0 : sum_.lengths[number(t)]; }
    SMOACS_HD T square(std::int64_t t) const { return is_itself(t) ? 0 : sum_.squares[number(t)]; }

    // To base 2.
    SMOACS_HD Heads<T> exponent(std::int64_t t) const {
        const Heads<T> exponent = add_product(power_, broadcast(square(t)), logits_[atom(t)]);
        if (sum_.reach == nullptr || is_itself(t)) return exponent;
        return sigma_ > sum_.reach[number(t)] ? exponent
                                              : broadcast(-std::numeric_limits<T>::infinity());
    }

    Heads<T> decay;

  private:
    const Part<T>& part_;
    const LatticeSum<T>& sum_;
    const Heads<T>* logits_;
    std::int64_t first_, itself_;
    Heads<T> power_, sigma_;
};

template <typename T>
SMOACS_HD T scale(const LatticeSum<T>& sum) {
    return static_cast<T>(1 / std::sqrt(static_cast<double>(sum.head_width)));
}

// Logits to base 2 of the pairs with all atoms of the crystal, less the level.
template <typename T>
SMOACS_HD void pair_logits(const Part<T>& part, const Heads<T>& level, Scratch<T>& scratch) {
    Heads<T>*const query = scratch.row.data(), *const logits = scratch.logits.data();
    const Rows<T> keys = part.vectors(kKey);
    const std::int64_t head_width = part.sum.head_width;
    const T factor = scale(part.sum) * T(kLog2E);
    part.take(part.vectors(kQuery), query);
    for (std::int64_t b = 0; b < part.n_atoms; ++b) {
        logits[b] = keys.dot(query, b, head_width) * factor - level;
    }
}

template <typename T>
SMOACS_HD void forward_part(const LatticeAttentionJob<T>& job, const GaussianWindow<T>& window,
                            const Part<T>& part, Scratch<T>& scratch) {
    const auto& sum = job.sum;
    Heads<T>*const weights = scratch.weights.data(), *const exps = scratch.terms.data();
    Heads<T>*const functions = scratch.functions.data(), *const out = scratch.sums.data();
    std::int64_t* const kept = scratch.kept.data();
    T* const basis = scratch.basis.data();
    pair_logits(part, broadcast(T(0)), scratch);
    std::fill_n(weights, part.n_atoms, broadcast(T(0)));
    const Terms<T> terms(part, scratch.logits.data());
    Heads<T> top = broadcast(-std::numeric_limits<T>::infinity());
    for (std::int64_t t = 0; t < terms.size(); ++t) {
        exps[t] = terms.exponent(t);
        top = exps[t] > top ? exps[t] : top;
    }
    Heads<T> norm = broadcast(T(0));
    std::int64_t n_kept = 0;
    for (std::int64_t t = 0; t < terms.size(); ++t) {
        const Heads<T> exponent = exps[t] - top;
        exps[t] = exp2_or_nothing<T>(exponent);
        norm += exps[t];
        weights[terms.atom(t)] += exps[t];
        kept[n_kept] = t;
        n_kept += largest<T>(exponent) > kLeastPower<T>;
    }
    std::fill_n(functions, window.n_functions(), broadcast(T(0)));
    for (std::int64_t i = 0; i < n_kept; ++i) {
        const T length = terms.length(kept[i]);
        const std::int64_t begin = window.first(length);
        window.values(begin, length, basis, scratch.moments.data());
        const Heads<T> weight = exps[kept[i]];
        for (std::int64_t k = 0; k < window.size(); ++k) {
            functions[begin + k] = add_product(weight, broadcast(basis[k]), functions[begin + k]);
        }
    }
    std::fill_n(out, sum.head_width, broadcast(T(0)));
    const auto weight = [=](std::int64_t b) SMOACS_INLINE { return weights[b]; };
    const auto function = [=](std::int64_t k) SMOACS_INLINE { return functions[k]; };
    part.vectors(kValue).add_to(out, part.n_atoms, weight, sum.head_width);
    part.added().add_to(out, sum.n_functions, function, sum.head_width);
    const Heads<T> share = T(1) / norm;
    part.put(out, share, job.out + part.atom * part.row_size() + part.head);
    Heads<T> level = top;
    for (int h = 0; h < kHeads; ++h) {
        level[h] = static_cast<T>(top[h] + log_positive(norm[h]) * kLog2E);
    }
    store<T>(level, part.of_heads(job.level));
    if (job.radial == nullptr) return;
    for (std::int64_t k = 0; k < sum.n_functions; ++k) {
        T* const to = job.radial + (part.atom * sum.n_functions + k) * sum.n_heads + part.head;
        store<T>(functions[k] * share, to);
    }
}

// Of each pair of atoms of a crystal: the weight, and the gradient of the logit.
template <typename T>
class Pairs {
  public:
    explicit Pairs(const LatticeSum<T>& sum) {
        first_.resize(sum.n_crystals);
        std::int64_t n_pairs = 0;
        for (std::int64_t c = 0; c < sum.n_crystals; ++c) {
            const std::int64_t n = sum.ptr[c + 1] - sum.ptr[c];
            first_[c] = std::exchange(n_pairs, n_pairs + n * n);
        }
        weights.resize(n_pairs * sum.n_heads);
        grads.resize(n_pairs * sum.n_heads);
    }

    // Place of the part's heads of the pair of the atoms a and b of its crystal.
    SMOACS_HD std::int64_t place(const Part<T>& part, std::int64_t a, std::int64_t b) const {
        return (first_[part.crystal] + a * part.n_atoms + b) * part.sum.n_heads + part.head;
    }

    Buffer<T> weights, grads;

  private:
    Buffer<std::int64_t> first_;
};

// Gradients of what belongs to the atom that attends.
template <typename T>
SMOACS_HD void backward_part(const LatticeGradientJob<T>& job, const GaussianWindow<T>& window,
                             Pairs<T>& pairs, const Part<T>& part, Scratch<T>& scratch) {
    const auto& sum = job.sum;
    const std::int64_t head_width = sum.head_width, n_atoms = part.n_atoms;
    Heads<T>*const weights = scratch.weights.data(), *const grads = scratch.grads.data();
    Heads<T>*const outer = scratch.outer.data(), *const functions = scratch.functions.data();
    Heads<T>*const exponents = scratch.terms.data(), *const row = scratch.row.data();
    Heads<T>* const sums = scratch.sums.data();
    std::int64_t* const kept = scratch.kept.data();
    T *const basis = scratch.basis.data(), *const moments = scratch.moments.data();
    pair_logits(part, load(part.of_heads(job.level)), scratch);
    part.take(part.rows(job.grad_out), row);
    // Mean of the terms' gradients over the softmax.
    const Heads<T> mean = part.rows(job.out).dot(row, part.own(), head_width);
    const Rows<T> values = part.vectors(kValue), added = part.added();
    for (std::int64_t b = 0; b < n_atoms; ++b) {
        outer[b] = values.dot(row, b, head_width) - mean;
        weights[b] = grads[b] = broadcast(T(0));
    }
    for (std::int64_t k = 0; k < sum.n_functions; ++k) {
        functions[k] = added.dot(row, k, head_width);
    }
    std::fill_n(functions + sum.n_functions, window.n_functions() - sum.n_functions,
                broadcast(T(0)));
    const Terms<T> terms(part, scratch.logits.data());
    Heads<T> grad_decay = broadcast(T(0));
    const T per_square = 1 / (sum.width * sum.width);
    std::int64_t n_kept = 0;
    for (std::int64_t t = 0; t < terms.size(); ++t) {
        const Heads<T> exponent = terms.exponent(t);
        exponents[n_kept] = exponent;
        kept[n_kept] = t;
        n_kept += largest<T>(exponent) > kLeastPower<T>;
    }
    for (std::int64_t i = 0; i < n_kept; ++i) {
        const std::int64_t t = kept[i], atom = terms.atom(t);
        const T length = terms.length(t);
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
        const Heads<T> weight = exp2_or_nothing<T>(exponents[i]);
        const Heads<T> grad = (outer[atom] + (inner + inner_odd)) * weight;
        weights[atom] += weight;
        grads[atom] += grad;
        if (terms.is_itself(t)) continue;
        grad_decay += grad * terms.square(t);
        const std::int64_t number = terms.number(t);
        job.grad_lengths[number] += total<T>((moment + moment_odd) * weight) * per_square;
        job.grad_squares[number] += total<T>(grad * terms.decay);
    }
    store<T>(grad_decay, part.of_heads(job.grad_decay));
    for (std::int64_t b = 0; b < n_atoms; ++b) {
        const std::int64_t place = pairs.place(part, part.own(), b);
        store<T>(weights[b], pairs.weights.data() + place);
        store<T>(grads[b], pairs.grads.data() + place);
    }
    std::fill_n(sums, head_width, broadcast(T(0)));
    const auto grad = [=](std::int64_t b) SMOACS_INLINE { return grads[b]; };
    part.vectors(kKey).add_to(sums, n_atoms, grad, head_width);
    part.put(sums, broadcast(scale(sum)), part.vector(kQuery, job.grad_vectors));
}

// Gradients of what belongs to the atom that is attended to.
template <typename T>
SMOACS_HD void image_part(const LatticeGradientJob<T>& job, const Pairs<T>& pairs,
                          const Part<T>& part, Scratch<T>& scratch) {
    const std::int64_t head_width = job.sum.head_width;
    Heads<T>* const sums = scratch.sums.data();
    const auto of = [&](const Buffer<T>& values) SMOACS_INLINE {
        const T* const all = values.data();
        return [&pairs, &part, all](std::int64_t a)
                   SMOACS_INLINE { return load(all + pairs.place(part, a, part.own())); };
    };
    std::fill_n(sums, head_width, broadcast(T(0)));
    part.vectors(kQuery).add_to(sums, part.n_atoms, of(pairs.grads), head_width);
    part.put(sums, broadcast(scale(job.sum)), part.vector(kKey, job.grad_vectors));
    std::fill_n(sums, head_width, broadcast(T(0)));
    part.rows(job.grad_out).add_to(sums, part.n_atoms, of(pairs.weights), head_width);
    part.put(sums, broadcast(T(1)), part.vector(kValue, job.grad_vectors));
}

template <typename T>
SMOACS_CLONES void run_forward(const LatticeAttentionJob<T>& job, const GaussianWindow<T>& window,
                               const Part<T>& part, Scratch<T>& scratch) {
    forward_part(job, window, part, scratch);
}

template <typename T>
SMOACS_CLONES void run_backward(const LatticeGradientJob<T>& job, const GaussianWindow<T>& window,
                                Pairs<T>& pairs, const Part<T>& part, Scratch<T>& scratch) {
    backward_part(job, window, pairs, part, scratch);
}

template <typename T>
SMOACS_CLONES void run_images(const LatticeGradientJob<T>& job, const Pairs<T>& pairs,
                              const Part<T>& part, Scratch<T>& scratch) {
    image_part(job, pairs, part, scratch);
}

template <typename T>
void check(const LatticeSum<T>& sum) {
    const std::int64_t *const ptr = sum.ptr, *const first = sum.first_term;
    bool good = ptr[0] == 0 && ptr[sum.n_crystals] == sum.n_atoms && first[0] == 0 &&
                first[sum.n_atoms] == sum.n_terms &&
                std::is_sorted(ptr, ptr + sum.n_crystals + 1) &&
                std::is_sorted(first, first + sum.n_atoms + 1);
    if (sum.n_heads % kHeads != 0) throw std::invalid_argument("heads must come in eights");
    if (!good) throw std::invalid_argument("offsets of atoms or terms do not ascend to the last");
    for (std::int64_t c = 0; c < sum.n_crystals; ++c) {
        for (std::int64_t t = first[ptr[c]]; t < first[ptr[c + 1]]; ++t) {
            good &= sum.image_of[t] >= ptr[c] && sum.image_of[t] < ptr[c + 1];
        }
    }
    if (!good) throw std::invalid_argument("a term is no image of an atom of its crystal");
}

// Calls each of `passes`, one after the other, with all parts and a thread's scratch.
template <typename T, typename... Passes>
void run(const LatticeSum<T>& sum, const GaussianWindow<T>& window, Passes&&... passes) {
    const std::int64_t n_blocks = (sum.n_atoms + kAtoms - 1) / kAtoms;
    const int threads = num_threads(sum.n_terms * sum.n_heads / kWorkPerThread);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Scratch<T> scratch(sum, window);
        const auto run_pass = [&](auto&& pass) {
#pragma omp for schedule(dynamic)
            for (std::int64_t block = 0; block < n_blocks; ++block) {
                const std::int64_t end = std::min(sum.n_atoms, (block + 1) * kAtoms);
                for (std::int64_t a = block * kAtoms; a < end; ++a) {
                    const std::int64_t c = group_of(sum.ptr, sum.n_crystals, a);
                    const std::int64_t first = sum.ptr[c], n_atoms = sum.ptr[c + 1] - first;
                    for (std::int64_t h = 0; h < sum.n_heads; h += kHeads) {
                        pass(Part<T>{sum, a, h, c, first, n_atoms}, scratch);
                    }
                }
            }
        };
        (run_pass(passes), ...);
    }
}

template <typename T>
GaussianWindow<T> window_of(const LatticeSum<T>& sum) {
    return {sum.centers, sum.n_functions, sum.width};
}

}  // namespace

template <typename T>
void lattice_attention(const LatticeAttentionJob<T>& job) {
    check(job.sum);
    const GaussianWindow<T> window = window_of(job.sum);
    run(job.sum, window,
        [&](const auto& part, Scratch<T>& scratch) { run_forward(job, window, part, scratch); });
}

template <typename T>
void lattice_attention_backward(const LatticeGradientJob<T>& job) {
    const GaussianWindow<T> window = window_of(job.sum);
    Pairs<T> pairs(job.sum);
    run(
        job.sum, window,
        [&](const auto& part, Scratch<T>& scratch) {
            run_backward(job, window, pairs, part, scratch);
        },
        [&](const auto& part, Scratch<T>& scratch) { run_images(job, pairs, part, scratch); });
}

#define SMOACS_INSTANTIATE(T)                                       \
    template void lattice_attention(const LatticeAttentionJob<T>&); \
    template void lattice_attention_backward(const LatticeGradientJob<T>&);
SMOACS_INSTANTIATE(float)
SMOACS_INSTANTIATE(double)
#undef SMOACS_INSTANTIATE

}  // namespace smoacs::cpu
