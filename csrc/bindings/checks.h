// Argument checks shared by the bindings; pybind11 turns these exceptions into ValueError.
#pragma once

#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

namespace smoacs::bindings {

// Raises a message made of these parts. Only then is it made: checks run in loops over batches.
template <typename... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void reject(const Parts&... parts) {
    std::ostringstream message;
    (message << ... << parts);
    throw std::invalid_argument(message.str());
}

template <typename... Parts>
void require(bool condition, const Parts&... message) {
    if (!condition) reject(message...);
}

inline void require_size(std::int64_t n, const char* name) {
    require(n >= 0, name, " must not be negative, got ", n);
}

// Address passed from Python as an integer. Null is fine for an empty array (torch gives 0 there).
template <typename T>
T* pointer(std::uintptr_t address, std::int64_t count, const char* name) {
    require(address != 0 || count == 0, name, " is a null pointer");
    require(address % alignof(T) == 0, name, " is not aligned to its type");
    return reinterpret_cast<T*>(address);
}

// Offsets of C groups over `rows` rows, in host memory: from 0, never falling, to `rows`.
inline void require_offsets(const std::int64_t* ptr, std::int64_t groups, std::int64_t rows) {
    require(ptr[0] == 0, "ptr must start at 0, got ", ptr[0]);
    for (std::int64_t c = 0; c < groups; ++c) {
        require(ptr[c] <= ptr[c + 1], "ptr falls at crystal ", c);
    }
    require(ptr[groups] == rows, "ptr ends at ", ptr[groups], ", but there are ", rows, " rows");
}

// A call names its CUDA stream, or none for the CPU (Python's None).
using Stream = std::optional<std::uintptr_t>;

// For calls with a stream in a build without CUDA kernels.
[[noreturn]] inline void no_cuda_build() {
    throw std::runtime_error("this build of smoacs has no CUDA kernels: " SMOACS_CUDA_REASON);
}

// Runs one of two calls: on the GPU where there is a stream, else on the CPU.
#ifdef SMOACS_WITH_CUDA
#define SMOACS_RUN(stream, on_cpu, on_gpu) (stream ? (on_gpu) : (on_cpu))
#else
#define SMOACS_RUN(stream, on_cpu, on_gpu) (stream ? no_cuda_build() : (on_cpu))
#endif

// Calls f(T{}) with T the C++ type of a torch dtype given by name.
template <typename F>
void with_float_type(const std::string& dtype, F&& f) {
    if (dtype == "float32") {
        f(float{});
    } else if (dtype == "float64") {
        f(double{});
    } else {
        throw std::invalid_argument("dtype must be float32 or float64, got " + dtype);
    }
}

}  // namespace smoacs::bindings
