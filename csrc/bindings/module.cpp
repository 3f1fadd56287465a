// The Python module smoacs._native: arrays come in as addresses, sizes and a stream handle.
#include <pybind11/pybind11.h>

#include <string>

#include "bindings/bindings.h"
#include "cpu/memory.h"
#include "cpu/threads.h"

namespace py = pybind11;

namespace {

py::list simd_levels() {
    py::list levels;
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("sse2")) levels.append("sse2");
    if (__builtin_cpu_supports("avx2")) levels.append("avx2");
    if (__builtin_cpu_supports("avx512f")) levels.append("avx512f");
#endif
    return levels;
}

py::dict build_info() {
    py::dict info;
#ifdef SMOACS_WITH_CUDA
    info["cuda"] = true;
#else
    info["cuda"] = false;
#endif
    info["cuda_reason"] = SMOACS_CUDA_REASON;
#ifdef __VERSION__
    info["compiler"] = __VERSION__;
#else
    info["compiler"] = "unknown";
#endif
#ifdef _OPENMP
    info["openmp"] = _OPENMP;
#else
    info["openmp"] = py::none();
#endif
    info["simd"] = simd_levels();
    return info;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
    m.doc() = "Compiled kernels of smoacs; use smoacs.ops instead.";
    m.def("build_info", &build_info, "What this module was built with and what the CPU offers.");
    m.def("set_num_threads", &smoacs::cpu::set_num_threads, py::arg("n"),
          "Threads of CPU kernels that this thread calls later; n < 1 restores OpenMP's default.");
    m.def("get_num_threads", [] { return smoacs::cpu::num_threads(); }, "Threads of CPU kernels.");
    m.def("keep_freed_memory", &smoacs::cpu::keep_freed_memory, py::arg("keep"),
          "Whether freed memory stays with the process.");
    // As if large arrays had been freed before: else it is chance whether those of one call are
    // fetched anew, page by page, for the next.
    smoacs::cpu::keep_freed_memory(false);
    smoacs::bindings::bind_layers(m);
    smoacs::bindings::bind_matrix_product(m);
    smoacs::bindings::bind_neighbors(m);
    smoacs::bindings::bind_steps(m);
    smoacs::bindings::bind_resample(m);
    smoacs::bindings::bind_softmax(m);
}
