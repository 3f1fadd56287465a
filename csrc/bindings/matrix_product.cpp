// Products of matrices on the CPU; for a GPU there are torch's.
#include "cpu/matrix_product.h"

#include <pybind11/pybind11.h>

#include <array>
#include <optional>
#include <string>

#include "bindings/bindings.h"
#include "bindings/checks.h"

namespace py = pybind11;

namespace smoacs::bindings {

namespace {

using Address = std::uintptr_t;
using Triple = std::array<std::int64_t, 3>;  // of matrices, rows, columns

// Strides are in elements; the caller's tensors say that they stay within their memory.
void matrix_product(Address a, Triple a_sizes, Triple a_strides, Address b, Triple b_sizes,
                    Triple b_strides, std::optional<Address> bias, Address out,
                    const std::string& dtype) {
    for (const auto& sizes : {a_sizes, b_sizes}) {
        for (const auto size : sizes) require_size(size, "a size");
    }
    require(a_sizes[0] == b_sizes[0], "there must be as many matrices a as b");
    require(a_sizes[2] == b_sizes[1], "a must have as many columns as b has rows");
    const auto [n_matrices, n_rows, n_inner] = a_sizes;
    const auto n_columns = b_sizes[2];
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        const auto matrices = [](Address address, const Triple& sizes, const Triple& strides,
                                 const char* name) -> cpu::Matrices<T> {
            return {pointer<const T>(address, sizes[0] * sizes[1] * sizes[2], name), strides[0],
                    strides[1], strides[2]};
        };
        const cpu::ProductJob<T> job{n_matrices,
                                     n_rows,
                                     n_inner,
                                     n_columns,
                                     matrices(a, a_sizes, a_strides, "a"),
                                     matrices(b, b_sizes, b_strides, "b"),
                                     bias ? pointer<const T>(*bias, n_columns, "bias") : nullptr,
                                     pointer<T>(out, n_matrices * n_rows * n_columns, "out")};
        const py::gil_scoped_release released;
        cpu::matrix_product(job);
    });
}

}  // namespace

void bind_matrix_product(py::module_& m) {
    m.def("matrix_product", &matrix_product, py::kw_only(), py::arg("a"), py::arg("a_sizes"),
          py::arg("a_strides"), py::arg("b"), py::arg("b_sizes"), py::arg("b_strides"),
          py::arg("bias").none(true), py::arg("out"), py::arg("dtype"));
}

}  // namespace smoacs::bindings
