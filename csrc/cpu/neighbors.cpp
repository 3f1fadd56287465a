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

// Shorter pairs are the same atom to the rules that count neighbours.
constexpr double knn_min_distance = 1e-4;
constexpr double shell_min_distance = 0.15;  // ALIGNN v1's

constexpr double max_edges = std::numeric_limits<std::int32_t>::max();
constexpr double infinity = std::numeric_limits<double>::infinity();

// Crystals of this size are worth sharing among threads, in blocks of sites.
constexpr std::int64_t large_crystal = 2048;
constexpr std::int64_t sites_per_block = 256;

std::int64_t block_size(std::int64_t n_sites) {
    return n_sites < large_crystal ? large_crystal : sites_per_block;
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
        : lattice_(crystal.cell.lattice),
          alignn_(query.rule == NeighborRule::knn_shell && query.tie_tolerance == 0) {
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

// Radius within which a site of a homogeneous crystal has a few more than k neighbours.
double expected_radius(const Crystal& crystal, std::int64_t k) {
    const double density = static_cast<double>(crystal.size()) / crystal.cell.volume;
    return 1.2 * std::cbrt(3 * static_cast<double>(k + 4) / (4 * 3.141592653589793 * density));
}

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
        return n < k ? infinity : selector_.kth(there_.data(), n, k);
    }

    // Points, sorted by (distance rank, atom, shift), each as often as times(dst, there, back)
    // says: 0, 1 or 2.
    template <typename Times>
    const std::vector<std::int32_t>& select(double tie_tolerance, Times&& times) {
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
        const bool packs = tie_tolerance > 0 && largest_rank(tie_tolerance) < max_packed_rank;
        packs ? sort_packed(tie_tolerance) : sort_by_distance(tie_tolerance);
        return chosen_;
    }

  private:
    // A rank, a point and which of its two copies, in one integer.
    static constexpr int point_bits = 27;
    static constexpr double max_packed_rank = std::numeric_limits<std::int32_t>::max();
    static_assert(ImageCloud::max_points <= 1 << point_bits);
    static_assert(31 + point_bits + 1 < 63);

    double largest_rank(double tie_tolerance) const {
        double largest = 0;
        for (const double d : distances_) largest = std::max(largest, d);
        return distance_rank(largest, tie_tolerance);
    }

    void sort_packed(double tie_tolerance) {
        keys_.resize(chosen_.size());
        for (std::size_t i = 0; i < chosen_.size(); ++i) {
            const bool again = i > 0 && chosen_[i] == chosen_[i - 1];
            const auto rank = static_cast<std::uint64_t>(
                static_cast<std::int64_t>(distance_rank(distances_[i], tie_tolerance)));
            keys_[i] = (rank << point_bits | static_cast<std::uint32_t>(chosen_[i])) << 1 | again;
        }
        sorter_.sort(keys_, distances_);
        for (std::size_t i = 0; i < chosen_.size(); ++i) {
            chosen_[i] = static_cast<std::int32_t>(keys_[i] >> 1 & ((1u << point_bits) - 1));
        }
    }

    void sort_by_distance(double tie_tolerance) {
        std::vector<std::pair<double, std::int32_t>> pairs;
        for (std::size_t i = 0; i < chosen_.size(); ++i) {
            pairs.emplace_back(distance_rank(distances_[i], tie_tolerance), chosen_[i]);
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
        switch (query.rule) {
            case NeighborRule::radius:
                find_radius();
                break;
            case NeighborRule::knn:
                find_nearest();
                break;
            case NeighborRule::knn_shell:
                find_shells();
                break;
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

    void find_radius() {
        const double n = static_cast<double>(crystal_.size());
        check_size(n * n * 4.1887902 * std::pow(query_.cutoff, 3) / crystal_.cell.volume);
        cloud_ = ImageCloud(crystal_, query_.cutoff);
        select([&](std::int64_t, std::int32_t, double there, double) {
            return there <= query_.cutoff;
        });
    }

    void check_size(double pairs) const {
        if (pairs > max_edges) {
            fail(crystal_.index, "about " + decimals(pairs) +
                                     " pairs are more than a list can hold; use a smaller cutoff");
        }
    }

    void find_nearest() {
        check_size(static_cast<double>(crystal_.size()) * static_cast<double>(query_.k));
        const double cutoff = query_.cutoff, tolerance = query_.tie_tolerance;
        double radius = std::min(expected_radius(crystal_, query_.k) + tolerance, cutoff);
        for (;; radius = std::min(1.3 * radius, cutoff)) {
            cloud_ = ImageCloud(crystal_, radius);
            std::vector<double> reach = kth_distances(radius, knn_min_distance);
            for (double& r : reach) r = std::min(r + tolerance, cutoff);
            if (radius < cutoff && largest(reach) > radius) continue;
            return select([&](std::int64_t src, std::int32_t, double there, double) {
                return there > knn_min_distance && there <= reach[src];
            });
        }
    }

    // An edge belongs to the shell of its source or, reversed, to that of its destination. ALIGNN
    // v1 lists a bond between images of one atom once for each.
    void find_shells() {
        check_size(static_cast<double>(crystal_.size()) * static_cast<double>(query_.k));
        const double tolerance = query_.tie_tolerance, slack = metric_.slack();
        double radius = expected_radius(crystal_, query_.k) + tolerance;
        for (;; radius *= 1.3) {
            cloud_ = ImageCloud(crystal_, radius + slack);
            std::vector<double> reach = kth_distances(radius, shell_min_distance);
            for (double& r : reach) r += tolerance;
            if (largest(reach) + slack > radius) continue;
            return select([&](std::int64_t src, std::int32_t dst, double there, double back) {
                const bool mine = there > shell_min_distance && there <= reach[src];
                const bool theirs = back > shell_min_distance && back <= reach[dst];
                return dst == src ? int{mine} + int{theirs} : int{mine || theirs};
            });
        }
    }

    static double largest(const std::vector<double>& values) {
        return values.empty() ? 0 : *std::max_element(values.begin(), values.end());
    }

    // Distance of the k-th neighbour of every site, infinite if there are fewer in the radius.
    std::vector<double> kth_distances(double radius, double min_distance) const {
        std::vector<double> out(crystal_.size());
        for_blocks(crystal_.size(), [&](std::int64_t first, std::int64_t last, std::int64_t) {
            Around around(cloud_, metric_);
            for (std::int64_t src = first; src < last; ++src) {
                around.look(src);
                out[src] = around.kth_distance(query_.k, min_distance, radius);
            }
        });
        return out;
    }

    // Keeps each pair as often as times(src, dst, there, back) says, but at most k pairs of a
    // source under the rule knn.
    template <typename Times>
    void select(Times&& times) {
        const std::size_t most = query_.rule == NeighborRule::knn
                                     ? static_cast<std::size_t>(query_.k)
                                     : std::numeric_limits<std::size_t>::max();
        blocks_.resize(n_blocks(crystal_.size()));
        for_blocks(crystal_.size(), [&](std::int64_t first, std::int64_t last, std::int64_t b) {
            Block& block = blocks_[b];
            Around around(cloud_, metric_);
            for (std::int64_t src = first; src < last; ++src) {
                around.look(src);
                const std::vector<std::int32_t>& points = around.select(
                    query_.tie_tolerance, [&](std::int32_t dst, double there, double back) {
                        return int{times(src, dst, there, back)};
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
        return site_ptr_[c + 1] - site_ptr_[c] >= large_crystal;
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
        return site_ptr_[c + 1] - site_ptr_[c] >= large_crystal;
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
