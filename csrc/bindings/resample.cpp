#include "core/resample.h"

#include <pybind11/pybind11.h>

#include <string>

#include "bindings/bindings.h"
#include "bindings/checks.h"
#include "cpu/resample.h"
#ifdef SMOACS_WITH_CUDA
#include "cuda/resample.h"
#endif

namespace py = pybind11;

namespace smoacs::bindings {

namespace {

// Whose numbers are wanted, as Python gives it: addresses and sizes.
struct Streams {
    std::int64_t n_rows, n_crystals, width, n_steps;
    std::int64_t seed, variable;
    std::uintptr_t ptr, candidates, steps;
};

RandomBatch batch_of(const Streams& in) {
    require_size(in.n_rows, "n_rows");
    require_size(in.n_crystals, "n_crystals");
    require_size(in.width, "width");
    require(in.seed >= 0, "seed must not be negative, got ", in.seed);
    require(in.variable >= 0 && in.variable < (std::int64_t{1} << kVariableBits),
            "variable must be in 0 ... 2^16 - 1, got ", in.variable);
    require(in.n_steps == 1 || in.n_steps == in.n_crystals,
            "there must be one step, or one per crystal");
    RandomBatch batch{};
    batch.n_rows = in.n_rows;
    batch.n_crystals = in.n_crystals;
    batch.width = in.width;
    batch.ptr = pointer<const std::int64_t>(in.ptr, in.n_crystals + 1, "ptr");
    batch.candidates = pointer<const std::int64_t>(in.candidates, in.n_crystals, "candidates");
    batch.steps = pointer<const std::int64_t>(in.steps, in.n_steps, "steps");
    batch.step_stride = in.n_steps == 1 ? 0 : 1;
    batch.seed = static_cast<std::uint64_t>(in.seed);
    batch.variable = static_cast<std::uint32_t>(in.variable);
    return batch;
}

// Checks what is in the arrays; they must be in host memory.
void check_streams(const Streams& in) {
    const RandomBatch batch = batch_of(in);
    require_offsets(batch.ptr, in.n_crystals, in.n_rows);
    for (std::int64_t c = 0; c < in.n_crystals; ++c) {
        const std::int64_t candidate = batch.candidates[c];
        require(candidate >= 0 && candidate < (std::int64_t{1} << kCandidateBits),
                "candidates must be in 0 ... 2^48 - 1, got ", candidate);
        require(batch.count(c) <= std::int64_t{1} << 33, "crystal ", c,
                " needs more than 2^33 random numbers");
    }
    for (std::int64_t c = 0; c < in.n_steps; ++c) {
        require(batch.steps[c] >= 0 && batch.steps[c] < std::int64_t{1} << 32,
                "step must be in 0 ... 2^32 - 1, got ", batch.steps[c]);
    }
}

// The same for parents (C).
void check_parents(const Streams& in, std::uintptr_t address) {
    const auto* parents = pointer<const std::int64_t>(address, in.n_crystals, "parents");
    const RandomBatch batch = batch_of(in);
    for (std::int64_t c = 0; c < in.n_crystals; ++c) {
        const std::int64_t p = parents[c];
        require(p >= 0 && p < in.n_crystals, "parents must be in 0 ... ", in.n_crystals - 1,
                ", got ", p, " for crystal ", c);
        require(batch.count(p) == batch.count(c), "candidate ", batch.candidates[c],
                " cannot take the rows of candidate ", batch.candidates[p], ": they have ",
                batch.ptr[c + 1] - batch.ptr[c], " and ", batch.ptr[p + 1] - batch.ptr[p], " rows");
    }
}

template <typename Op>
void for_each_pair(const RandomBatch& batch, const Op& op, const Stream& stream) {
    const py::gil_scoped_release released;
    SMOACS_RUN(stream, cpu::for_each_pair(batch, op), cuda::for_each_pair(batch, op, *stream));
}

// `host` describes the same streams in host memory, where their arrays can be checked.
void fill_random(const Streams& in, const Streams& host, bool normal, std::uintptr_t out,
                 const std::string& dtype, const Stream& stream) {
    check_streams(host);
    const RandomBatch batch = batch_of(in);
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        T* to = pointer<T>(out, in.n_rows * in.width, "out");
        if (normal) {
            for_each_pair(batch, Fill<T, true>{to}, stream);
        } else {
            for_each_pair(batch, Fill<T, false>{to}, stream);
        }
    });
}

void resample(const Streams& in, const Streams& host, std::uintptr_t values, std::uintptr_t parents,
              std::uintptr_t host_parents, double sigma, std::uintptr_t out,
              const std::string& dtype, const Stream& stream) {
    check_streams(host);
    check_parents(host, host_parents);
    const RandomBatch batch = batch_of(in);
    const auto* from = pointer<const std::int64_t>(parents, in.n_crystals, "parents");
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        const std::int64_t n = in.n_rows * in.width;
        const Resample<T> op{pointer<const T>(values, n, "values"), from, static_cast<T>(sigma),
                             pointer<T>(out, n, "out")};
        for_each_pair(batch, op, stream);
    });
}

}  // namespace

void bind_resample(py::module_& m) {
    py::class_<Streams>(m, "RandomStreams")
        .def(py::init<std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                      std::int64_t, std::uintptr_t, std::uintptr_t, std::uintptr_t>(),
             py::arg("n_rows"), py::arg("n_crystals"), py::arg("width"), py::arg("n_steps"),
             py::arg("seed"), py::arg("variable"), py::arg("ptr"), py::arg("candidates"),
             py::arg("steps"));
    m.def("fill_random", &fill_random, py::arg("streams"), py::kw_only(), py::arg("host"),
          py::arg("normal"), py::arg("out"), py::arg("dtype"), py::arg("stream").none(true));
    m.def("resample", &resample, py::arg("streams"), py::kw_only(), py::arg("host"),
          py::arg("values"), py::arg("parents"), py::arg("host_parents"), py::arg("sigma"),
          py::arg("out"), py::arg("dtype"), py::arg("stream").none(true));
}

}  // namespace smoacs::bindings
