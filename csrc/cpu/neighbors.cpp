#include "cpu/neighbors.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <mutex>
#include <numeric>
#include <utility>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "core/macros.h"
#include "core/neighbor_faults.h"
#include "cpu/memory.h"
#include "cpu/threads.h"

namespace smoacs::cpu {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Crystals of this size are worth sharing among threads, in blocks of sites; smaller ones are
// grouped until they have that many.
constexpr std::int64_t kLargeCrystal = 2048;
constexpr std::int64_t kBlock = 256;
constexpr std::int64_t kSitesPerGroup = 16;

// Calls work(i) for i < n on up to `threads` threads; rethrows the exception of the lowest i.
template <typename Work>
void for_all(std::int64_t n, std::int64_t threads, Work&& work) {
    const auto team = static_cast<int>(std::clamp<std::int64_t>(n, 1, threads));
    std::int64_t failed = n;
    std::exception_ptr error;
#pragma omp parallel for schedule(dynamic) num_threads(team) if (n > 1)
    for (std::int64_t i = 0; i < n; ++i) {
        try {
            work(i);
        } catch (...) {
#pragma omp critical(smoacs_neighbors)
            if (i < failed) {
                failed = i;
                error = std::current_exception();
            }
        }
    }
    if (error) std::rethrow_exception(error);
}

int thread_number() {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

// How a rule measures the distances between a source and points of a cloud.
class Metric {
  public:
    void set(const Crystal& crystal, const NeighborQuery& query) {
        lattice_ = crystal.cell.lattice;
        alignn_ = query.alignn();
        slack_ = 0;
        start_.resize(crystal.size());
        const Mat3 rounded = rounded_lattice(lattice_);
        for (std::int64_t i = 0; i < crystal.size(); ++i) {
            const Vec3 f = crystal.frac[i];
            const Vec3 x = alignn_ ? position_alignn(rounded, f, crystal.size() == 1) : f;
            start_[i] = x;
            if (alignn_) slack_ = std::max(slack_, 2 * length(x - f * lattice_) + 1e-9);
        }
    }

    // Largest difference between a measured and the true distance, Å.
    double slack() const { return slack_; }

    // What distances to and from each site start from: fractional, or ALIGNN's Cartesian.
    const Vec3* starts() const { return start_.data(); }

    // Distances from one start to n images, whose sites have theirs; returns how many exceed a
    // limit.
    SMOACS_CLONES std::int64_t measure(Vec3 here, const Image* images, const Vec3* starts,
                                       std::int64_t n, double limit, double* __restrict out) const {
        const Mat3 lattice = lattice_;
        std::int64_t beyond = 0;
        const auto measure_all = [&](auto&& vector) SMOACS_INLINE {
            for (std::int64_t i = 0; i < n; ++i) {
                out[i] = length(vector(lattice, here, starts[i], shift_of(images[i])));
                beyond += out[i] > limit;
            }
        };
        if (alignn_) {
            measure_all(pair_vector_alignn);
        } else {
            measure_all(pair_vector);
        }
        return beyond;
    }

    // Distance back from the image of `dst`, which may differ in the last bit from that there.
    double back(std::int64_t src, std::int64_t dst, Image image, double there) const {
        if (!alignn_) return there;
        const Vec3 shift = -1.0 * shift_of(image);
        return length(pair_vector_alignn(lattice_, start_[dst], start_[src], shift));
    }

  private:
    static Vec3 shift_of(Image image) {
        return {static_cast<double>(image.shift[0]), static_cast<double>(image.shift[1]),
                static_cast<double>(image.shift[2])};
    }

    Mat3 lattice_;
    bool alignn_;
    double slack_;
    Buffer<Vec3> start_;
};

// Neighbours of unknown number that stay where they are.
class NeighborStore {
  public:
    // Room for n neighbours, until the next call; keep() makes the first of them stay.
    Neighbors room(std::int64_t n) {
        if (chunks_.empty() || chunks_[current_].images.capacity() - used_ < n) {
            current_ += !chunks_.empty();
            used_ = 0;
            if (current_ == chunks_.size()) chunks_.emplace_back();
            Chunk& chunk = chunks_[current_];
            if (chunk.images.capacity() < n) chunk = Chunk(std::max(n, kChunk));
        }
        Chunk& chunk = chunks_[current_];
        return {chunk.images.data() + used_, chunk.distances.data() + used_, 0};
    }
    void keep(std::int64_t n) { used_ += n; }

    // Forgets all, but keeps the memory.
    void clear() {
        current_ = 0;
        used_ = 0;
    }

  private:
    static constexpr std::int64_t kChunk = 1 << 18;
    struct Chunk {
        Chunk() = default;
        explicit Chunk(std::int64_t n) {
            images.reserve(n);
            distances.reserve(n);
        }

        Buffer<Image> images;
        Buffer<double> distances;
    };

    std::vector<Chunk> chunks_;
    std::size_t current_ = 0;
    std::int64_t used_ = 0;  // of the current chunk
};

// What looking around one site needs.
struct Scratch {
    Buffer<std::int32_t> points;
    Buffer<Vec3> starts;
    Buffer<double> distances;
    Buffer<std::int64_t> within;
    Sorting sorting;
    NeighborStore near;
};

// The search in one crystal after the other.
class CrystalSearch {
  public:
    template <typename T>
    void load(const Crystals<T>& crystals, std::int64_t c, const NeighborQuery& query) {
        load_crystal(crystals, c, crystal_);
        query_ = query;
        metric_.set(crystal_, query);
        const auto n = static_cast<double>(crystal_.size());
        const double pairs = by_radius() ? expected_pairs(n, crystal_.cell.volume, query.cutoff)
                                         : n * static_cast<double>(query.k);
        if (pairs > kMaxPairs) {
            raise_neighbor_fault(NeighborFault::too_many_pairs, crystal_.index);
        }
    }

    // Finds the neighbours of every site, `found` being those of the batch. for_sites(work) calls
    // work(i, scratch, store) for as many numbers i as there are sites. `threads` may prepare it.
    template <typename ForSites>
    void find(ForSites&& for_sites, Neighbors* found, int threads) {
        if (crystal_.size() == 0) return;
        found += crystal_.first;
        if (by_radius()) {
            cloud_.fill(crystal_, metric_.starts(), query_.cutoff, threads);
            for_sites([&](std::int64_t i, Scratch& scratch, NeighborStore& store) {
                const Source& source = cloud_.source(i);
                found[source.offset.site] = look(source, query_.cutoff, scratch, store);
            });
        } else {
            find_reach(for_sites, threads);
            for_sites([&](std::int64_t i, Scratch& scratch, NeighborStore& store) {
                const std::int64_t src = cloud_.source(i).offset.site;
                found[src] = select(src, scratch, store);
            });
        }
    }

  private:
    bool by_radius() const { return query_.rule == NeighborRule::radius; }

    // Everything around a source up to a distance, or somewhat farther if that is infinite.
    Neighbors look(const Source& source, double limit, Scratch& scratch,
                   NeighborStore& store) const {
        const std::int64_t near = cloud_.near(source, scratch.points, scratch.sorting);
        Neighbors out = store.room(near);
        Vec3* starts = scratch.starts.resize(near);
        std::int64_t n = cloud_.neighbors(source, scratch.points.data(), near, crystal_.first,
                                          out.images, starts);
        if (metric_.measure(source.start, out.images, starts, n, limit, out.distances) > 0) {
            const std::int64_t measured = std::exchange(n, 0);
            for (std::int64_t i = 0; i < measured; ++i) {
                out.images[n] = out.images[i];
                out.distances[n] = out.distances[i];
                n += out.distances[i] <= limit;
            }
        }
        store.keep(n);
        out.n = n;
        return out;
    }

    // Fills near_, and reach_ with how far the neighbours of each site reach. Widens the search
    // until it holds them all; the original's extension of the cutoff ends with the same edges.
    template <typename ForSites>
    void find_reach(ForSites&& for_sites, int threads) {
        const double n = static_cast<double>(crystal_.size()), slack = metric_.slack();
        const double most = query_.rule == NeighborRule::knn ? query_.cutoff : kInfinity;
        double radius = expected_radius(n, crystal_.cell.volume, query_.k) + query_.tie_tolerance;
        near_.resize(crystal_.size());
        double* reach = reach_.resize(crystal_.size());
        for (;; radius *= 1.3) {
            radius = std::min(radius, most);
            cloud_.fill(crystal_, metric_.starts(), radius + slack, threads);
            for_sites([&](std::int64_t i, Scratch& scratch, NeighborStore&) {
                const Source& source = cloud_.source(i);
                const std::int64_t src = source.offset.site;
                near_[src] = look(source, kInfinity, scratch, scratch.near);
                reach[src] = query_.reach(kth_distance(near_[src], radius, scratch));
            });
            const double farthest = *std::max_element(reach, reach + crystal_.size());
            if (radius == most || farthest + slack <= radius) return;
        }
    }

    // Distance of the k-th neighbour, infinite if there are fewer in the radius.
    double kth_distance(const Neighbors& near, double radius, Scratch& scratch) const {
        const double above = query_.min_distance();
        double* inside = scratch.distances.resize(near.n);
        std::int64_t n = 0;
        for (std::int64_t i = 0; i < near.n; ++i) {
            const double d = near.distances[i];
            inside[n] = d;
            n += d > above && d <= radius;
        }
        return n < query_.k ? kInfinity : scratch.sorting.order.kth(inside, n, query_.k);
    }

    // The pairs that a knn rule lists, given the reach of every site.
    Neighbors select(std::int64_t src, Scratch& scratch, NeighborStore& store) const {
        const NeighborQuery query = query_;
        const Neighbors near = near_[src];
        const double* reach = reach_.data();
        Neighbors out = store.room(2 * near.n + 1);
        // Most of what was looked at is out of reach of either end, however it is measured.
        const double margin = 2 * metric_.slack();
        std::int64_t* within = scratch.within.resize(near.n);
        std::int64_t n_within = 0;
        for (std::int64_t i = 0; i < near.n; ++i) {
            const std::int64_t dst = near.images[i].site - crystal_.first;
            within[n_within] = i;
            n_within += near.distances[i] <= std::max(reach[src], reach[dst]) + margin;
        }
        std::int64_t n = 0;
        for (std::int64_t j = 0; j < n_within; ++j) {
            const std::int64_t i = within[j];
            const Image image = near.images[i];
            const std::int64_t dst = image.site - crystal_.first;
            const double there = near.distances[i], back = metric_.back(src, dst, image, there);
            out.images[n] = out.images[n + 1] = image;
            out.distances[n] = out.distances[n + 1] = there;
            n += query.times(dst == src, there, back, reach[src], reach[dst]);
        }
        if (query.rule == NeighborRule::knn && n > query.k) {
            n = keep_nearest(out.images, out.distances, n, scratch);
        }
        store.keep(n);
        out.n = n;
        return out;
    }

    // Reduces the neighbours of a site to the first k by distance rank and the present order.
    std::int64_t keep_nearest(Image* images, double* distances, std::int64_t n,
                              Scratch& scratch) const {
        double* ranks = scratch.distances.resize(n);
        for (std::int64_t i = 0; i < n; ++i) ranks[i] = query_.rank(distances[i]);
        const double last = scratch.sorting.order.kth(ranks, n, query_.k);
        std::int64_t tied = query_.k;  // how many of the last rank have a place
        for (std::int64_t i = 0; i < n; ++i) tied -= ranks[i] < last;
        std::int64_t kept = 0;
        for (std::int64_t i = 0; i < n; ++i) {
            images[kept] = images[i];
            distances[kept] = distances[i];
            kept += ranks[i] < last || (ranks[i] == last && tied-- > 0);
        }
        return kept;
    }

    NeighborQuery query_;
    Crystal crystal_;
    Metric metric_;
    ImageCloud cloud_;
    Buffer<Neighbors> near_;  // of each site: what may be listed
    Buffer<double> reach_;
};

// Consecutive small crystals for one thread, or a large one for all.
struct Group {
    std::int64_t first, last;  // crystals
    std::int64_t n_sites;

    bool is_large() const { return n_sites >= kLargeCrystal; }
};

std::vector<Group> group_crystals(const std::vector<std::int64_t>& site_ptr) {
    std::vector<Group> groups;
    for (std::int64_t c = 0; c + 1 < static_cast<std::int64_t>(site_ptr.size()); ++c) {
        const Group alone{c, c + 1, site_ptr[c + 1] - site_ptr[c]};
        if (alone.is_large() || groups.empty() || groups.back().n_sites >= kSitesPerGroup) {
            groups.push_back(alone);
        } else {
            groups.back().last = alone.last;
            groups.back().n_sites += alone.n_sites;
        }
    }
    return groups;
}

}  // namespace

struct Worker {
    CrystalSearch search;
    Scratch scratch;
    NeighborStore found;
};

namespace {

// Workers between two searches. Fresh memory costs more than the search itself: the system clears
// it page by page. Searches that were larger than this give theirs back.
constexpr std::int64_t kEdgesToRemember = 1 << 23;

class WorkerPool {
  public:
    std::unique_ptr<Worker> take() {
        const std::lock_guard lock(mutex_);
        if (idle_.empty()) return std::make_unique<Worker>();
        auto worker = std::move(idle_.back());
        idle_.pop_back();
        return worker;
    }

    void give_back(std::unique_ptr<Worker> worker) {
        worker->found.clear();
        const std::lock_guard lock(mutex_);
        idle_.push_back(std::move(worker));
    }

  private:
    std::mutex mutex_;
    std::vector<std::unique_ptr<Worker>> idle_;
};

WorkerPool& worker_pool() {
    static WorkerPool pool;
    return pool;
}

}  // namespace

template <typename T>
NeighborSearch::NeighborSearch(const Crystals<T>& crystals, const NeighborQuery& query)
    : site_ptr_(crystals.ptr, crystals.ptr + crystals.n_crystals + 1) {
    const std::vector<Group> groups = group_crystals(site_ptr_);
    const auto n_groups = static_cast<std::int64_t>(groups.size());
    const int threads = num_threads();
    for (int t = 0; t < threads; ++t) workers_.push_back(worker_pool().take());
    found_.resize(n_sites());
    for_all(n_groups, threads, [&](std::int64_t g) {
        if (groups[g].is_large()) return;
        Worker& worker = *workers_[thread_number()];
        for (std::int64_t c = groups[g].first; c < groups[g].last; ++c) {
            const std::int64_t n = site_ptr_[c + 1] - site_ptr_[c];
            worker.scratch.near.clear();
            worker.search.load(crystals, c, query);
            worker.search.find(
                [&](auto&& work) {
                    for (std::int64_t i = 0; i < n; ++i) work(i, worker.scratch, worker.found);
                },
                found_.data(), 1);
        }
    });
    for (const Group& group : groups) {
        if (!group.is_large()) continue;
        for (auto& worker : workers_) worker->scratch.near.clear();
        CrystalSearch& search = workers_[0]->search;
        search.load(crystals, group.first, query);
        search.find(
            [&](auto&& work) {
                const std::int64_t n_blocks = (group.n_sites + kBlock - 1) / kBlock;
                for_all(n_blocks, threads, [&](std::int64_t block) {
                    const std::int64_t first = block * kBlock;
                    const std::int64_t last = std::min(group.n_sites, first + kBlock);
                    Worker& worker = *workers_[thread_number()];
                    for (std::int64_t i = first; i < last; ++i) {
                        work(i, worker.scratch, worker.found);
                    }
                });
            },
            found_.data(), threads);
    }
    starts_.resize(n_sites() + 1);
    starts_[0] = 0;
    for (std::int64_t s = 0; s < n_sites(); ++s) starts_[s + 1] = starts_[s] + found_[s].n;
}

NeighborSearch::NeighborSearch(NeighborSearch&&) noexcept = default;

NeighborSearch::~NeighborSearch() {
    for (auto& worker : workers_) {  // none if it was moved from
        if (n_edges() <= kEdgesToRemember) worker_pool().give_back(std::move(worker));
    }
}

namespace {

// Neighbours lie in the order of the search, here and there for a list in the order of sites, which
// asks for those of some sites ahead.
constexpr std::int64_t kAhead = 4;

// Columns of the list from rows.
SMOACS_CLONES void separate(const Image* images, std::int64_t n, std::int64_t* __restrict site,
                            std::int32_t* __restrict shift) {
    for (std::int64_t i = 0; i < n; ++i) {
        site[i] = images[i].site;
        for (int k = 0; k < 3; ++k) shift[3 * i + k] = images[i].shift[k];
    }
}

void prefetch(const void* begin, std::size_t size) {
    constexpr std::size_t line = 64;
    for (std::size_t i = 0; i < size; i += line) {
        __builtin_prefetch(static_cast<const char*>(begin) + i);
    }
}

void prefetch(const Neighbors& found) {
    const auto n = static_cast<std::size_t>(found.n);
    prefetch(found.images, n * sizeof(Image));
    prefetch(found.distances, n * sizeof(double));
}

}  // namespace

template <typename T>
void NeighborSearch::write(std::int64_t* src, std::int64_t* dst, std::int32_t* shift, T* distance,
                           std::int64_t* edge_ptr) const {
    const auto n = static_cast<std::size_t>(n_edges());
    use_large_pages(src, n * sizeof *src);
    use_large_pages(dst, n * sizeof *dst);
    use_large_pages(shift, 3 * n * sizeof *shift);
    use_large_pages(distance, n * sizeof *distance);
#pragma omp parallel for schedule(static) num_threads(num_threads(n_edges() / 16384))
    for (std::int64_t s = 0; s < n_sites(); ++s) {
        const Neighbors found = found_[s];
        if (s + kAhead < n_sites()) prefetch(found_[s + kAhead]);
        const std::int64_t e = starts_[s];
        std::fill_n(src + e, found.n, s);
        separate(found.images, found.n, dst + e, shift + 3 * e);
        std::copy_n(found.distances, found.n, distance + e);
    }
    for (std::size_t c = 0; c < site_ptr_.size(); ++c) edge_ptr[c] = starts_[site_ptr_[c]];
}

template NeighborSearch::NeighborSearch(const Crystals<float>&, const NeighborQuery&);
template NeighborSearch::NeighborSearch(const Crystals<double>&, const NeighborQuery&);
template void NeighborSearch::write(std::int64_t*, std::int64_t*, std::int32_t*, float*,
                                    std::int64_t*) const;
template void NeighborSearch::write(std::int64_t*, std::int64_t*, std::int32_t*, double*,
                                    std::int64_t*) const;

}  // namespace smoacs::cpu
