#include "cpu/neighbors.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <mutex>

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

// Runs work(first, last, block) for every block of sites, on several threads if there are several.
template <typename Work>
void for_blocks(std::int64_t n, Work&& work) {
    const std::int64_t size = block_size(n), blocks = n_blocks(n);
    std::exception_ptr error;
    std::mutex mutex;
#pragma omp parallel for schedule(dynamic) num_threads(num_threads(blocks)) if (blocks > 1)
    for (std::int64_t block = 0; block < blocks; ++block) {
        try {
            work(block * size, std::min(n, (block + 1) * size), block);
        } catch (...) {
            const std::lock_guard<std::mutex> lock(mutex);
            error = std::current_exception();
        }
    }
    if (error) std::rethrow_exception(error);
}

// Coordinates of atoms by axis.
struct Axes {
    std::vector<double> x, y, z;

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
        const Mat3 rounded = rounded_lattice(lattice_);
        for (const Vec3 f : crystal.frac) {
            const Vec3 x = position_alignn(rounded, f, crystal.size() == 1);
            atoms_.add(alignn_ ? x : f);
            if (alignn_) slack_ = std::max(slack_, 2 * length(x - f * lattice_) + 1e-9);
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

// The points near one source after the other, with their distances.
class Around {
  public:
    Around(const ImageCloud& cloud, const Metric& metric) : cloud_(cloud), metric_(metric) {}

    void look(std::int64_t src) {
        src_ = src;
        n_ = cloud_.near(src, points_);
        if (static_cast<std::int64_t>(there_.size()) < n_) there_.resize(2 * n_);
        metric_.measure(cloud_, src, Direction::there, points_.data(), n_, there_.data());
        if (!metric_.one_way()) return;
        if (static_cast<std::int64_t>(back_.size()) < n_) back_.resize(2 * n_);
        metric_.measure(cloud_, src, Direction::back, points_.data(), n_, back_.data());
    }

    // k-th smallest distance in the range (above, upto], infinite if there are fewer. Spoils the
    // distances.
    double kth_distance(std::int64_t k, double above, double upto) {
        std::int64_t n = 0;
        for (std::int64_t i = 0; i < n_; ++i) {
            const double d = there_[i];
            there_[n] = d;
            n += d > above && d <= upto;
        }
        return n < k ? kInfinity : selector_.kth(there_.data(), n, k);
    }

    // Points, sorted by (distance rank, atom, shift), each as often as times(dst, there, back)
    // says: 0, 1 or 2.
    template <typename Times>
    const std::vector<std::int32_t>& select(const NeighborQuery& query, Times&& times) {
        const std::vector<double>& back = metric_.one_way() ? back_ : there_;
        const std::int32_t home = cloud_.home(src_);
        distances_.resize(2 * n_);
        chosen_.resize(2 * n_);
        std::int64_t n = 0;
        for (std::int64_t i = 0; i < n_; ++i) {
            const std::int32_t q = points_[i];
            const int count = q == home ? 0 : times(cloud_.atom()[q], there_[i], back[i]);
            distances_[n] = distances_[n + 1] = there_[i];
            chosen_[n] = chosen_[n + 1] = q;
            n += count;
        }
        distances_.resize(n);
        chosen_.resize(n);
        double farthest = 0;
        for (const double d : distances_) farthest = std::max(farthest, d);
        const bool packs = query.tie_tolerance > 0 && query.rank(farthest) < kMaxPackedRank;
        packs ? sort_packed(query) : sort_pairs(query);
        return chosen_;
    }

  private:
    // A rank, a point and which of its two copies, in one integer.
    static constexpr int kPointBits = kMaxImagesLog2;
    static constexpr double kMaxPackedRank = std::numeric_limits<std::int32_t>::max();
    static_assert(31 + kPointBits + 1 < 63);

    void sort_packed(const NeighborQuery& query) {
        keys_.resize(chosen_.size());
        for (std::size_t i = 0; i < chosen_.size(); ++i) {
            const bool again = i > 0 && chosen_[i] == chosen_[i - 1];
            const auto rank =
                static_cast<std::uint64_t>(static_cast<std::int64_t>(query.rank(distances_[i])));
            keys_[i] = (rank << kPointBits | static_cast<std::uint32_t>(chosen_[i])) << 1 | again;
        }
        sorter_.sort(keys_, distances_);
        for (std::size_t i = 0; i < chosen_.size(); ++i) {
            chosen_[i] = static_cast<std::int32_t>(keys_[i] >> 1 & ((1u << kPointBits) - 1));
        }
    }

    // For ranks that do not fit.
    void sort_pairs(const NeighborQuery& query) {
        std::vector<std::pair<double, std::int32_t>> pairs;
        for (std::size_t i = 0; i < chosen_.size(); ++i) {
            pairs.emplace_back(query.rank(distances_[i]), chosen_[i]);
        }
        std::sort(pairs.begin(), pairs.end());
        for (std::size_t i = 0; i < chosen_.size(); ++i) chosen_[i] = pairs[i].second;
    }

    const ImageCloud& cloud_;
    const Metric& metric_;
    std::int64_t src_ = 0;
    std::int64_t n_ = 0;  // points near src_
    std::vector<std::int32_t> points_;
    std::vector<double> there_, back_;  // their distances
    std::vector<std::int32_t> chosen_;
    std::vector<double> distances_;  // of the chosen
    std::vector<std::uint64_t> keys_;
    KeySorter sorter_;
    Selector selector_;
};

}  // namespace

class CrystalNeighbors {
  public:
    CrystalNeighbors(Crystal crystal, const NeighborQuery& query)
        : crystal_(std::move(crystal)), query_(query), metric_(crystal_, query) {
        const auto n = static_cast<double>(crystal_.size());
        if (query.rule == NeighborRule::radius) {
            check_size(expected_pairs(n, crystal_.cell.volume, query.cutoff));
            cloud_ = ImageCloud(crystal_, query.cutoff);
            select({});
        } else {
            check_size(n * static_cast<double>(query.k));
            const std::vector<double> reach = find_reach();
            select(reach);
        }
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
        for_blocks(crystal_.size(), [&](std::int64_t first, std::int64_t, std::int64_t b) {
            const std::int32_t* points = blocks_[b].points.data();
            std::int64_t edge = starts[b], i = first;
            std::vector<double> lengths;
            for (const std::int32_t count : blocks_[b].counts) {
                lengths.resize(count);
                metric_.measure(cloud_, i, Direction::there, points, count, lengths.data());
                const std::int32_t* o = cloud_.offset(i);
                for (std::int32_t m = 0; m < count; ++m, ++edge) {
                    const std::int32_t q = points[m];
                    src[edge] = offset + i;
                    dst[edge] = offset + cloud_.atom()[q];
                    for (int k = 0; k < 3; ++k) shift[3 * edge + k] = cloud_.shift(k)[q] + o[k];
                    distance[edge] = static_cast<T>(lengths[m]);
                }
                points += count;
                ++i;
            }
        });
    }

  private:
    // Points of the cloud that successive sites are connected to.
    struct Block {
        std::vector<std::int32_t> counts;
        std::vector<std::int32_t> points;
    };

    void check_size(double pairs) const {
        if (pairs > kMaxPairs) {
            fail(crystal_.index, "about " + decimals(pairs) +
                                     " pairs are more than a list can hold; use a smaller cutoff");
        }
    }

    // How far the neighbours of each site reach. Widens the cloud until it holds them all; the
    // original's extension of the cutoff ends with the same edges.
    std::vector<double> find_reach() {
        const double n = static_cast<double>(crystal_.size()), slack = metric_.slack();
        const double most = query_.rule == NeighborRule::knn ? query_.cutoff : kInfinity;
        double radius = expected_radius(n, crystal_.cell.volume, query_.k) + query_.tie_tolerance;
        for (;; radius *= 1.3) {
            radius = std::min(radius, most);
            cloud_ = ImageCloud(crystal_, radius + slack);
            std::vector<double> reach = kth_distances(radius);
            for (double& r : reach) r = query_.reach(r);
            if (radius == most || largest(reach) + slack <= radius) return reach;
        }
    }

    static double largest(const std::vector<double>& values) {
        return values.empty() ? 0 : *std::max_element(values.begin(), values.end());
    }

    // Distance of the k-th neighbour of every site, infinite if there are fewer in the radius.
    std::vector<double> kth_distances(double radius) const {
        std::vector<double> out(crystal_.size());
        for_blocks(crystal_.size(), [&](std::int64_t first, std::int64_t last, std::int64_t) {
            Around around(cloud_, metric_);
            for (std::int64_t src = first; src < last; ++src) {
                around.look(src);
                out[src] = around.kth_distance(query_.k, query_.min_distance(), radius);
            }
        });
        return out;
    }

    // Keeps the pairs that the rule lists, given the reach of every site.
    void select(const std::vector<double>& reach) {
        const std::size_t most = query_.rule == NeighborRule::knn
                                     ? static_cast<std::size_t>(query_.k)
                                     : std::numeric_limits<std::size_t>::max();
        const auto reach_of = [&](std::int64_t i) { return reach.empty() ? kInfinity : reach[i]; };
        blocks_.resize(n_blocks(crystal_.size()));
        for_blocks(crystal_.size(), [&](std::int64_t first, std::int64_t last, std::int64_t b) {
            Block& block = blocks_[b];
            Around around(cloud_, metric_);
            for (std::int64_t src = first; src < last; ++src) {
                around.look(src);
                const double mine = reach_of(src);
                const std::vector<std::int32_t>& points =
                    around.select(query_, [&](std::int32_t dst, double there, double back) {
                        return query_.times(dst == src, there, back, mine, reach_of(dst));
                    });
                const std::size_t n = std::min(most, points.size());
                block.counts.push_back(static_cast<std::int32_t>(n));
                block.points.insert(block.points.end(), points.begin(), points.begin() + n);
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
    std::vector<std::exception_ptr> errors(n);
    const auto search = [&](std::int64_t c) {
        try {
            crystals_[c] = std::make_unique<CrystalNeighbors>(load_crystal(crystals, c), query);
        } catch (...) {
            errors[c] = std::current_exception();
        }
    };
    const auto is_large = [&](std::int64_t c) {
        return site_ptr_[c + 1] - site_ptr_[c] >= kLargeCrystal;
    };
#pragma omp parallel for schedule(dynamic) num_threads(num_threads(n))
    for (std::int64_t c = 0; c < n; ++c) {
        if (!is_large(c)) search(c);
    }
    for (std::int64_t c = 0; c < n; ++c) {
        if (is_large(c)) search(c);
        if (errors[c]) std::rethrow_exception(errors[c]);
        edge_ptr_.push_back(edge_ptr_.back() + crystals_[c]->n_edges());
    }
}

template <typename T>
void NeighborSearch::write(std::int64_t* src, std::int64_t* dst, std::int32_t* shift, T* distance,
                           std::int64_t* edge_ptr) const {
    const auto n = static_cast<std::int64_t>(crystals_.size());
    const auto is_large = [&](std::int64_t c) {
        return site_ptr_[c + 1] - site_ptr_[c] >= kLargeCrystal;
    };
    const auto write_one = [&](std::int64_t c) {
        crystals_[c]->write(edge_ptr_[c], site_ptr_[c], src, dst, shift, distance);
    };
#pragma omp parallel for schedule(dynamic) num_threads(num_threads(n))
    for (std::int64_t c = 0; c < n; ++c) {
        if (!is_large(c)) write_one(c);
    }
    for (std::int64_t c = 0; c < n; ++c) {
        if (is_large(c)) write_one(c);
    }
    std::copy(edge_ptr_.begin(), edge_ptr_.end(), edge_ptr);
}

template NeighborSearch::NeighborSearch(const Crystals<float>&, const NeighborQuery&);
template NeighborSearch::NeighborSearch(const Crystals<double>&, const NeighborQuery&);
template void NeighborSearch::write(std::int64_t*, std::int64_t*, std::int32_t*, float*,
                                    std::int64_t*) const;
template void NeighborSearch::write(std::int64_t*, std::int64_t*, std::int32_t*, double*,
                                    std::int64_t*) const;

}  // namespace smoacs::cpu
