#include "cuda/gated_messages.h"
#include "cuda/launch.h"

namespace smoacs::cuda {

namespace {

// Neighbouring threads take neighbouring features, so that their loads fall into the same lines.
struct Gather {
    template <typename T>
    __device__ void operator()(const MessageJob<T>& job, std::int64_t i) const {
        gather_messages<1>(job, i / job.ends.n_features, i % job.ends.n_features, 1);
    }
};

struct GradientsIn {
    template <typename T>
    __device__ void operator()(const MessageGradientJob<T>& job, std::int64_t i) const {
        message_gradients_in<1>(job, i / job.ends.n_features, i % job.ends.n_features, 1);
    }
};

struct GradientsOut {
    template <typename T>
    __device__ void operator()(const MessageGradientJob<T>& job, std::int64_t i) const {
        message_gradients_out<1>(job, i / job.ends.n_features, i % job.ends.n_features, 1);
    }
};

template <typename Job>
std::int64_t work_of(const Job& job) {
    return job.ends.n_nodes * job.ends.n_features;
}

}  // namespace

template <typename T>
void gated_messages(const MessageJob<T>& job, std::uintptr_t stream) {
    launch<1>("gated_messages", job, work_of(job), Gather{}, stream);
}

template <typename T>
void gated_messages_backward(const MessageGradientJob<T>& job, std::uintptr_t stream) {
    launch<1>("gated_messages_backward, in", job, work_of(job), GradientsIn{}, stream);
    launch<1>("gated_messages_backward, out", job, work_of(job), GradientsOut{}, stream);
}

#define SMOACS_INSTANTIATE(T)                                           \
    template void gated_messages(const MessageJob<T>&, std::uintptr_t); \
    template void gated_messages_backward(const MessageGradientJob<T>&, std::uintptr_t);
SMOACS_INSTANTIATE(float)
SMOACS_INSTANTIATE(double)
#undef SMOACS_INSTANTIATE

}  // namespace smoacs::cuda
