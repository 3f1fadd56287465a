#include "cuda/interpolation.h"
#include "cuda/launch.h"

namespace smoacs::cuda {

namespace {

template <typename T>
struct Rows {
    T* out;
    __device__ void operator()(const TableJob<T>& job, std::int64_t i) const {
        smoacs::interpolate(job, i, out);
    }
};

template <typename T>
struct ValueGradients {
    const T* grad;
    T* grad_values;
    __device__ void operator()(const TableJob<T>& job, std::int64_t i) const {
        interpolate_gradient(job, i, grad, grad_values);
    }
};

template <typename T>
struct TableGradients {
    const T* grad;
    const std::int64_t *by_first, *start;
    T* grad_table;
    __device__ void operator()(const TableJob<T>& job, std::int64_t k) const {
        table_gradient(job, k, grad, by_first, start, grad_table);
    }
};

struct FirstKnots {
    std::int64_t* first;
    template <typename T>
    __device__ void operator()(const TableJob<T>& job, std::int64_t i) const {
        first[i] = place(job, job.values[i]).first;
    }
};

}  // namespace

template <typename T>
void interpolate(const TableJob<T>& job, T* out, std::uintptr_t stream) {
    launch<kLanes>("interpolate", job, job.n_values, Rows<T>{out}, stream);
}

template <typename T>
void interpolate_backward(const TableJob<T>& job, const T* grad, T* grad_values,
                          std::uintptr_t stream) {
    launch<kLanes>("interpolate_backward", job, job.n_values, ValueGradients<T>{grad, grad_values},
                   stream);
}

template <typename T>
void table_backward(const TableJob<T>& job, const T* grad, const std::int64_t* by_first,
                    const std::int64_t* start, T* grad_table, std::uintptr_t stream) {
    launch<kLanes>("table_backward", job, job.n_knots,
                   TableGradients<T>{grad, by_first, start, grad_table}, stream);
}

template <typename T>
void first_knots(const TableJob<T>& job, std::int64_t* first, std::uintptr_t stream) {
    launch<1>("first_knots", job, job.n_values, FirstKnots{first}, stream);
}

#define SMOACS_INSTANTIATE(T)                                                             \
    template void interpolate(const TableJob<T>&, T*, std::uintptr_t);                    \
    template void interpolate_backward(const TableJob<T>&, const T*, T*, std::uintptr_t); \
    template void table_backward(const TableJob<T>&, const T*, const std::int64_t*,       \
                                 const std::int64_t*, T*, std::uintptr_t);                \
    template void first_knots(const TableJob<T>&, std::int64_t*, std::uintptr_t);
SMOACS_INSTANTIATE(float)
SMOACS_INSTANTIATE(double)
#undef SMOACS_INSTANTIATE

}  // namespace smoacs::cuda
