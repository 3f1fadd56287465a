#include "cpu/collect.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define SMOACS_X86
#include <immintrin.h>
#endif

namespace smoacs::cpu {

namespace {

struct Ball {
    double x, y, z, square;
};

std::int64_t collect_any(Points p, std::int64_t begin, std::int64_t end, Ball ball,
                         std::int32_t* out, std::int64_t n) {
    for (std::int64_t i = begin; i < end; ++i) {
        const double dx = p.x[i] - ball.x, dy = p.y[i] - ball.y, dz = p.z[i] - ball.z;
        out[n] = static_cast<std::int32_t>(i);
        n += dx * dx + dy * dy + dz * dz <= ball.square;
    }
    return n;
}

#ifdef SMOACS_X86

// Compilers do not vectorise the packing of numbers that pass a test.

__attribute__((target("avx2"))) std::int64_t collect_avx2(Points p, std::int64_t begin,
                                                          std::int64_t end, Ball ball,
                                                          std::int32_t* out, std::int64_t n) {
    // Bytes that move the 32-bit numbers chosen by a mask of four bits to the front.
    alignas(16) static const auto front = [] {
        struct {
            std::uint8_t bytes[16][16];
        } table{};
        for (int mask = 0; mask < 16; ++mask) {
            int k = 0;
            for (int lane = 0; lane < 4; ++lane) {
                if ((mask >> lane & 1) == 0) continue;
                for (int b = 0; b < 4; ++b) table.bytes[mask][4 * k + b] = 4 * lane + b;
                ++k;
            }
        }
        return table;
    }();
    const __m256d x = _mm256_set1_pd(ball.x), y = _mm256_set1_pd(ball.y),
                  z = _mm256_set1_pd(ball.z), square = _mm256_set1_pd(ball.square);
    const __m128i lanes = _mm_setr_epi32(0, 1, 2, 3);
    std::int64_t i = begin;
    for (; i + 4 <= end; i += 4) {
        const __m256d dx = _mm256_sub_pd(_mm256_loadu_pd(p.x + i), x);
        const __m256d dy = _mm256_sub_pd(_mm256_loadu_pd(p.y + i), y);
        const __m256d dz = _mm256_sub_pd(_mm256_loadu_pd(p.z + i), z);
        const __m256d d = _mm256_add_pd(_mm256_add_pd(_mm256_mul_pd(dx, dx), _mm256_mul_pd(dy, dy)),
                                        _mm256_mul_pd(dz, dz));
        const int mask = _mm256_movemask_pd(_mm256_cmp_pd(d, square, _CMP_LE_OQ));
        const __m128i numbers = _mm_add_epi32(_mm_set1_epi32(static_cast<std::int32_t>(i)), lanes);
        const __m128i move = _mm_load_si128(reinterpret_cast<const __m128i*>(front.bytes[mask]));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + n), _mm_shuffle_epi8(numbers, move));
        n += __builtin_popcount(static_cast<unsigned>(mask));
    }
    return collect_any(p, i, end, ball, out, n);
}

__attribute__((target("avx512f,avx512vl"))) std::int64_t collect_avx512(
    Points p, std::int64_t begin, std::int64_t end, Ball ball, std::int32_t* out, std::int64_t n) {
    const __m512d x = _mm512_set1_pd(ball.x), y = _mm512_set1_pd(ball.y),
                  z = _mm512_set1_pd(ball.z), square = _mm512_set1_pd(ball.square);
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (std::int64_t i = begin; i < end; i += 8) {
        const std::int64_t rest = end - i;
        const __mmask8 here = rest >= 8 ? 0xff : static_cast<__mmask8>((1 << rest) - 1);
        const __m512d dx = _mm512_sub_pd(_mm512_maskz_loadu_pd(here, p.x + i), x);
        const __m512d dy = _mm512_sub_pd(_mm512_maskz_loadu_pd(here, p.y + i), y);
        const __m512d dz = _mm512_sub_pd(_mm512_maskz_loadu_pd(here, p.z + i), z);
        const __m512d d = _mm512_add_pd(_mm512_add_pd(_mm512_mul_pd(dx, dx), _mm512_mul_pd(dy, dy)),
                                        _mm512_mul_pd(dz, dz));
        const __mmask8 mask = _mm512_mask_cmp_pd_mask(here, d, square, _CMP_LE_OQ);
        const __m256i numbers =
            _mm256_add_epi32(_mm256_set1_epi32(static_cast<std::int32_t>(i)), lanes);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + n),
                            _mm256_maskz_compress_epi32(mask, numbers));
        n += __builtin_popcount(mask);
    }
    return n;
}

#endif

}  // namespace

Simd best_simd() {
    static const Simd best = [] {
#ifdef SMOACS_X86
        __builtin_cpu_init();
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) {
            return Simd::avx512;
        }
        if (__builtin_cpu_supports("avx2")) return Simd::avx2;
#endif
        return Simd::none;
    }();
    return best;
}

std::int64_t collect(Points points, std::int64_t begin, std::int64_t end, double x, double y,
                     double z, double distance, std::int32_t* out, std::int64_t n, Simd simd) {
    const Ball ball{x, y, z, distance * distance};
#ifdef SMOACS_X86
    if (simd == Simd::avx512) return collect_avx512(points, begin, end, ball, out, n);
    if (simd == Simd::avx2) return collect_avx2(points, begin, end, ball, out, n);
#else
    static_cast<void>(simd);
#endif
    return collect_any(points, begin, end, ball, out, n);
}

}  // namespace smoacs::cpu
