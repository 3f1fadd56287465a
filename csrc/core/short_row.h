// A row of up to 128 numbers in registers, in parts. On the CPU a part is a vector as wide as the
// instruction set that the file is compiled for has them; on a GPU the 32 threads of a warp hold a
// number each. Both run the same source, and sums add up in the same order.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "core/macros.h"
#include "core/math.h"
#include "core/row.h"

namespace smoacs {

constexpr int kLongestRow = 128;

#ifdef __CUDACC__
template <typename T>
using Part = T;
template <typename T>
using Mask = bool;
constexpr int kSizeStep = 32;
#else
#if defined(__AVX512DQ__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
template <typename T>
using Part = typename Pack<T, kVectorBytes / sizeof(T)>::type;
constexpr int kSizeStep = 16;
#ifdef __AVX512DQ__
template <typename T>
using Mask = std::conditional_t<sizeof(T) == 4, std::uint16_t, std::uint8_t>;
#else
template <typename T>
using Mask = decltype(Part<T>() < Part<T>());
#endif
#endif

// Positions of a row that belong to one part, in all threads.
#ifdef __CUDACC__
template <typename T>
constexpr int kSpan = kLanes;
#else
template <typename T>
constexpr int kSpan = sizeof(Part<T>) / sizeof(T);
#endif

// Rows come in the sizes 32, 64, 96 and 128, and on the CPU 112.
template <int Size>
constexpr int kLeast = Size - (Size > 96 ? kSizeStep : 32) + 1;

// Calls f(std::integral_constant<int, size>()) with the smallest size that holds n numbers.
template <typename F>
auto with_row_size(int n, F&& f) {
    if (n <= 32) return f(std::integral_constant<int, 32>());
    if (n <= 64) return f(std::integral_constant<int, 64>());
    if (n <= 96) return f(std::integral_constant<int, 96>());
    if (n <= 128 - kSizeStep) return f(std::integral_constant<int, 128 - kSizeStep>());
    return f(std::integral_constant<int, 128>());
}

template <typename T, int Size>
struct Row {
    static constexpr int n = (Size + kSpan<T> - 1) / kSpan<T>;
    Part<T> part[n];
    SMOACS_LANES Part<T>& operator[](int p) { return part[p]; }
    SMOACS_LANES const Part<T>& operator[](int p) const { return part[p]; }
};

// N numbers that all lanes know. On a GPU each lane keeps one of them.
template <typename T, int N>
struct PerLane {
#ifdef __CUDACC__
    static_assert(N <= kLanes, "a lane keeps one number");
    T mine;
    SMOACS_LANES void set(int i, T value) { mine = lane_of(0) == i ? value : mine; }
    SMOACS_LANES T operator[](int i) const { return __shfl_sync(0xffffffffu, mine, i); }
#else
    T of[N];
    SMOACS_LANES void set(int i, T value) { of[i] = value; }
    SMOACS_LANES T operator[](int i) const { return of[i]; }
#endif
};

// --- Masks: bit z % 32 of word z / 32 stands for position z --------------------------------------

#if !defined(__CUDACC__) && !defined(__AVX512DQ__)
template <typename T>
struct LaneBits {
    alignas(64) T of[kLanes];
    constexpr LaneBits() : of() {
        for (int i = 0; i < kLanes; ++i) of[i] = T(1) << i;
    }
};
template <typename T>
constexpr LaneBits<T> kLaneBits;
#endif

// The positions of part p that a mask allows.
template <typename T>
SMOACS_LANES Mask<T> mask_part(const std::uint32_t* words, int p) {
#if defined(__CUDACC__)
    return (words[p] >> lane_of(0) & 1u) != 0;
#elif defined(__AVX512DQ__)
    // Straight from memory: compilers go through a general register, which takes twice as long.
    struct Bytes {
        Mask<T> of;
    } __attribute__((packed, may_alias));
    const auto& from = reinterpret_cast<const Bytes*>(words)[p];
    Mask<T> mask;
    if constexpr (sizeof mask == 2) {
        asm("kmovw %1, %0" : "=k"(mask) : "m"(from));
    } else {
        asm("kmovb %1, %0" : "=k"(mask) : "m"(from));
    }
    return mask;
#else
    using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
    const int first = p * kSpan<T>;
    Part<Bits> bits;
    memcpy(&bits, kLaneBits<Bits>.of + first % kLanes, sizeof bits);
    return (bits & Bits(words[first / kLanes])) != 0;
#endif
}

// The positions of part p that are below `size`.
template <typename T>
SMOACS_LANES Mask<T> below(int size, int p) {
    const int rest = size - p * kSpan<T>;
#if defined(__CUDACC__)
    return lane_of(0) < rest;
#elif defined(__AVX512DQ__)
    return static_cast<Mask<T>>(_bzhi_u32((1u << kSpan<T>)-1u, rest < 0 ? 0 : rest));
#else
    decltype(Part<T>() < Part<T>()) mask;
    for (int i = 0; i < kSpan<T>; ++i) mask[i] = i < rest ? -1 : 0;
    return mask;
#endif
}

// The same number at every position.
template <typename T>
SMOACS_LANES Part<T> all_of(T value) {
    return value - Part<T>{};
}

template <typename V>
SMOACS_LANES V larger(V a, V b) {
    return a > b ? a : b;
}
#if !defined(__CUDACC__) && defined(__AVX512DQ__)
SMOACS_LANES Part<float> select(std::uint16_t mask, Part<float> a, Part<float> b) {
    return _mm512_mask_mov_ps(b, mask, a);
}
SMOACS_LANES Part<double> select(std::uint8_t mask, Part<double> a, Part<double> b) {
    return _mm512_mask_mov_pd(b, mask, a);
}
SMOACS_LANES void add_where(std::uint16_t mask, Part<float> x, Part<float>& sum) {
    sum = _mm512_mask_add_ps(sum, mask, sum, x);
}
SMOACS_LANES void add_where(std::uint8_t mask, Part<double> x, Part<double>& sum) {
    sum = _mm512_mask_add_pd(sum, mask, sum, x);
}
SMOACS_LANES Part<float> larger(Part<float> a, Part<float> b) {
    return _mm512_mask_max_ps(a, 0xffff, a, b);
}
SMOACS_LANES Part<double> larger(Part<double> a, Part<double> b) {
    return _mm512_mask_max_pd(a, 0xff, a, b);
}
SMOACS_LANES Part<float> load_where(std::uint16_t mask, const float* from) {
    return _mm512_maskz_loadu_ps(mask, from);
}
SMOACS_LANES Part<double> load_where(std::uint8_t mask, const double* from) {
    return _mm512_maskz_loadu_pd(mask, from);
}
SMOACS_LANES void store_where(std::uint16_t mask, Part<float> x, float* to) {
    _mm512_mask_storeu_ps(to, mask, x);
}
SMOACS_LANES void store_where(std::uint8_t mask, Part<double> x, double* to) {
    _mm512_mask_storeu_pd(to, mask, x);
}
#else
template <typename M, typename V>
SMOACS_LANES V select(M mask, V a, V b) {
    return mask ? a : b;
}
template <typename M, typename V>
SMOACS_LANES void add_where(M mask, V x, V& sum) {
    sum = mask ? sum + x : sum;
}
#endif

#ifdef __CUDACC__
template <typename T>
using Several = Single<T>;
#else
// Parts of rows, as exp2_products takes them.
template <typename T>
struct Several {
    using Number = T;
    using V = Part<T>;
    using U = Part<typename Single<T>::U>;
    SMOACS_HD static V multiply_add(const V& a, const V& b, const V& c) {
#if defined(__AVX512DQ__)
        if constexpr (sizeof(T) == 4) {
            return _mm512_fmadd_ps(a, b, c);
        } else {
            return _mm512_fmadd_pd(a, b, c);
        }
#elif defined(__FMA__)
        if constexpr (sizeof(T) == 4) {
            return _mm256_fmadd_ps(a, b, c);
        } else {
            return _mm256_fmadd_pd(a, b, c);
        }
#else
        V sum;
        for (int i = 0; i < kSpan<T>; ++i) sum[i] = smoacs::multiply_add(a[i], b[i], c[i]);
        return sum;
#endif
    }
};
#endif

// Parts of a row whose powers are taken together: as many as fit the registers four times. Without
// AVX2 all of them: each multiply-add is a call, in a loop that had better stay one.
#if defined(__AVX512DQ__)
constexpr int kAtOnce = 8;
#elif defined(__AVX2__)
constexpr int kAtOnce = 3;
#else
constexpr int kAtOnce = kLongestRow;
#endif

// Turns numbers x of a row, from part First on, into 2^(x rate), where no x rate is above 0.
template <int First = 0, typename T, int Size>
SMOACS_LANES void exp2_row(Row<T, Size>& row, T rate) {
    constexpr int rest = row.n - First, n = rest < kAtOnce ? rest : kAtOnce;
    Part<T> few[n];
    SMOACS_UNROLLED
    for (int i = 0; i < n; ++i) few[i] = row[First + i];
    exp2_products<Several<T>>(few, all_of(rate));
    SMOACS_UNROLLED
    for (int i = 0; i < n; ++i) row[First + i] = few[i];
    if constexpr (n < rest) exp2_row<First + n>(row, rate);
}

// --- Memory --------------------------------------------------------------------------------------

// Part p of a row of `size` numbers, with zeros past its end.
template <int Size, typename T>
SMOACS_LANES Part<T> load_part(const T* row, int size, int p) {
    const T* from = row + p * kSpan<T>;
#if defined(__CUDACC__)
    return lane_of(0) < size - p * kSpan<T> ? from[lane_of(0)] : T(0);
#else
    if ((p + 1) * kSpan<T> <= kLeast<Size>) {
        Part<T> part;
        memcpy(&part, from, sizeof part);
        return part;
    }
#if defined(__AVX512DQ__)
    return load_where(below<T>(size, p), from);
#else
    Part<T> part{};
    for (int i = 0; i < kSpan<T>; ++i) {
        if (i < size - p * kSpan<T>) part[i] = from[i];
    }
    return part;
#endif
#endif
}

template <int Size, typename T>
SMOACS_LANES void store_part(const Part<T>& part, T* row, int size, int p) {
    T* to = row + p * kSpan<T>;
#if defined(__CUDACC__)
    if (lane_of(0) < size - p * kSpan<T>) to[lane_of(0)] = part;
#else
    if ((p + 1) * kSpan<T> <= kLeast<Size>) {
        memcpy(to, &part, sizeof part);
        return;
    }
#if defined(__AVX512DQ__)
    store_where(below<T>(size, p), part, to);
#else
    for (int i = 0; i < kSpan<T>; ++i) {
        if (i < size - p * kSpan<T>) to[i] = part[i];
    }
#endif
#endif
}

// --- Reductions ----------------------------------------------------------------------------------

struct Max {
    template <typename V>
    SMOACS_LANES static void into(V& a, const V& b) {
        a = larger(a, b);
    }
};

#ifndef __CUDACC__
// The numbers of a vector from place First on, then again those from its beginning.
template <typename T, int First, typename V, int... I>
SMOACS_LANES auto rotated(const V& vector, std::integer_sequence<int, I...>) {
    constexpr int n = sizeof(V) / sizeof(T);
#if defined(__has_builtin) && __has_builtin(__builtin_shufflevector)
    return __builtin_shufflevector(vector, vector, (First + I) % n...);
#else
    return typename Pack<T, sizeof...(I)>::type{vector[(First + I) % n]...};
#endif
}

// The first N numbers of a vector combined, halves first. (Copies of bytes would go through
// memory.)
template <typename Op, typename T, int N, typename V>
SMOACS_LANES T fold_vector(const V& vector) {
    if constexpr (N == 1) {
        return vector[0];
    } else {
        constexpr int half = N / 2, least = 16 / sizeof(T);
        constexpr auto lanes = std::make_integer_sequence < int, half<least ? least : half>();
        auto low = rotated<T, 0>(vector, lanes);
        Op::into(low, rotated<T, half>(vector, lanes));
        return fold_vector<Op, T, half>(low);
    }
}
#endif

// Combines the parts of a row into one number that all threads know. first(p) gives those of the
// first 32 positions, next(p, a) puts a later one into an earlier.
template <typename Op, typename T, int Size, typename First, typename Next>
SMOACS_LANES T reduce(First&& first, Next&& next) {
    constexpr int n = Row<T, Size>::n, per_word = kLanes / kSpan<T>;
    Part<T> word[per_word];
    for (int p = 0; p < per_word; ++p) word[p] = first(p);
    SMOACS_UNROLLED
    for (int p = per_word; p < n; ++p) next(p, word[p % per_word]);
    for (int half = per_word / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) Op::into(word[i], word[i + half]);
    }
#ifdef __CUDACC__
    return fold<Op>(word);
#else
    return fold_vector<Op, T, kSpan<T>>(word[0]);
#endif
}

// Sum or largest of the parts f(p).
template <typename Op, typename T, int Size, typename F>
SMOACS_LANES T reduce(F&& f) {
    return reduce<Op, T, Size>(f, [&](int p, Part<T>& to) SMOACS_INLINE { Op::into(to, f(p)); });
}

// Sum over the positions that a mask allows.
template <typename T, int Size>
SMOACS_LANES T masked_sum(const std::uint32_t* may, const Row<T, Size>& row) {
    return reduce<Sum, T, Size>(
        [&](int p) SMOACS_INLINE { return select(mask_part<T>(may, p), row[p], Part<T>{}); },
        [&](int p, Part<T>& to) SMOACS_INLINE { add_where(mask_part<T>(may, p), row[p], to); });
}

}  // namespace smoacs
