// One function per source file here; module.cpp calls them all.
#pragma once

#include <pybind11/pybind11.h>

namespace smoacs::bindings {

void bind_layers(pybind11::module_& m);
void bind_matrix_product(pybind11::module_& m);
void bind_neighbors(pybind11::module_& m);
void bind_steps(pybind11::module_& m);
void bind_resample(pybind11::module_& m);
void bind_softmax(pybind11::module_& m);

}  // namespace smoacs::bindings
