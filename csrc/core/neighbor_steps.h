// Neighbour lists in steps that need no lists of unknown size: what a GPU runs, one thread per
// crystal or one team per site at a time.
//
//     prepare_cell (crystals), prepare_site (sites)    compact cells, wrapped atoms and their bins
//     -- sites are sorted by bin --
//     find_reach (sites)                               knn rules: how far a site's neighbours are
//     -- largest reach per crystal --
//     count (sites)                                    number of edges
//     -- offsets; the host may learn the number of edges and allocate --
//     fill_arcs, finish (sites)                        edges, then the same in order
//
// Edges beyond the capacity are dropped. A step does nothing if one before it has found a fault.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/cell.h"
#include "core/neighbor_faults.h"
#include "core/neighbor_rules.h"
#include "core/ragged.h"
#include "core/team.h"

namespace smoacs {

// The steps that look for faults. Each has a place of its own for the smallest one, and steps look
// only at the places of those before them: no thread reads what another may be writing, the threads
// of a warp always decide alike, and it does not matter which of them comes first.
enum NeighborStep : int { kCells, kSites, kReach, kCount, kAllSteps };

// A crystal. Bins split its compact cell.
struct SearchCell {
    Cell cell;
    std::int32_t n_bins[3];
    double slack;  // by how much the search must be wider than the radius, Å
};

// An atom moved into the compact cell.
struct SearchSite {
    Vec3 inside;    // fractional coordinates in the compact basis, from 0 to 1
    Vec3 position;  // the same in Å
    Vec3 start;     // what distances are measured from: as given, or ALIGNN's position
    Shift origin;   // in the given basis: lattice vector taken off
    std::int64_t crystal;
};

// An edge from a known site, before it has its place in the list.
struct Arc {
    double distance;
    std::int32_t dst;  // within the batch
    std::int32_t shift[3];
};

// Which neighbours of a site have room under the rule knn: all of lower ranks and, in the order of
// (dst, shift), those of the last rank up to one of them.
struct LastNeighbor {
    double rank;
    double end[4];
};

struct NeighborJob {
    NeighborQuery query;
    std::int64_t n_sites, n_crystals;
    const double* frac_coords;  // (S, 3)
    const double* lattice;      // (C, 3, 3)
    const std::int64_t* ptr;    // (C + 1)
    SearchCell* cells;          // (C)
    SearchSite* sites;          // (S)
    // Bin b of crystal c has the number ptr[c] + b; there are at most as many as sites.
    std::int64_t* bin;            // (S)
    const std::int64_t* by_bin;   // (S) sites in ascending order of their bins
    const std::int64_t* first;    // (S + 1) first place of each bin in by_bin
    double* reach;                // (S)
    const double* longest_reach;  // (C)
    LastNeighbor* last;           // (S)
    std::int64_t* counts;         // (S)
    const std::int64_t* starts;   // (S + 1) offsets of the edges
    std::int64_t capacity;        // number of arcs and edges that there is room for
    Arc* arcs;
    std::int64_t* faults;  // (kAllSteps)
};

namespace detail {

SMOACS_HD bool failed_before(const NeighborJob& job, int step) {
    for (int i = 0; i < step; ++i) {
        if (job.faults[i] != kNoNeighborFault) return true;
    }
    return false;
}

SMOACS_HD bool fits_32_bits(std::int64_t x) {
    return x >= -kMaxPairs && x <= kMaxPairs;
}
SMOACS_HD bool fits_32_bits(Shift s) {
    return fits_32_bits(s.a) && fits_32_bits(s.b) && fits_32_bits(s.c);
}

SMOACS_HD double largest(Vec3 v) {
    return std::fmax(std::fabs(v.x), std::fmax(std::fabs(v.y), std::fabs(v.z)));
}

SMOACS_HD std::int64_t min_of(std::int64_t a, std::int64_t b) {
    return a < b ? a : b;
}

SMOACS_HD double axis(Vec3 v, int k) {
    return k == 0 ? v.x : k == 1 ? v.y : v.z;
}

SMOACS_HD std::int64_t floor_divide(std::int64_t a, std::int64_t b) {
    const std::int64_t q = a / b;
    return q * b > a ? q - 1 : q;
}

// Bins as wide as the radius, but no more than sites.
SMOACS_HD void choose_bins(SearchCell& search, double n_sites, double radius) {
    double n[3];
    for (int k = 0; k < 3; ++k) {
        n[k] = std::floor(search.cell.spacing[k] / radius);
        n[k] = std::fmax(std::fmin(n[k], n_sites), 1.0);
    }
    while (n[0] * n[1] * n[2] > std::fmax(n_sites, 1.0)) {
        const int most = n[0] >= n[1] && n[0] >= n[2] ? 0 : n[1] >= n[2] ? 1 : 2;
        n[most] = std::floor(n[most] / 2);
    }
    for (int k = 0; k < 3; ++k) search.n_bins[k] = static_cast<std::int32_t>(n[k]);
}

// Where bins that may hold neighbours of a site begin and end, counted through all images.
struct BinBox {
    std::int64_t low[3], high[3];

    SMOACS_HD std::int64_t length(int k) const { return high[k] - low[k] + 1; }
};

SMOACS_HD double wide(const SearchCell& search, double radius) {
    return radius * (1 + 1e-9) + search.slack;
}

SMOACS_HD BinBox bin_box(const SearchCell& search, const SearchSite& site, double radius) {
    BinBox box;
    for (int k = 0; k < 3; ++k) {
        const double margin = wide(search, radius) / search.cell.spacing[k];
        const double at = axis(site.inside, k), n = search.n_bins[k];
        box.low[k] = static_cast<std::int64_t>(std::floor((at - margin) * n));
        box.high[k] = static_cast<std::int64_t>(std::floor((at + margin) * n));
    }
    return box;
}

// Whether the images in reach are few enough to look at.
SMOACS_HD bool can_scan(const NeighborJob& job, std::int64_t crystal, double radius) {
    const SearchCell& search = job.cells[crystal];
    double images = static_cast<double>(job.ptr[crystal + 1] - job.ptr[crystal]);
    for (int k = 0; k < 3; ++k) images *= 2 * wide(search, radius) / search.cell.spacing[k] + 1;
    return images <= kMaxImages;
}

// Calls visit(near, dst, shift) for all pairs from `src` with near = true, except of `src` with
// itself, up to at least the radius. The threads of a team make their calls together: where one of
// them has no pair, near is false.
template <typename Team, typename Visit>
SMOACS_LANES void scan(const NeighborJob& job, std::int64_t src, double radius, Visit&& visit) {
    const SearchSite& site = job.sites[src];
    const std::int64_t crystal = site.crystal, begin = job.ptr[crystal];
    const SearchCell& search = job.cells[crystal];
    const Cell& cell = search.cell;
    const double limit = wide(search, radius) * wide(search, radius);
    const BinBox box = bin_box(search, site, radius);

    const auto visit_pair = [&](bool exists, std::int64_t dst, Shift image) {
        const SearchSite& other = job.sites[exists ? dst : src];
        const Vec3 r = (other.position + to_vec(image) * cell.reduced) - site.position;
        const bool itself = dst == src && image == Shift{0, 0, 0};
        const Shift shift = (cell.given(image) - other.origin) + site.origin;
        visit(exists && !itself && dot(r, r) <= limit, dst, shift);
    };

    const std::int32_t* n_bins = search.n_bins;
    if (n_bins[0] * n_bins[1] * n_bins[2] == 1) {
        // Few atoms, many images: all combinations in one sequence of 32-bit numbers.
        const auto n = static_cast<std::uint32_t>(job.ptr[crystal + 1] - begin);
        const auto n_b = static_cast<std::uint32_t>(box.length(1));
        const auto n_c = static_cast<std::uint32_t>(box.length(2));
        const std::uint32_t total = static_cast<std::uint32_t>(box.length(0)) * n_b * n_c * n;
        for (std::uint32_t base = 0; base < total; base += Team::size) {
            const std::uint32_t item = base + Team::rank();
            const std::uint32_t image = item / n, ab = image / n_c;
            visit_pair(item < total, begin + item % n,
                       {box.low[0] + ab / n_b, box.low[1] + ab % n_b, box.low[2] + image % n_c});
        }
        return;
    }
    for (std::int64_t a = box.low[0]; a <= box.high[0]; ++a) {
        const std::int64_t image_a = floor_divide(a, n_bins[0]), bin_a = a - image_a * n_bins[0];
        for (std::int64_t b = box.low[1]; b <= box.high[1]; ++b) {
            const std::int64_t image_b = floor_divide(b, n_bins[1]);
            const std::int64_t bin_b = b - image_b * n_bins[1];
            const std::int64_t row = begin + (bin_a * n_bins[1] + bin_b) * n_bins[2];
            // The atoms of consecutive bins of one image are consecutive.
            for (std::int64_t c = box.low[2]; c <= box.high[2];) {
                const std::int64_t image_c = floor_divide(c, n_bins[2]);
                const std::int64_t start = image_c * n_bins[2], next = start + n_bins[2];
                const std::int64_t stop = next <= box.high[2] ? next : box.high[2] + 1;
                const std::int64_t last = job.first[row + (stop - start)];
                std::int64_t base = job.first[row + (c - start)];
                for (; base < last; base += Team::size) {
                    const std::int64_t place = base + Team::rank();
                    visit_pair(place < last, job.by_bin[place < last ? place : base],
                               {image_a, image_b, image_c});
                }
                c = stop;
            }
        }
    }
}

SMOACS_HD double measure(const NeighborJob& job, std::int64_t src, std::int64_t dst, Shift shift) {
    const SearchSite &from = job.sites[src], &to = job.sites[dst];
    const Mat3& lattice = job.cells[from.crystal].cell.lattice;
    return length(job.query.alignn()
                      ? pair_vector_alignn(lattice, from.start, to.start, to_vec(shift))
                      : pair_vector(lattice, from.start, to.start, to_vec(shift)));
}

// Number and extremes of the values in a range (above, upto], and the smallest one beyond.
struct Tally {
    std::int64_t n;
    double least, most, next;
};

// Of the values value(dst, shift, distance) of all pairs from a site.
template <typename Team, typename Value>
SMOACS_LANES Tally tally(const NeighborJob& job, std::int64_t src, double radius, double above,
                         double upto, Value&& value) {
    Tally mine{0, INFINITY, -INFINITY, INFINITY};
    scan<Team>(job, src, radius, [&](bool near, std::int64_t dst, Shift shift) {
        if (!near) return;
        const double v = value(dst, shift, measure(job, src, dst, shift));
        if (!(v > above)) return;
        if (v > upto) {
            mine.next = std::fmin(mine.next, v);
            return;
        }
        ++mine.n;
        mine.least = std::fmin(mine.least, v);
        mine.most = std::fmax(mine.most, v);
    });
    return {Team::sum(mine.n), Team::min(mine.least), Team::max(mine.most), Team::min(mine.next)};
}

// k-th smallest of the values above a bound, of which `found` has at least k.
template <typename Team, typename Value>
SMOACS_LANES double kth_smallest(const NeighborJob& job, std::int64_t src, double radius,
                                 double above, std::int64_t k, const Tally& found, Value&& value) {
    // Halves the range that holds it; its ends are always values.
    double low = found.least, high = found.most;
    while (low < high) {
        const double middle = low + (high - low) / 2;
        const double upto = middle < high ? middle : low;
        const Tally below = tally<Team>(job, src, radius, above, upto, value);
        if (below.n >= k) {
            high = below.most;
        } else {
            low = below.next;
        }
    }
    return high;
}

// Places of a pair among those that tie: dst, then shift.
SMOACS_HD double tie_breaker(int level, std::int64_t dst, Shift shift) {
    return static_cast<double>(level == 0   ? dst
                               : level == 1 ? shift.a
                               : level == 2 ? shift.b
                                            : shift.c);
}

// The last of the k nearest, given the distance of the k-th and how far all reach.
template <typename Team>
SMOACS_LANES LastNeighbor last_neighbor(const NeighborJob& job, std::int64_t src, double kth,
                                        double reach) {
    const NeighborQuery& query = job.query;
    LastNeighbor last{query.rank(kth), {INFINITY, INFINITY, INFINITY, INFINITY}};
    const auto number = [&](auto&& wanted) {
        std::int64_t n = 0;
        scan<Team>(job, src, reach, [&](bool near, std::int64_t dst, Shift shift) {
            if (!near) return;
            const double d = measure(job, src, dst, shift);
            n += d > query.min_distance() && d <= reach && wanted(dst, shift, query.rank(d));
        });
        return Team::sum(n);
    };
    std::int64_t room =
        query.k - number([&](std::int64_t, Shift, double rank) { return rank < last.rank; });
    for (int level = 0; level < 4; ++level) {
        const auto ties = [&](std::int64_t dst, Shift shift, double rank) {
            bool alike = rank == last.rank;
            for (int i = 0; i < level; ++i) {
                alike = alike && tie_breaker(i, dst, shift) == last.end[i];
            }
            return alike;
        };
        if (number(ties) <= room) break;
        const auto value = [&](std::int64_t dst, Shift shift, double d) {
            const bool counts = d > query.min_distance() && d <= reach;
            return counts && ties(dst, shift, query.rank(d)) ? tie_breaker(level, dst, shift)
                                                             : static_cast<double>(NAN);
        };
        const Tally all = tally<Team>(job, src, reach, -INFINITY, INFINITY, value);
        const double end = kth_smallest<Team>(job, src, reach, -INFINITY, room, all, value);
        room -= number([&](std::int64_t dst, Shift shift, double rank) {
            return ties(dst, shift, rank) && tie_breaker(level, dst, shift) < end;
        });
        last.end[level] = end;
    }
    return last;
}

SMOACS_HD bool has_room(const LastNeighbor& last, double rank, std::int64_t dst, Shift shift) {
    if (rank != last.rank) return rank < last.rank;
    for (int level = 0; level < 4; ++level) {
        const double mine = tie_breaker(level, dst, shift);
        if (mine != last.end[level]) return mine < last.end[level];
    }
    return true;
}

// Calls visit(times, dst, shift, distance) for all pairs from a site, in step, with the number of
// times that they are edges.
template <typename Team, typename Visit>
SMOACS_LANES void for_edges(const NeighborJob& job, std::int64_t src, Visit&& visit) {
    const NeighborQuery& query = job.query;
    const bool by_radius = query.rule == NeighborRule::radius;
    const double mine = by_radius ? 0 : job.reach[src];
    const double radius = by_radius ? query.cutoff
                          : query.rule == NeighborRule::knn
                              ? mine
                              : job.longest_reach[job.sites[src].crystal];
    scan<Team>(job, src, radius, [&](bool near, std::int64_t dst, Shift shift) {
        int times = 0;
        double there = 0;
        if (near) {
            there = measure(job, src, dst, shift);
            const double back =
                query.alignn() ? measure(job, dst, src, Shift{0, 0, 0} - shift) : there;
            const double theirs = by_radius ? 0 : job.reach[dst];
            times = query.times(dst == src, there, back, mine, theirs);
            if (query.rule == NeighborRule::knn) {
                times *= has_room(job.last[src], query.rank(there), dst, shift);
            }
        }
        visit(times, dst, shift, there);
    });
}

SMOACS_HD bool comes_before(const Arc& a, std::int64_t place_a, const Arc& b,
                            std::int64_t place_b) {
    if (a.dst != b.dst) return a.dst < b.dst;
    for (int k = 0; k < 3; ++k) {
        if (a.shift[k] != b.shift[k]) return a.shift[k] < b.shift[k];
    }
    return place_a < place_b;
}

}  // namespace detail

// The steps. `fault` is called with a fault number; `raise_to(address, value)` raises a number that
// several sites share to at least a value.

template <typename Fault>
SMOACS_LANES void prepare_cell(const NeighborJob& job, std::int64_t c, Fault&& fault) {
    const std::int64_t begin = job.ptr[c], end = job.ptr[c + 1];
    const bool in_order =
        begin <= end && (c > 0 || begin == 0) && (c + 1 < job.n_crystals || end == job.n_sites);
    if (!in_order) return fault(neighbor_fault(NeighborFault::offsets, c));
    SearchCell& search = job.cells[c];
    switch (make_cell(load_matrix(job.lattice, c), search.cell)) {
        case CellStatus::not_finite:
            return fault(neighbor_fault(NeighborFault::lattice_not_finite, c));
        case CellStatus::singular:
            return fault(neighbor_fault(NeighborFault::no_volume, c));
        case CellStatus::ok:
            break;
    }
    const NeighborQuery& query = job.query;
    const double n = static_cast<double>(end - begin), volume = search.cell.volume;
    const bool by_radius = query.rule == NeighborRule::radius;
    const double pairs =
        by_radius ? expected_pairs(n, volume, query.cutoff) : n * static_cast<double>(query.k);
    if (pairs > kMaxPairs) return fault(neighbor_fault(NeighborFault::too_many_pairs, c));
    search.slack = 0;
    const double usual = n > 0 ? expected_radius(n, volume, query.k) : query.cutoff;
    const double radius = by_radius || (query.rule == NeighborRule::knn && usual > query.cutoff)
                              ? query.cutoff
                              : usual;
    detail::choose_bins(search, n, radius);
}

template <typename Fault, typename RaiseTo>
SMOACS_LANES void prepare_site(const NeighborJob& job, std::int64_t s, Fault&& fault,
                               RaiseTo&& raise_to) {
    if (detail::failed_before(job, kSites)) return;
    const std::int64_t c = group_of(job.ptr, job.n_crystals, s);
    SearchCell& search = job.cells[c];
    const Cell& cell = search.cell;
    SearchSite& site = job.sites[s];
    const Vec3 f = load_row(job.frac_coords, s);
    if (!is_finite(f)) {
        return fault(neighbor_fault(NeighborFault::coords_not_finite, c, s - job.ptr[c]));
    }
    const Vec3 g = cell.compact(f);
    const Vec3 whole{std::floor(g.x), std::floor(g.y), std::floor(g.z)};
    const double farthest = detail::largest(whole);
    if (!(farthest <= kMaxPairs)) {
        return fault(neighbor_fault(NeighborFault::coords_too_large, c));
    }
    site.crystal = c;
    site.inside = g - whole;
    site.position = site.inside * cell.reduced;
    site.origin =
        cell.given({static_cast<std::int64_t>(whole.x), static_cast<std::int64_t>(whole.y),
                    static_cast<std::int64_t>(whole.z)});
    site.start = f;
    double lengths = 0;
    for (int k = 0; k < 3; ++k) lengths += length(cell.reduced.row[k]);
    double slack = 1e-15 * (farthest + 1e3) * lengths;
    if (job.query.alignn()) {
        const bool single = job.ptr[c + 1] - job.ptr[c] == 1;
        site.start = position_alignn(rounded_lattice(cell.lattice), f, single);
        slack += 2 * length(site.start - f * cell.lattice) + 1e-9;
    }
    raise_to(&search.slack, slack);
    std::int64_t bin[3];
    for (int k = 0; k < 3; ++k) {
        const std::int32_t n = search.n_bins[k];
        bin[k] = static_cast<std::int64_t>(detail::axis(site.inside, k) * n);
        bin[k] = bin[k] < n ? bin[k] : n - 1;
    }
    job.bin[s] = job.ptr[c] + (bin[0] * search.n_bins[1] + bin[1]) * search.n_bins[2] + bin[2];
}

template <typename Team, typename Fault>
SMOACS_LANES void find_reach(const NeighborJob& job, std::int64_t src, Fault&& fault) {
    if (detail::failed_before(job, kReach)) return;
    const NeighborQuery& query = job.query;
    const std::int64_t c = job.sites[src].crystal;
    const double n_sites = static_cast<double>(job.ptr[c + 1] - job.ptr[c]);
    const double above = query.min_distance();
    const double most = query.rule == NeighborRule::knn ? query.cutoff : INFINITY;
    double radius = expected_radius(n_sites, job.cells[c].cell.volume, query.k);
    const auto distance = [](std::int64_t, Shift, double d) { return d; };
    detail::Tally found;
    for (;; radius *= 1.3) {
        radius = std::fmin(radius, most);
        if (!detail::can_scan(job, c, radius)) {
            return fault(neighbor_fault(NeighborFault::too_many_images, c));
        }
        found = detail::tally<Team>(job, src, radius, above, radius, distance);
        if (found.n >= query.k || radius == most) break;
    }
    double kth = INFINITY;
    if (found.n >= query.k) {
        kth = detail::kth_smallest<Team>(job, src, radius, above, query.k, found, distance);
    }
    const double reach = query.reach(kth);
    LastNeighbor last{INFINITY, {}};
    if (query.rule == NeighborRule::knn && found.n >= query.k) {
        last = detail::last_neighbor<Team>(job, src, kth, reach);
    }
    if (Team::rank() == 0) {
        job.reach[src] = reach;
        job.last[src] = last;
    }
}

template <typename Team, typename Fault>
SMOACS_LANES void count(const NeighborJob& job, std::int64_t src, Fault&& fault) {
    if (detail::failed_before(job, kCount)) return;
    const std::int64_t c = job.sites[src].crystal;
    const double radius = job.query.rule == NeighborRule::radius ? job.query.cutoff
                          : job.query.rule == NeighborRule::knn  ? job.reach[src]
                                                                 : job.longest_reach[c];
    if (!detail::can_scan(job, c, radius)) {
        return fault(neighbor_fault(NeighborFault::too_many_images, c));
    }
    std::int64_t n = 0;
    bool fits = true;
    detail::for_edges<Team>(job, src, [&](int times, std::int64_t, Shift shift, double) {
        n += times;
        fits = fits && (times == 0 || detail::fits_32_bits(shift));
    });
    if (!fits) fault(neighbor_fault(NeighborFault::shift_too_large, c));
    n = Team::sum(n);
    if (Team::rank() == 0) job.counts[src] = n;
}

template <typename Team>
SMOACS_LANES void fill_arcs(const NeighborJob& job, std::int64_t src) {
    if (detail::failed_before(job, kAllSteps)) return;
    std::int64_t next = job.starts[src];
    detail::for_edges<Team>(
        job, src, [&](int times, std::int64_t dst, Shift shift, double distance) {
            std::int64_t place = next + Team::before(times);
            const std::int64_t end = detail::min_of(place + times, job.capacity);
            for (; place < end; ++place) {
                job.arcs[place] = {
                    distance,
                    static_cast<std::int32_t>(dst),
                    {static_cast<std::int32_t>(shift.a), static_cast<std::int32_t>(shift.b),
                     static_cast<std::int32_t>(shift.c)}};
            }
            next += Team::sum(times);
        });
}

// The finished list.
template <typename T>
struct NeighborOutput {
    std::int64_t* src;
    std::int64_t* dst;
    std::int32_t* shift;
    T* distance;
};

template <typename Team, typename T>
SMOACS_LANES void finish(const NeighborJob& job, std::int64_t src, const NeighborOutput<T>& out) {
    if (detail::failed_before(job, kAllSteps)) return;
    const std::int64_t first = job.starts[src];
    const std::int64_t n = detail::min_of(job.starts[src + 1], job.capacity) - first;
    const Arc* arcs = job.arcs + first;
    for (std::int64_t i = Team::rank(); i < n; i += Team::size) {
        const Arc mine = arcs[i];
        std::int64_t edge = first;
        for (std::int64_t j = 0; j < n; ++j) edge += detail::comes_before(arcs[j], j, mine, i);
        out.src[edge] = src;
        out.dst[edge] = mine.dst;
        for (int k = 0; k < 3; ++k) out.shift[3 * edge + k] = mine.shift[k];
        out.distance[edge] = static_cast<T>(mine.distance);
    }
}

}  // namespace smoacs
