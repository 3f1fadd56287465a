#include "cpu/interpolation.h"

#include "cpu/threads.h"

namespace smoacs::cpu {

namespace {

// Less work than this, in numbers, is not worth waking another thread.
constexpr std::int64_t kWorkPerThread = 1 << 14;

template <typename T>
int threads_for(const TableJob<T>& job) {
    return num_threads(job.n_values * job.n_columns / kWorkPerThread);
}

template <typename T>
SMOACS_CLONES void forward_rows(const TableJob<T>& job, std::int64_t begin, std::int64_t end,
                                T* out) {
    for (std::int64_t i = begin; i < end; ++i) smoacs::interpolate(job, i, out);
}

template <typename T>
SMOACS_CLONES void backward_rows(const TableJob<T>& job, std::int64_t begin, std::int64_t end,
                                 const T* grad, T* grad_values) {
    for (std::int64_t i = begin; i < end; ++i) interpolate_gradient(job, i, grad, grad_values);
}

template <typename T>
SMOACS_CLONES void backward_knots(const TableJob<T>& job, std::int64_t begin, std::int64_t end,
                                  const T* grad, const std::int64_t* by_first,
                                  const std::int64_t* start, T* grad_table) {
    for (std::int64_t k = begin; k < end; ++k) {
        table_gradient(job, k, grad, by_first, start, grad_table);
    }
}

}  // namespace

template <typename T>
void interpolate(const TableJob<T>& job, T* out) {
    share(job.n_values, threads_for(job),
          [&](std::int64_t begin, std::int64_t end) { forward_rows(job, begin, end, out); });
}

template <typename T>
void interpolate_backward(const TableJob<T>& job, const T* grad, T* grad_values) {
    share(job.n_values, threads_for(job), [&](std::int64_t begin, std::int64_t end) {
        backward_rows(job, begin, end, grad, grad_values);
    });
}

template <typename T>
void table_backward(const TableJob<T>& job, const T* grad, const std::int64_t* by_first,
                    const std::int64_t* start, T* grad_table) {
    share(job.n_knots, threads_for(job), [&](std::int64_t begin, std::int64_t end) {
        backward_knots(job, begin, end, grad, by_first, start, grad_table);
    });
}

template <typename T>
void first_knots(const TableJob<T>& job, std::int64_t* first) {
    for (std::int64_t i = 0; i < job.n_values; ++i) first[i] = place(job, job.values[i]).first;
}

#define SMOACS_INSTANTIATE(T)                                                       \
    template void interpolate(const TableJob<T>&, T*);                              \
    template void interpolate_backward(const TableJob<T>&, const T*, T*);           \
    template void table_backward(const TableJob<T>&, const T*, const std::int64_t*, \
                                 const std::int64_t*, T*);                          \
    template void first_knots(const TableJob<T>&, std::int64_t*);
SMOACS_INSTANTIATE(float)
SMOACS_INSTANTIATE(double)
#undef SMOACS_INSTANTIATE

}  // namespace smoacs::cpu
