#include "cpu/collect.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define SMOACS_X86
#include <immintrin.h>
#endif

namespace smoacs::cpu {

namespace {

// Goes on behind n numbers that were found.
std::int64_t collect_any(Points p, Run run, const Ball& ball, std::int32_t* out, std::int64_t n) {
    for (std::int64_t i = run.begin; i < run.end; ++i) {
        const float dx = p.x[i] - ball.x, dy = p.y[i] - ball.y, dz = p.z[i] - ball.z;
        out[n] = static_cast<std::int32_t>(i);
        n += !(dx * dx + dy * dy + dz * dz > ball.square);
    }
    return n;
}

#ifdef SMOACS_X86

// Compilers do not vectorise the packing of numbers that pass a test.

__attribute__((target("avx2"))) std::int64_t collect_avx2(Points p, Run run, const Ball& ball,
                                                          std::int32_t* out, std::int64_t n) {
    // Lanes chosen by a mask of eight bits.
    alignas(8) static const auto front = [] {
        struct {
            std::uint8_t lanes[256][8];
        } table{};
        for (int mask = 0; mask < 256; ++mask) {
            int k = 0;
            for (int lane = 0; lane < 8; ++lane) {
                if (mask >> lane & 1) table.lanes[mask][k++] = static_cast<std::uint8_t>(lane);
            }
        }
        return table;
    }();
    const __m256 x = _mm256_set1_ps(ball.x), y = _mm256_set1_ps(ball.y), z = _mm256_set1_ps(ball.z),
                 square = _mm256_set1_ps(ball.square);
    std::int64_t i = run.begin;
    for (; i + 8 <= run.end; i += 8) {
        const __m256 dx = _mm256_sub_ps(_mm256_loadu_ps(p.x + i), x);
        const __m256 dy = _mm256_sub_ps(_mm256_loadu_ps(p.y + i), y);
        const __m256 dz = _mm256_sub_ps(_mm256_loadu_ps(p.z + i), z);
        const __m256 d = _mm256_add_ps(_mm256_add_ps(_mm256_mul_ps(dx, dx), _mm256_mul_ps(dy, dy)),
                                       _mm256_mul_ps(dz, dz));
        const int mask = _mm256_movemask_ps(_mm256_cmp_ps(d, square, _CMP_NGT_UQ));
        const __m256i lanes = _mm256_cvtepu8_epi32(
            _mm_loadl_epi64(reinterpret_cast<const __m128i*>(front.lanes[mask])));
        const __m256i numbers =
            _mm256_add_epi32(_mm256_set1_epi32(static_cast<std::int32_t>(i)), lanes);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + n), numbers);
        n += __builtin_popcount(static_cast<unsigned>(mask));
    }
    return collect_any(p, {i, run.end}, ball, out, n);
}

__attribute__((target("avx512f"))) std::int64_t collect_avx512(Points p, const Run* runs,
                                                               int n_runs, const Ball& ball,
                                                               std::int32_t* out) {
    const __m512 x = _mm512_set1_ps(ball.x), y = _mm512_set1_ps(ball.y), z = _mm512_set1_ps(ball.z),
                 square = _mm512_set1_ps(ball.square);
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    std::int64_t n = 0;
    for (int r = 0; r < n_runs; ++r) {
        for (std::int64_t i = runs[r].begin; i < runs[r].end; i += 16) {
            const std::int64_t rest = runs[r].end - i;
            const __mmask16 here = rest >= 16 ? 0xffff : static_cast<__mmask16>((1 << rest) - 1);
            const __m512 dx = _mm512_sub_ps(_mm512_maskz_loadu_ps(here, p.x + i), x);
            const __m512 dy = _mm512_sub_ps(_mm512_maskz_loadu_ps(here, p.y + i), y);
            const __m512 dz = _mm512_sub_ps(_mm512_maskz_loadu_ps(here, p.z + i), z);
            const __m512 d = _mm512_add_ps(
                _mm512_add_ps(_mm512_mul_ps(dx, dx), _mm512_mul_ps(dy, dy)), _mm512_mul_ps(dz, dz));
            const __mmask16 mask = _mm512_mask_cmp_ps_mask(here, d, square, _CMP_NGT_UQ);
            const __m512i numbers =
                _mm512_add_epi32(_mm512_set1_epi32(static_cast<std::int32_t>(i)), lanes);
            _mm512_storeu_si512(out + n, _mm512_maskz_compress_epi32(mask, numbers));
            n += __builtin_popcount(mask);
        }
    }
    return n;
}

#endif

}  // namespace

Simd best_simd() {
    static const Simd best = [] {
#ifdef SMOACS_X86
        __builtin_cpu_init();
        if (__builtin_cpu_supports("avx512f")) return Simd::avx512;
        if (__builtin_cpu_supports("avx2")) return Simd::avx2;
#endif
        return Simd::none;
    }();
    return best;
}

std::int64_t collect(Points points, const Run* runs, int n_runs, const Ball& ball,
                     std::int32_t* out, Simd simd) {
#ifdef SMOACS_X86
    if (simd == Simd::avx512) return collect_avx512(points, runs, n_runs, ball, out);
#endif
    std::int64_t n = 0;
    for (int r = 0; r < n_runs; ++r) {
#ifdef SMOACS_X86
        if (simd == Simd::avx2) {
            n = collect_avx2(points, runs[r], ball, out, n);
            continue;
        }
#endif
        n = collect_any(points, runs[r], ball, out, n);
    }
    return n;
}

}  // namespace smoacs::cpu
