#include "cuda/launch.h"
#include "cuda/neighbors.h"

namespace smoacs::cuda {

namespace {

struct Report {
    std::int64_t* smallest;
    __device__ void operator()(std::int64_t fault) const {
        atomicMin(reinterpret_cast<long long*>(smallest), static_cast<long long>(fault));
    }
};

// Numbers that are not negative have the order of their bits.
struct RaiseTo {
    __device__ void operator()(double* number, double least) const {
        atomicMax(reinterpret_cast<unsigned long long*>(number),
                  static_cast<unsigned long long>(__double_as_longlong(least)));
    }
};

struct PrepareCell {
    __device__ void operator()(const NeighborJob& job, std::int64_t c) const {
        prepare_cell(job, c, Report{job.faults + kCells});
    }
};

struct PrepareSite {
    __device__ void operator()(const NeighborJob& job, std::int64_t s) const {
        prepare_site(job, s, Report{job.faults + kSites}, RaiseTo{});
    }
};

struct FindReach {
    __device__ void operator()(const NeighborJob& job, std::int64_t s) const {
        smoacs::find_reach<Warp>(job, s, Report{job.faults + kReach});
    }
};

struct Count {
    __device__ void operator()(const NeighborJob& job, std::int64_t s) const {
        smoacs::count<Warp>(job, s, Report{job.faults + kCount});
    }
};

struct FillArcs {
    __device__ void operator()(const NeighborJob& job, std::int64_t s) const {
        fill_arcs<Warp>(job, s);
    }
};

template <typename T>
struct Finish {
    NeighborOutput<T> out;
    __device__ void operator()(const NeighborJob& job, std::int64_t s) const {
        smoacs::finish<Warp>(job, s, out);
    }
};

}  // namespace

void prepare(const NeighborJob& job, std::uintptr_t stream) {
    launch<1>("neighbor_list, cells", job, job.n_crystals, PrepareCell{}, stream);
    launch<1>("neighbor_list, sites", job, job.n_sites, PrepareSite{}, stream);
}

void find_reach(const NeighborJob& job, std::uintptr_t stream) {
    launch<Warp::size>("neighbor_list, reach", job, job.n_sites, FindReach{}, stream);
}

void count(const NeighborJob& job, std::uintptr_t stream) {
    launch<Warp::size>("neighbor_list, count", job, job.n_sites, Count{}, stream);
}

template <typename T>
void fill(const NeighborJob& job, const NeighborOutput<T>& out, std::uintptr_t stream) {
    launch<Warp::size>("neighbor_list, fill", job, job.n_sites, FillArcs{}, stream);
    launch<Warp::size>("neighbor_list, finish", job, job.n_sites, Finish<T>{out}, stream);
}

template void fill(const NeighborJob&, const NeighborOutput<float>&, std::uintptr_t);
template void fill(const NeighborJob&, const NeighborOutput<double>&, std::uintptr_t);

}  // namespace smoacs::cuda
