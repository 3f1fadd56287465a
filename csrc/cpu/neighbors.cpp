#include "cpu/neighbors.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <tuple>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "cpu/sort_keys.h"
#include "cpu/threads.h"

namespace smoacs::cpu {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Crystals of this size are worth sharing among threads, in blocks of sites.
constexpr std::int64_t kLargeCrystal = 2048;
constexpr std::int64_t kSitesPerBlock = 256;

std::int64_t block_size(std::int64_t n_sites) {
    return n_sites < kLargeCrystal ? kLargeCrystal : kSitesPerBlock;
}
std::int64_t n_blocks(std::int64_t n_sites) {
    return (n_sites + block_size(n_sites) - 1) / block_size(n_sites);
}

// Calls work(i) for i < n on several threads; rethrows the exception of the lowest i.
template <typename Work>
void for_all(std::int64_t n, Work&& work) {
    std::int64_t failed = n;
    std::exception_ptr error;
#pragma omp parallel for schedule(dynamic) num_threads(num_threads(n)) if (n > 1)
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

// Coordinates of atoms by axis.
struct Axes {
    std::vector<double> x, y, z;

    void reserve(std::int64_t n) {
        for (auto* values : {&x, &y, &z}) values->reserve(n);
    }
    void add(Vec3 v) {
        x.push_back(v.x);
        y.push_back(v.y);
        z.push_back(v.z);
    }
    Vec3 operator[](std::int64_t i) const { return {x[i], y[i], z[i]}; }
};

enum class Direction { there, back };

// How a rule measures the distances between a source and points of a cloud.
class Metric {
  public:
    Metric(const Crystal& crystal, const NeighborQuery& query)
        : lattice_(crystal.cell.lattice), alignn_(query.alignn()) {
        atoms_.reserve(crystal.size());
        const Mat3 rounded = rounded_lattice(lattice_);
        for (const Vec3 f : crystal.frac) {
            if (!alignn_) {
                atoms_.add(f);
                continue;
            }
            const Vec3 x = position_alignn(rounded, f, crystal.size() == 1);
            atoms_.add(x);
            slack_ = std::max(slack_, 2 * length(x - f * lattice_) + 1e-9);
        }
    }

    // Largest difference between a measured and the true distance, Å.
    double slack() const { return slack_; }

    // Whether the way back may differ in the last bit.
    bool one_way() const { return alignn_; }

    void measure(const ImageCloud& cloud, std::int64_t src, Direction direction,
                 const std::int32_t* points, std::int64_t n, double* out) const {
        if (alignn_) {
            measure_alignn(cloud, src, direction, points, n, out);
        } else {
            measure_true(cloud, src, points, n, out);
        }
    }

  private:
    SMOACS_CLONES void measure_true(const ImageCloud& cloud, std::int64_t src,
                                    const std::int32_t* points, std::int64_t n,
                                    double* __restrict out) const {
        const Mat3 lattice = lattice_;
        const Vec3 f = atoms_[src];
        const double *x = atoms_.x.data(), *y = atoms_.y.data(), *z = atoms_.z.data();
        const std::int32_t* atom = cloud.atom();
        const std::int32_t *a = cloud.shift(0), *b = cloud.shift(1), *c = cloud.shift(2);
        const std::int32_t* o = cloud.offset(src);
        const std::int32_t oa = o[0], ob = o[1], oc = o[2];
        for (std::int64_t i = 0; i < n; ++i) {
            const std::int32_t q = points[i], j = atom[q];
            const Vec3 shift{static_cast<double>(a[q] + oa), static_cast<double>(b[q] + ob),
                             static_cast<double>(c[q] + oc)};
            out[i] = length(pair_vector(lattice, f, {x[j], y[j], z[j]}, shift));
        }
    }

    void measure_alignn(const ImageCloud& cloud, std::int64_t src, Direction direction,
                        const std::int32_t* points, std::int64_t n, double* out) const {
        const std::int32_t* o = cloud.offset(src);
        for (std::int64_t i = 0; i < n; ++i) {
            const std::int32_t q = points[i];
            const Vec3 here = atoms_[src], there = atoms_[cloud.atom()[q]];
            const Vec3 shift = to_vec(
                {cloud.shift(0)[q] + o[0], cloud.shift(1)[q] + o[1], cloud.shift(2)[q] + o[2]});
            out[i] = length(direction == Direction::there
                                ? pair_vector_alignn(lattice_, here, there, shift)
                                : pair_vector_alignn(lattice_, there, here, -1.0 * shift));
        }
    }

    Mat3 lattice_;
    bool alignn_;
    double slack_ = 0;
    Axes atoms_;  // what distances start from: fractional, or ALIGNN's Cartesian coordinates
};

// Puts the rank of each distance, which must fit into 31 bits, above the low bits of its key.
SMOACS_CLONES void add_ranks(const NeighborQuery& query, const double* distances, std::int64_t n,
                             int low_bits, std::uint64_t* __restrict keys) {
    const NeighborQuery by_value = query;
    for (std::int64_t i = 0; i < n; ++i) {
        const auto rank = static_cast<std::int32_t>(by_value.rank(distances[i]));
        keys[i] |= static_cast<std::uint64_t>(rank) << low_bits;
    }
}

// The search around one source after the other, and its working memory.
class Around {
  public:
    // Finds and measures the points near `src`.
    void look(const ImageCloud& cloud, const Metric& metric, std::int64_t src) {
        cloud_ = &cloud;
        src_ = src;
        n_ = cloud.near(src, points_);
        metric.measure(cloud, src, Direction::there, points_.data(), n_, room(there_, n_));
        back_ = there_.data();
        if (!metric.one_way()) return;
        metric.measure(cloud, src, Direction::back, points_.data(), n_, room(backwards_, n_));
        back_ = backwards_.data();
    }

    // k-th smallest distance in the range (above, upto], infinite if there are fewer. Spoils the
    // distances.
    double kth_distance(std::int64_t k, double above, double upto) {
        double* there = there_.data();
        std::int64_t n = 0;
        for (std::int64_t i = 0; i < n_; ++i) {
            const double d = there[i];
            there[n] = d;
            n += d > above && d <= upto;
        }
        return n < k ? kInfinity : selector_.kth(there, n, k);
    }

    // Selects points, each as often as times(dst, there, back) says, which is at most Most (1 or
    // 2), and sorts them by (distance rank, atom, shift). Returns their number.
    template <int Most, typename Times>
    std::int64_t select(const NeighborQuery& query, Times&& times) {
        const std::int32_t home = cloud_->home(src_);
        const std::int32_t* atom = cloud_->atom();
        const double* there = there_.data();
        double* distances = room(distances_, Most * (n_ + 1));
        std::uint64_t* keys = room(keys_, Most * (n_ + 1));
        std::int64_t n = 0;
        double farthest = 0;
        for (std::int64_t i = 0; i < n_; ++i) {
            const std::int32_t q = points_[i];
            const double d = there[i];
            const int count = q == home ? 0 : times(atom[q], d, back_[i]);
            for (int copy = 0; copy < Most; ++copy) {
                distances[n + copy] = d;
                keys[n + copy] = static_cast<std::uint64_t>(q) << 1 | copy;
            }
            n += count;
            farthest = count > 0 && d > farthest ? d : farthest;
        }
        if (query.tie_tolerance > 0 && query.rank(farthest) < kMaxPackedRank) {
            add_ranks(query, distances, n, kPointBits + 1, keys);
            sorter_.sort(keys, distances, n);
        } else {
            sort_pairs(query, n);
        }
        return n;
    }

    // The selected points and their distances, until the next call.
    std::int32_t point(std::int64_t i) const {
        return static_cast<std::int32_t>(sorter_.keys()[i] >> 1 & ((1u << kPointBits) - 1));
    }
    const double* distances() const { return sorter_.distances(); }

  private:
    // A key is a rank, a point and which of its two copies.
    static constexpr int kPointBits = kMaxImagesLog2;
    static constexpr double kMaxPackedRank = std::numeric_limits<std::int32_t>::max();
    static_assert(31 + kPointBits + 1 < 63);

    // For ranks that do not fit into a key: their places in the sequence of all ranks do.
    void sort_pairs(const NeighborQuery& query, std::int64_t n) {
        std::vector<std::tuple<double, std::uint64_t, double>> rows;
        for (std::int64_t i = 0; i < n; ++i) {
            rows.emplace_back(query.rank(distances_[i]), keys_[i], distances_[i]);
        }
        std::sort(rows.begin(), rows.end());
        for (std::int64_t i = 0; i < n; ++i) {
            keys_[i] = static_cast<std::uint64_t>(i) << (kPointBits + 1) | std::get<1>(rows[i]);
            distances_[i] = std::get<2>(rows[i]);
        }
        sorter_.sort(keys_.data(), distances_.data(), n);
    }

    const ImageCloud* cloud_ = nullptr;
    std::int64_t src_ = 0;
    std::int64_t n_ = 0;  // points near src_
    std::vector<std::int32_t> points_;
    std::vector<double> there_, backwards_;  // their distances
    const double* back_ = nullptr;
    std::vector<double> distances_;  // of selected points
    std::vector<std::uint64_t> keys_;
    KeySorter sorter_;
    Selector selector_;
};

}  // namespace

// The search in one crystal.
class CrystalNeighbors {
  public:
    // `around` serves crystals that are not shared among threads.
    CrystalNeighbors(Crystal crystal, const NeighborQuery& query, Around& around)
        : crystal_(std::move(crystal)), query_(query), metric_(crystal_, query) {
        const auto n = static_cast<double>(crystal_.size());
        if (query.rule == NeighborRule::radius) {
            check_size(expected_pairs(n, crystal_.cell.volume, query.cutoff));
            cloud_ = ImageCloud(crystal_, query.cutoff);
            select({}, around);
        } else {
            check_size(n * static_cast<double>(query.k));
            const std::vector<double> reach = find_reach(around);
            select(reach, around);
        }
        cloud_.forget_positions();
    }

    std::int64_t n_edges() const {
        std::int64_t n = 0;
        for (const Block& block : blocks_) n += static_cast<std::int64_t>(block.points.size());
        return n;
    }

    // Writes the edges from `e` on; `offset` is the index of the crystal's first site.
    template <typename T>
    void write(std::int64_t e, std::int64_t offset, std::int64_t* src, std::int64_t* dst,
               std::int32_t* shift, T* distance) const {
        std::vector<std::int64_t> starts;
        for (const Block& block : blocks_) {
            starts.push_back(e);
            e += static_cast<std::int64_t>(block.points.size());
        }
        const std::int32_t* atom = cloud_.atom();
        const std::int32_t *a = cloud_.shift(0), *b = cloud_.shift(1), *c = cloud_.shift(2);
        for_all(n_blocks(crystal_.size()), [&](std::int64_t number) {
            const Block& block = blocks_[number];
            std::int64_t i = number * block_size(crystal_.size()), edge = starts[number], p = 0;
            for (const std::int32_t count : block.counts) {
                const std::int32_t* o = cloud_.offset(i);
                for (std::int32_t m = 0; m < count; ++m, ++edge, ++p) {
                    const std::int32_t q = block.points[p];
                    src[edge] = offset + i;
                    dst[edge] = offset + atom[q];
                    shift[3 * edge] = a[q] + o[0];
                    shift[3 * edge + 1] = b[q] + o[1];
                    shift[3 * edge + 2] = c[q] + o[2];
                    distance[edge] = static_cast<T>(block.distances[p]);
                }
                ++i;
            }
        });
    }

  private:
    // What successive sites are connected to.
    struct Block {
        std::vector<std::int32_t> counts;
        std::vector<std::int32_t> points;  // of the cloud
        std::vector<double> distances;
    };

    // Runs work(first, last, block, around) for every block of sites.
    template <typename Work>
    void for_blocks(Around& around, Work&& work) const {
        const std::int64_t n = crystal_.size(), size = block_size(n);
        if (n_blocks(n) == 1) return work(std::int64_t{0}, n, std::int64_t{0}, around);
        for_all(n_blocks(n), [&](std::int64_t block) {
            Around own;
            work(block * size, std::min(n, (block + 1) * size), block, own);
        });
    }

    void check_size(double pairs) const {
        if (pairs > kMaxPairs) {
            fail(crystal_.index, "about " + decimals(pairs) +
                                     " pairs are more than a list can hold; use a smaller cutoff");
        }
    }

    // How far the neighbours of each site reach. Widens the cloud until it holds them all; the
    // original's extension of the cutoff ends with the same edges.
    std::vector<double> find_reach(Around& around) {
        const double n = static_cast<double>(crystal_.size()), slack = metric_.slack();
        const double most = query_.rule == NeighborRule::knn ? query_.cutoff : kInfinity;
        double radius = expected_radius(n, crystal_.cell.volume, query_.k) + query_.tie_tolerance;
        for (;; radius *= 1.3) {
            radius = std::min(radius, most);
            cloud_ = ImageCloud(crystal_, radius + slack);
            std::vector<double> reach = kth_distances(radius, around);
            for (double& r : reach) r = query_.reach(r);
            if (radius == most || largest(reach) + slack <= radius) return reach;
        }
    }

    static double largest(const std::vector<double>& values) {
        return values.empty() ? 0 : *std::max_element(values.begin(), values.end());
    }

    // Distance of the k-th neighbour of every site, infinite if there are fewer in the radius.
    std::vector<double> kth_distances(double radius, Around& scratch) const {
        std::vector<double> out(crystal_.size());
        for_blocks(scratch,
                   [&](std::int64_t first, std::int64_t last, std::int64_t, Around& around) {
                       for (std::int64_t src = first; src < last; ++src) {
                           around.look(cloud_, metric_, src);
                           out[src] = around.kth_distance(query_.k, query_.min_distance(), radius);
                       }
                   });
        return out;
    }

    // Keeps the pairs that the rule lists, given the reach of every site.
    void select(const std::vector<double>& reach, Around& scratch) {
        const auto reach_of = [&](std::int64_t i) { return reach.empty() ? kInfinity : reach[i]; };
        const auto times = [&](std::int64_t src, std::int32_t dst, double there, double back) {
            return query_.times(dst == src, there, back, reach_of(src), reach_of(dst));
        };
        query_.rule == NeighborRule::knn_shell ? keep<2>(scratch, times) : keep<1>(scratch, times);
    }

    // Keeps every pair times(src, dst, there, back) times, but at most k per source under knn.
    template <int Most, typename Times>
    void keep(Around& scratch, Times&& times) {
        const std::int64_t limit =
            query_.rule == NeighborRule::knn ? query_.k : std::numeric_limits<std::int64_t>::max();
        blocks_.resize(n_blocks(crystal_.size()));
        for_blocks(scratch,
                   [&](std::int64_t first, std::int64_t last, std::int64_t number, Around& around) {
                       Block& block = blocks_[number];
                       block.counts.reserve(last - first);
                       for (std::int64_t src = first; src < last; ++src) {
                           around.look(cloud_, metric_, src);
                           const std::int64_t found = around.select<Most>(
                               query_, [&](std::int32_t dst, double there, double back) {
                                   return times(src, dst, there, back);
                               });
                           const std::int64_t n = std::min(limit, found);
                           block.counts.push_back(static_cast<std::int32_t>(n));
                           for (std::int64_t i = 0; i < n; ++i)
                               block.points.push_back(around.point(i));
                           block.distances.insert(block.distances.end(), around.distances(),
                                                  around.distances() + n);
                           if (src == first) {
                               // The other sites will have about as many.
                               const std::int64_t expected = (last - first) * (n + n / 8 + 1);
                               block.points.reserve(expected);
                               block.distances.reserve(expected);
                           }
                       }
                   });
    }

    Crystal crystal_;
    NeighborQuery query_;
    Metric metric_;
    ImageCloud cloud_;
    std::vector<Block> blocks_;
};

NeighborSearch::NeighborSearch(NeighborSearch&&) noexcept = default;
NeighborSearch::~NeighborSearch() = default;

template <typename T>
NeighborSearch::NeighborSearch(const Crystals<T>& crystals, const NeighborQuery& query)
    : crystals_(crystals.n_crystals),
      site_ptr_(crystals.ptr, crystals.ptr + crystals.n_crystals + 1),
      edge_ptr_(1, 0) {
    const std::int64_t n = crystals.n_crystals;
    std::vector<Around> scratch(num_threads(n));
    for_small_then_large([&](std::int64_t c) {
        crystals_[c] = std::make_unique<CrystalNeighbors>(load_crystal(crystals, c), query,
                                                          scratch[thread_number()]);
    });
    for (std::int64_t c = 0; c < n; ++c) {
        edge_ptr_.push_back(edge_ptr_.back() + crystals_[c]->n_edges());
    }
}

template <typename Work>
void NeighborSearch::for_small_then_large(Work&& work) const {
    const auto n = static_cast<std::int64_t>(crystals_.size());
    const auto is_large = [&](std::int64_t c) {
        return site_ptr_[c + 1] - site_ptr_[c] >= kLargeCrystal;
    };
    for_all(n, [&](std::int64_t c) {
        if (!is_large(c)) work(c);
    });
    for (std::int64_t c = 0; c < n; ++c) {
        if (is_large(c)) work(c);
    }
}

template <typename T>
void NeighborSearch::write(std::int64_t* src, std::int64_t* dst, std::int32_t* shift, T* distance,
                           std::int64_t* edge_ptr) const {
    for_small_then_large([&](std::int64_t c) {
        crystals_[c]->write(edge_ptr_[c], site_ptr_[c], src, dst, shift, distance);
    });
    std::copy(edge_ptr_.begin(), edge_ptr_.end(), edge_ptr);
}

template NeighborSearch::NeighborSearch(const Crystals<float>&, const NeighborQuery&);
template NeighborSearch::NeighborSearch(const Crystals<double>&, const NeighborQuery&);
template void NeighborSearch::write(std::int64_t*, std::int64_t*, std::int32_t*, float*,
                                    std::int64_t*) const;
template void NeighborSearch::write(std::int64_t*, std::int64_t*, std::int32_t*, double*,
                                    std::int64_t*) const;

}  // namespace smoacs::cpu
