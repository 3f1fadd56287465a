#include "core/softmax.h"

#include <pybind11/pybind11.h>

#include <string>

#include "bindings/bindings.h"
#include "bindings/checks.h"
#include "cpu/masked_softmax.h"
#ifdef SMOACS_WITH_CUDA
#include "cuda/masked_softmax.h"
#endif

namespace py = pybind11;

namespace smoacs::bindings {

namespace {

// The inputs as Python gives them: addresses and sizes.
struct Inputs {
    std::int64_t n_sites, n_elements, n_crystals, n_patterns, n_temperatures;
    std::uintptr_t element_logits, pattern_logits, allowed, ptr, temperature;
};

template <typename T>
SoftmaxBatch<T> checked(const Inputs& in, const Stream& stream) {
    require_size(in.n_sites, "n_sites");
    require_size(in.n_crystals, "n_crystals");
    require(in.n_crystals > 0 || in.n_sites == 0, "sites without a crystal");
    require(in.n_patterns >= 1, "there must be at least one pattern");
    require(in.n_elements >= 1 && in.n_elements <= kLongestRow,
            "there must be 1 to 128 elements, got ", in.n_elements);
    require(in.n_temperatures == 1 || in.n_temperatures == in.n_crystals,
            "there must be one temperature, or one per crystal");
    SoftmaxBatch<T> batch{};
    batch.n_sites = in.n_sites;
    batch.n_crystals = in.n_crystals;
    batch.n_patterns = static_cast<int>(in.n_patterns);
    batch.n_elements = static_cast<int>(in.n_elements);
    batch.element_logits =
        pointer<const T>(in.element_logits, in.n_sites * in.n_elements, "element_logits");
    batch.pattern_logits =
        pointer<const T>(in.pattern_logits, in.n_crystals * in.n_patterns, "pattern_logits");
    const std::int64_t n_words = (in.n_elements + kLanes - 1) / kLanes;
    batch.allowed =
        pointer<const std::uint32_t>(in.allowed, in.n_sites * in.n_patterns * n_words, "allowed");
    batch.ptr = pointer<const std::int64_t>(in.ptr, in.n_crystals + 1, "ptr");
    batch.temperature = pointer<const T>(in.temperature, in.n_temperatures, "temperature");
    batch.temperature_stride = in.n_temperatures == 1 ? 0 : 1;
    if (!stream) require_offsets(batch.ptr, in.n_crystals, in.n_sites);
    return batch;
}

// One sentence for a fault.
std::string describe(std::int64_t fault, std::int64_t n_patterns) {
    const std::int64_t index = fault & ((std::int64_t{1} << 56) - 1);
    const std::string whole = std::to_string(index);
    const std::string part = std::to_string(index / n_patterns);
    const std::string pattern = std::to_string(index % n_patterns);
    switch (static_cast<Fault>(fault >> 56)) {
        case Fault::offsets:
            return "ptr must rise from 0 to the number of sites; it does not at crystal " + whole;
        case Fault::temperature:
            return "temperature must be positive and finite, it is not for crystal " + whole;
        case Fault::pattern_logit:
            return "pattern_logits[" + part + ", " + pattern +
                   "] must be finite, or -inf for a pattern that is padding";
        case Fault::no_pattern:
            return "crystal " + whole + " has no pattern: all of its pattern_logits are -inf";
        case Fault::element_logit:
            return "element_logits[" + whole + "] must be finite";
        case Fault::no_element:
            return "site " + part + " has no allowed element under pattern " + pattern;
    }
    return "unknown fault";
}

// On a GPU nothing is reported, as the host would have to wait: what is wrong there becomes NaN.
void masked_softmax(std::int64_t n_sites, std::int64_t n_elements, std::int64_t n_crystals,
                    std::int64_t n_patterns, std::int64_t n_temperatures,
                    std::uintptr_t element_logits, std::uintptr_t pattern_logits,
                    std::uintptr_t allowed, std::uintptr_t ptr, std::uintptr_t temperature,
                    bool paper, std::uintptr_t composition, std::uintptr_t weights,
                    std::uintptr_t kept, const std::string& dtype, const Stream& stream) {
    const Inputs in{n_sites,        n_elements,     n_crystals, n_patterns, n_temperatures,
                    element_logits, pattern_logits, allowed,    ptr,        temperature};
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        const auto batch = checked<T>(in, stream);
        T* x = pointer<T>(composition, in.n_sites * in.n_elements, "composition");
        T* q = pointer<T>(weights, in.n_crystals * in.n_patterns, "weights");
        T* tops = pointer<T>(kept, in.n_sites * n_kept(batch), "kept");
        const py::gil_scoped_release released;
        if (!stream) {
            const std::int64_t fault = cpu::masked_softmax(batch, paper, x, q, tops);
            if (fault != kNoFault) throw py::value_error(describe(fault, in.n_patterns));
            return;
        }
#ifdef SMOACS_WITH_CUDA
        cuda::masked_softmax(batch, paper, x, q, tops, *stream);
#else
        no_cuda_build();
#endif
    });
}

void masked_softmax_backward(std::int64_t n_sites, std::int64_t n_elements, std::int64_t n_crystals,
                             std::int64_t n_patterns, std::int64_t n_temperatures,
                             std::uintptr_t element_logits, std::uintptr_t pattern_logits,
                             std::uintptr_t allowed, std::uintptr_t ptr, std::uintptr_t temperature,
                             bool paper, std::uintptr_t composition, std::uintptr_t weights,
                             std::uintptr_t kept, std::uintptr_t grad_composition,
                             std::uintptr_t grad_weights, std::uintptr_t dots,
                             std::uintptr_t grad_element_logits, std::uintptr_t grad_pattern_logits,
                             const std::string& dtype, const Stream& stream) {
    const Inputs in{n_sites,        n_elements,     n_crystals, n_patterns, n_temperatures,
                    element_logits, pattern_logits, allowed,    ptr,        temperature};
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        const auto batch = checked<T>(in, stream);
        const std::int64_t of_sites = in.n_sites * in.n_elements;
        const std::int64_t of_crystals = in.n_crystals * in.n_patterns;
        const T* x = pointer<const T>(composition, of_sites, "composition");
        const T* q = pointer<const T>(weights, of_crystals, "weights");
        const T* tops = pointer<const T>(kept, in.n_sites * n_kept(batch), "kept");
        const T* gx = pointer<const T>(grad_composition, of_sites, "grad_composition");
        const T* gq = pointer<const T>(grad_weights, of_crystals, "grad_weights");
        T* scratch = pointer<T>(dots, in.n_sites * in.n_patterns, "dots");
        T* ga = pointer<T>(grad_element_logits, of_sites, "grad_element_logits");
        T* gw = pointer<T>(grad_pattern_logits, of_crystals, "grad_pattern_logits");
        const py::gil_scoped_release released;
        if (!stream) {
            cpu::masked_softmax_backward(batch, paper, x, q, tops, gx, gq, scratch, ga, gw);
            return;
        }
#ifdef SMOACS_WITH_CUDA
        cuda::masked_softmax_backward(batch, paper, x, q, tops, gx, gq, scratch, ga, gw, *stream);
#else
        no_cuda_build();
#endif
    });
}

}  // namespace

#define SMOACS_SOFTMAX_INPUTS                                                                \
    py::arg("n_sites"), py::arg("n_elements"), py::arg("n_crystals"), py::arg("n_patterns"), \
        py::arg("n_temperatures"), py::arg("element_logits"), py::arg("pattern_logits"),     \
        py::arg("allowed"), py::arg("ptr"), py::arg("temperature")

void bind_softmax(py::module_& m) {
    // Called for few sites as well: by position, which is faster.
    m.def("masked_softmax", &masked_softmax, SMOACS_SOFTMAX_INPUTS, py::arg("paper"),
          py::arg("composition"), py::arg("weights"), py::arg("kept"), py::arg("dtype"),
          py::arg("stream").none(true));
    m.def("masked_softmax_backward", &masked_softmax_backward, SMOACS_SOFTMAX_INPUTS,
          py::arg("paper"), py::arg("composition"), py::arg("weights"), py::arg("kept"),
          py::arg("grad_composition"), py::arg("grad_weights"), py::arg("dots"),
          py::arg("grad_element_logits"), py::arg("grad_pattern_logits"), py::arg("dtype"),
          py::arg("stream").none(true));
}

}  // namespace smoacs::bindings
