#include "cpu/neighbors.h"

#include <algorithm>
#include <exception>
#include <limits>
#include <stdexcept>
#include <string>

#include "core/cell.h"
#include "cpu/threads.h"

namespace smoacs::cpu {

namespace {

// Shorter pairs are the same atom to the rules that count neighbours.
constexpr double knn_min_distance = 1e-4;
constexpr double shell_min_distance = 0.15;  // ALIGNN v1's

constexpr double max_images = 1 << 27;
constexpr double max_edges = std::numeric_limits<std::int32_t>::max();

[[noreturn]] void fail(std::int64_t crystal, const std::string& what) {
    throw std::invalid_argument("crystal " + std::to_string(crystal) + ": " + what);
}

std::string decimals(double x) {
    char text[32];
    std::snprintf(text, sizeof text, "%.4g", x);
    return text;
}

// One crystal in double precision.
struct Crystal {
    std::int64_t index;
    Cell cell;
    std::vector<Vec3> frac;  // as given

    std::int64_t size() const { return static_cast<std::int64_t>(frac.size()); }
};

template <typename T>
Vec3 load(const T* row) {
    return {static_cast<double>(row[0]), static_cast<double>(row[1]), static_cast<double>(row[2])};
}

template <typename T>
Crystal load_crystal(const Crystals<T>& crystals, std::int64_t c) {
    Crystal crystal;
    crystal.index = c;
    const T* rows = crystals.lattice + 9 * c;
    const Mat3 lattice{{load(rows), load(rows + 3), load(rows + 6)}};
    switch (make_cell(lattice, crystal.cell)) {
        case CellStatus::not_finite:
            fail(c, "the lattice is not finite");
        case CellStatus::singular:
            fail(c, "the lattice vectors span no volume");
        case CellStatus::ok:
            break;
    }
    for (std::int64_t s = crystals.ptr[c]; s < crystals.ptr[c + 1]; ++s) {
        const Vec3 f = load(crystals.frac_coords + 3 * s);
        if (!detail::finite(f)) {
            fail(c, "the fractional coordinates of site " + std::to_string(s - crystals.ptr[c]) +
                        " are not finite");
        }
        const double limit = 1 << 30;
        if (std::max({std::fabs(f.x), std::fabs(f.y), std::fabs(f.z)}) > limit) {
            fail(c, "fractional coordinates beyond 2^30 leave no room for shifts");
        }
        crystal.frac.push_back(f);
    }
    return crystal;
}

// All atoms, images included, that lie within a radius of any atom of the cell.
class PointCloud {
  public:
    PointCloud(const Crystal& crystal, double radius) : crystal_(crystal), radius_(radius) {
        wrap();
        add_images();
    }

    // Calls visit(dst, shift) for every pair from `src` that may be within the radius given to the
    // constructor; some visited pairs are slightly longer. The atom itself is left out.
    template <typename Visit>
    void scan(std::int64_t src, Visit&& visit) const {
        const Vec3 p = home_[src];
        const double limit = radius_ * radius_;
        const auto n = static_cast<std::int64_t>(x_.size());
        for (std::int64_t q = 0; q < n; ++q) {
            const double dx = x_[q] - p.x, dy = y_[q] - p.y, dz = z_[q] - p.z;
            if (dx * dx + dy * dy + dz * dz > limit) continue;
            const std::int32_t dst = atom_[q];
            const Shift shift = crystal_.cell.given((image_[q] - origin_[dst]) + origin_[src]);
            if (dst == src && shift == Shift{0, 0, 0}) continue;
            visit(dst, shift);
        }
    }

  private:
    // Moves every atom into the compact cell, remembering by which lattice vector.
    void wrap() {
        double farthest = 0;
        for (const Vec3 f : crystal_.frac) {
            const Vec3 g = crystal_.cell.compact(f);
            const Vec3 whole{std::floor(g.x), std::floor(g.y), std::floor(g.z)};
            farthest =
                std::max({farthest, std::fabs(whole.x), std::fabs(whole.y), std::fabs(whole.z)});
            if (farthest > 1e15) fail(crystal_.index, "the cell is too skewed");
            inside_.push_back(g - whole);
            origin_.push_back({static_cast<std::int64_t>(whole.x),
                               static_cast<std::int64_t>(whole.y),
                               static_cast<std::int64_t>(whole.z)});
            home_.push_back(inside_.back() * crystal_.cell.reduced);
        }
        double size = 0;
        for (const Vec3 a : crystal_.cell.reduced.row) size += length(a);
        // Wrapping rounds; the search is widened so that no pair is lost.
        radius_ = radius_ * (1 + 1e-9) + 1e-15 * (farthest + 1e3) * size;
    }

    void add_images() {
        const std::int64_t n = crystal_.size();
        if (n == 0) return;
        Vec3 low = inside_[0], high = inside_[0], centre{0, 0, 0};
        for (std::int64_t i = 0; i < n; ++i) {
            const Vec3 g = inside_[i];
            low = {std::min(low.x, g.x), std::min(low.y, g.y), std::min(low.z, g.z)};
            high = {std::max(high.x, g.x), std::max(high.y, g.y), std::max(high.z, g.z)};
            centre = centre + (1.0 / static_cast<double>(n)) * home_[i];
        }
        double size = 0;
        for (const Vec3 x : home_) size = std::max(size, length(x - centre));
        const double reach = (radius_ + size) * (1 + 1e-9);

        const double* h = crystal_.cell.spacing;
        const Vec3 margin{radius_ / h[0], radius_ / h[1], radius_ / h[2]};
        const Vec3 first = low - high - margin, last = high - low + margin;
        const double box = (std::floor(last.x) - std::ceil(first.x) + 1) *
                           (std::floor(last.y) - std::ceil(first.y) + 1) *
                           (std::floor(last.z) - std::ceil(first.z) + 1);
        if (!(box * static_cast<double>(n) <= max_images)) {
            fail(crystal_.index, "its cell of " + decimals(crystal_.cell.volume) +
                                     " Å^3 has too many images within " + decimals(radius_) +
                                     " Å; use a smaller cutoff or a larger cell");
        }
        for (auto a = ceil_int(first.x); a <= floor_int(last.x); ++a) {
            for (auto b = ceil_int(first.y); b <= floor_int(last.y); ++b) {
                for (auto c = ceil_int(first.z); c <= floor_int(last.z); ++c) {
                    const Vec3 offset = to_vec({a, b, c}) * crystal_.cell.reduced;
                    for (std::int64_t j = 0; j < n; ++j) {
                        const Vec3 x = home_[j] + offset;
                        if (dot(x - centre, x - centre) > reach * reach) continue;
                        x_.push_back(x.x);
                        y_.push_back(x.y);
                        z_.push_back(x.z);
                        atom_.push_back(static_cast<std::int32_t>(j));
                        image_.push_back({a, b, c});
                    }
                }
            }
        }
    }

    static std::int64_t ceil_int(double x) { return static_cast<std::int64_t>(std::ceil(x)); }
    static std::int64_t floor_int(double x) { return static_cast<std::int64_t>(std::floor(x)); }

    const Crystal& crystal_;
    double radius_;
    std::vector<Vec3> inside_;   // fractional, compact basis, in [0, 1]
    std::vector<Shift> origin_;  // lattice vector taken off each atom
    std::vector<Vec3> home_;     // Cartesian position of `inside`
    std::vector<double> x_, y_, z_;
    std::vector<std::int32_t> atom_;
    std::vector<Shift> image_;
};

// How a rule measures distances.
class Metric {
  public:
    Metric(const Crystal& crystal, const NeighborQuery& query)
        : crystal_(crystal),
          alignn_(query.rule == NeighborRule::knn_shell && query.tie_tolerance == 0) {
        if (!alignn_) return;
        const Mat3 rounded = rounded_lattice(crystal.cell.lattice);
        for (const Vec3 f : crystal.frac) {
            const Vec3 x = position_alignn(rounded, f, crystal.size() == 1);
            slack_ = std::max(slack_, 2 * length(x - f * crystal.cell.lattice));
            cart_.push_back(x);
        }
        slack_ += 1e-9;
    }

    double operator()(std::int64_t src, std::int64_t dst, Shift shift) const {
        const Mat3& lattice = crystal_.cell.lattice;
        return length(alignn_
                          ? pair_vector_alignn(lattice, cart_[src], cart_[dst], shift)
                          : pair_vector(lattice, crystal_.frac[src], crystal_.frac[dst], shift));
    }

    // Largest difference from the true distance, Å.
    double slack() const { return slack_; }

  private:
    const Crystal& crystal_;
    bool alignn_;
    double slack_ = 0;
    std::vector<Vec3> cart_;
};

Edge make_edge(std::int64_t crystal, std::int64_t dst, Shift shift, double distance) {
    constexpr std::int64_t limit = std::numeric_limits<std::int32_t>::max();
    if (std::max({std::abs(shift.a), std::abs(shift.b), std::abs(shift.c)}) > limit) {
        fail(crystal, "a shift does not fit into 32 bits; wrap the coordinates or reduce the cell");
    }
    return {static_cast<std::int32_t>(dst),
            {static_cast<std::int32_t>(shift.a), static_cast<std::int32_t>(shift.b),
             static_cast<std::int32_t>(shift.c)},
            distance};
}

void sort_edges(std::vector<Edge>& edges, double tolerance) {
    std::sort(edges.begin(), edges.end(), [tolerance](const Edge& a, const Edge& b) {
        const double rank_a = distance_rank(a.distance, tolerance);
        const double rank_b = distance_rank(b.distance, tolerance);
        if (rank_a != rank_b) return rank_a < rank_b;
        if (a.dst != b.dst) return a.dst < b.dst;
        return std::lexicographical_compare(a.shift, a.shift + 3, b.shift, b.shift + 3);
    });
}

// Radius within which a site of a homogeneous crystal has some more than k neighbours.
double expected_radius(const Crystal& crystal, std::int64_t k) {
    const double density = static_cast<double>(crystal.size()) / crystal.cell.volume;
    return 1.2 * std::cbrt(3 * static_cast<double>(k + 4) / (4 * 3.141592653589793 * density));
}

// Distance of the k-th neighbour of every site, infinite where there are fewer within the radius.
std::vector<double> kth_distances(const PointCloud& cloud, const Metric& metric, std::int64_t n,
                                  std::int64_t k, double radius, double min_distance) {
    std::vector<double> out(n);
    std::vector<double> found;
    for (std::int64_t src = 0; src < n; ++src) {
        found.clear();
        cloud.scan(src, [&](std::int64_t dst, Shift shift) {
            const double d = metric(src, dst, shift);
            if (d > min_distance && d <= radius) found.push_back(d);
        });
        if (static_cast<std::int64_t>(found.size()) < k) {
            out[src] = std::numeric_limits<double>::infinity();
            continue;
        }
        std::nth_element(found.begin(), found.begin() + (k - 1), found.end());
        out[src] = found[k - 1];
    }
    return out;
}

class Search {
  public:
    Search(const Crystal& crystal, const NeighborQuery& query)
        : crystal_(crystal), query_(query), metric_(crystal, query) {}

    void run(NeighborList::Piece& out) const {
        switch (query_.rule) {
            case NeighborRule::radius:
                return radius(out);
            case NeighborRule::knn:
                return nearest(out);
            case NeighborRule::knn_shell:
                return shells(out);
        }
    }

  private:
    void radius(NeighborList::Piece& out) const {
        const double n = static_cast<double>(crystal_.size());
        const double pairs = n * n * 4.1887902 * std::pow(query_.cutoff, 3) / crystal_.cell.volume;
        if (pairs > max_edges) {
            fail(crystal_.index, "about " + decimals(pairs) + " pairs within " +
                                     decimals(query_.cutoff) +
                                     " Å are more than a list can hold; use a smaller cutoff");
        }
        const PointCloud cloud(crystal_, query_.cutoff);
        for_each_site(out, [&](std::int64_t src, std::vector<Edge>& edges) {
            cloud.scan(src, [&](std::int64_t dst, Shift shift) {
                const double d = metric_(src, dst, shift);
                if (d <= query_.cutoff) edges.push_back(edge(dst, shift, d));
            });
        });
    }

    void nearest(NeighborList::Piece& out) const {
        double radius =
            std::min(expected_radius(crystal_, query_.k) + query_.tie_tolerance, query_.cutoff);
        for (;; radius = std::min(1.5 * radius, query_.cutoff)) {
            const PointCloud cloud(crystal_, radius);
            const auto kth =
                kth_distances(cloud, metric_, crystal_.size(), query_.k, radius, knn_min_distance);
            const double farthest = kth.empty() ? 0 : *std::max_element(kth.begin(), kth.end());
            if (radius < query_.cutoff && farthest + query_.tie_tolerance > radius) continue;
            return for_each_site(
                out,
                [&](std::int64_t src, std::vector<Edge>& edges) {
                    const double limit = std::min(kth[src] + query_.tie_tolerance, query_.cutoff);
                    cloud.scan(src, [&](std::int64_t dst, Shift shift) {
                        const double d = metric_(src, dst, shift);
                        if (d > knn_min_distance && d <= limit)
                            edges.push_back(edge(dst, shift, d));
                    });
                },
                query_.k);
        }
    }

    // An edge belongs to the shell of its source or, reversed, to that of its destination. The
    // original counts a bond between images of one atom once for each.
    void shells(NeighborList::Piece& out) const {
        double radius = expected_radius(crystal_, query_.k) + query_.tie_tolerance;
        for (;; radius *= 1.5) {
            const PointCloud cloud(crystal_, radius + metric_.slack());
            auto reach = kth_distances(cloud, metric_, crystal_.size(), query_.k, radius,
                                       shell_min_distance);
            for (double& r : reach) r += query_.tie_tolerance;
            const double farthest =
                reach.empty() ? 0 : *std::max_element(reach.begin(), reach.end());
            if (farthest + metric_.slack() > radius) continue;
            return for_each_site(out, [&](std::int64_t src, std::vector<Edge>& edges) {
                cloud.scan(src, [&](std::int64_t dst, Shift shift) {
                    const double there = metric_(src, dst, shift);
                    const double back = metric_(dst, src, Shift{0, 0, 0} - shift);
                    const bool mine = there > shell_min_distance && there <= reach[src];
                    const bool theirs = back > shell_min_distance && back <= reach[dst];
                    if (mine || theirs) edges.push_back(edge(dst, shift, there));
                    if (mine && theirs && dst == src) edges.push_back(edge(dst, shift, there));
                });
            });
        }
    }

    template <typename Collect>
    void for_each_site(NeighborList::Piece& out, Collect&& collect,
                       std::int64_t at_most = std::numeric_limits<std::int64_t>::max()) const {
        std::vector<Edge> edges;
        for (std::int64_t src = 0; src < crystal_.size(); ++src) {
            edges.clear();
            collect(src, edges);
            sort_edges(edges, query_.tie_tolerance);
            if (static_cast<std::int64_t>(edges.size()) > at_most) edges.resize(at_most);
            out.counts.push_back(static_cast<std::int32_t>(edges.size()));
            out.edges.insert(out.edges.end(), edges.begin(), edges.end());
        }
    }

    Edge edge(std::int64_t dst, Shift shift, double distance) const {
        return make_edge(crystal_.index, dst, shift, distance);
    }

    const Crystal& crystal_;
    const NeighborQuery& query_;
    Metric metric_;
};

}  // namespace

NeighborList::NeighborList(std::vector<Piece> pieces, std::int64_t n_crystals)
    : pieces_(std::move(pieces)), starts_(1, 0), n_crystals_(n_crystals) {
    for (const Piece& piece : pieces_) {
        starts_.push_back(starts_.back() + static_cast<std::int64_t>(piece.edges.size()));
    }
}

template <typename T>
void NeighborList::write(std::int64_t* src, std::int64_t* dst, std::int32_t* shift, T* distance,
                         std::int64_t* edge_ptr) const {
    const auto n = static_cast<std::int64_t>(pieces_.size());
#pragma omp parallel for schedule(dynamic) num_threads(num_threads(n))
    for (std::int64_t p = 0; p < n; ++p) {
        const Piece& piece = pieces_[p];
        std::int64_t e = starts_[p];
        const Edge* edge = piece.edges.data();
        for (std::size_t i = 0; i < piece.counts.size(); ++i) {
            const std::int64_t site =
                piece.site_offset + piece.first_site + static_cast<std::int64_t>(i);
            for (std::int32_t m = 0; m < piece.counts[i]; ++m, ++e, ++edge) {
                src[e] = site;
                dst[e] = piece.site_offset + edge->dst;
                std::copy(edge->shift, edge->shift + 3, shift + 3 * e);
                distance[e] = static_cast<T>(edge->distance);
            }
        }
    }
    std::fill(edge_ptr, edge_ptr + n_crystals_ + 1, 0);
    for (const Piece& piece : pieces_) {
        edge_ptr[piece.crystal + 1] += static_cast<std::int64_t>(piece.edges.size());
    }
    for (std::int64_t c = 0; c < n_crystals_; ++c) edge_ptr[c + 1] += edge_ptr[c];
}

template <typename T>
NeighborList find_neighbors(const Crystals<T>& crystals, const NeighborQuery& query) {
    const std::int64_t n = crystals.n_crystals;
    std::vector<NeighborList::Piece> pieces(n);
    std::vector<std::exception_ptr> errors(n);
#pragma omp parallel for schedule(dynamic) num_threads(num_threads(n))
    for (std::int64_t c = 0; c < n; ++c) {
        try {
            const Crystal crystal = load_crystal(crystals, c);
            pieces[c].crystal = c;
            pieces[c].first_site = 0;
            pieces[c].site_offset = crystals.ptr[c];
            Search(crystal, query).run(pieces[c]);
        } catch (...) {
            errors[c] = std::current_exception();
        }
    }
    for (const std::exception_ptr& error : errors) {
        if (error) std::rethrow_exception(error);
    }
    return NeighborList(std::move(pieces), n);
}

template NeighborList find_neighbors(const Crystals<float>&, const NeighborQuery&);
template NeighborList find_neighbors(const Crystals<double>&, const NeighborQuery&);
template void NeighborList::write(std::int64_t*, std::int64_t*, std::int32_t*, float*,
                                  std::int64_t*) const;
template void NeighborList::write(std::int64_t*, std::int64_t*, std::int32_t*, double*,
                                  std::int64_t*) const;

}  // namespace smoacs::cpu
