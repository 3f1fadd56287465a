// Markers that let one source serve the host compiler and nvcc.
#pragma once

// SMOACS_HD: inline on host and device. SMOACS_LANES: inline where the 32 lanes of row.h are, so
// on the device under nvcc, else on the host. SMOACS_INLINE: the same for a lambda that is called
// twice, else it would not share its caller's instruction set.
#ifdef __CUDACC__
#define SMOACS_HD __host__ __device__ __forceinline__
#define SMOACS_LANES __device__ __forceinline__
#define SMOACS_INLINE
#else
#define SMOACS_HD inline __attribute__((always_inline))
#define SMOACS_LANES inline __attribute__((always_inline))
#define SMOACS_INLINE __attribute__((always_inline))
#endif

// Put before a loop whose turns do not read what others write. The compiler cannot always tell, and
// would check it each time.
#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#define SMOACS_INDEPENDENT _Pragma("GCC ivdep")
#else
#define SMOACS_INDEPENDENT
#endif

// Put before a function that holds a hot loop: the compiler makes one copy per instruction set and
// the loader picks the best at run time. It must sit on the function with the loop itself, because
// the body of an OpenMP region is compiled as a function of its own. The sanitizers cannot run
// before the loader has made that choice, so they get the plain function. (v3 is AVX2 with fused
// multiply-adds, v4 AVX-512.)
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__) && \
    !defined(SMOACS_SANITIZE)
#if __GNUC__ >= 12
#define SMOACS_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SMOACS_CLONES __attribute__((target_clones("avx512f", "default")))
#endif
#else
#define SMOACS_CLONES
#endif

// Put before a loop that rarely runs as often as the compiler knows it can: no unrolled copies.
#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#define SMOACS_ROLLED _Pragma("GCC unroll 1")
#else
#define SMOACS_ROLLED
#endif

// Put before a short loop over vectors that there are registers for.
#if defined(__AVX512F__) && defined(__GNUC__) && !defined(__clang__) && !defined(SMOACS_SANITIZE)
#define SMOACS_UNROLLED _Pragma("GCC unroll 16")
#else
#define SMOACS_UNROLLED
#endif
