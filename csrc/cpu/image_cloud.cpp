#include "cpu/image_cloud.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <numeric>
#include <tuple>

#include "core/neighbor_rules.h"
#include "cpu/collect.h"

namespace smoacs::cpu {

namespace {

constexpr double kMaxShift = std::numeric_limits<std::int32_t>::max();

double largest(Shift s) {
    return std::max({std::fabs(static_cast<double>(s.a)), std::fabs(static_cast<double>(s.b)),
                     std::fabs(static_cast<double>(s.c))});
}

std::int32_t narrow(std::int64_t x) {
    return static_cast<std::int32_t>(x);
}

bool is_identity(const std::int64_t (&m)[3][3]) {
    for (int i = 0; i < 3; ++i) {
        for (int k = 0; k < 3; ++k) {
            if (m[i][k] != (i == k)) return false;
        }
    }
    return true;
}

// Element begin + i becomes what element from[i] was.
template <typename T>
void take(std::vector<T>& values, const std::vector<std::int32_t>& from, std::int64_t begin) {
    std::vector<T> taken(from.size());
    for (std::size_t i = 0; i < from.size(); ++i) taken[i] = values[from[i]];
    std::copy(taken.begin(), taken.end(), values.begin() + begin);
}

}  // namespace

std::string decimals(double x) {
    char text[32];
    std::snprintf(text, sizeof text, "%.4g", x);
    return text;
}

template <typename T>
Crystal load_crystal(const Crystals<T>& crystals, std::int64_t c) {
    Crystal crystal;
    crystal.index = c;
    switch (make_cell(load_matrix(crystals.lattice, c), crystal.cell)) {
        case CellStatus::not_finite:
            fail(c, "the lattice is not finite");
        case CellStatus::singular:
            fail(c, "the lattice vectors span no volume");
        case CellStatus::ok:
            break;
    }
    crystal.frac.reserve(crystals.ptr[c + 1] - crystals.ptr[c]);
    for (std::int64_t s = crystals.ptr[c]; s < crystals.ptr[c + 1]; ++s) {
        const Vec3 f = load_row(crystals.frac_coords, s);
        if (!is_finite(f)) {
            fail(c, "the fractional coordinates of site " + std::to_string(s - crystals.ptr[c]) +
                        " are not finite");
        }
        crystal.frac.push_back(f);
    }
    return crystal;
}

template Crystal load_crystal(const Crystals<float>&, std::int64_t);
template Crystal load_crystal(const Crystals<double>&, std::int64_t);

struct ImageCloud::Wrapped {
    std::vector<Vec3> inside;   // fractional in the compact basis, from 0 to 1
    std::vector<Shift> origin;  // in the given basis: lattice vector taken off each atom
    Vec3 low, high;             // bounds of `inside`
    Vec3 margin;                // the radius in units of the plane spacings
    double largest_origin;

    // Images of an atom between the bounds, widened by the margin.
    struct Box {
        std::int64_t low[3], high[3];

        std::int64_t size() const {
            return (high[0] - low[0] + 1) * (high[1] - low[1] + 1) * (high[2] - low[2] + 1);
        }
    };

    Box images(std::int64_t atom) const {
        const Vec3 first = (low - margin) - inside[atom], last = (high + margin) - inside[atom];
        return {{up(first.x), up(first.y), up(first.z)},
                {down(last.x), down(last.y), down(last.z)}};
    }

    static std::int64_t up(double x) { return static_cast<std::int64_t>(std::ceil(x)); }
    static std::int64_t down(double x) { return static_cast<std::int64_t>(std::floor(x)); }
};

ImageCloud::ImageCloud(const Crystal& crystal, double radius) : radius_(radius) {
    if (crystal.size() == 0) return;
    const Wrapped atoms = wrap(crystal);
    choose_bins(atoms);
    add_images(crystal, atoms);
    if (binned()) sort_by_bin();
}

ImageCloud::Wrapped ImageCloud::wrap(const Crystal& crystal) {
    const Cell& cell = crystal.cell;
    Wrapped atoms{{}, {}, {1, 1, 1}, {0, 0, 0}, {}, 0};
    atoms.inside.reserve(crystal.size());
    atoms.origin.reserve(crystal.size());
    offset_.reserve(3 * crystal.size());
    home_.reserve(crystal.size());
    home_position_.reserve(crystal.size());
    double farthest = 0;
    for (const Vec3 f : crystal.frac) {
        const Vec3 g = cell.compact(f);
        const Vec3 whole{std::floor(g.x), std::floor(g.y), std::floor(g.z)};
        farthest = std::max({farthest, std::fabs(whole.x), std::fabs(whole.y), std::fabs(whole.z)});
        if (!(farthest <= kMaxShift)) {
            fail(crystal.index, "fractional coordinates are too large; wrap them");
        }
        const Vec3 in = g - whole;
        atoms.inside.push_back(in);
        atoms.low = {std::min(atoms.low.x, in.x), std::min(atoms.low.y, in.y),
                     std::min(atoms.low.z, in.z)};
        atoms.high = {std::max(atoms.high.x, in.x), std::max(atoms.high.y, in.y),
                      std::max(atoms.high.z, in.z)};
        const Shift origin =
            cell.given({static_cast<std::int64_t>(whole.x), static_cast<std::int64_t>(whole.y),
                        static_cast<std::int64_t>(whole.z)});
        atoms.origin.push_back(origin);
        atoms.largest_origin = std::max(atoms.largest_origin, largest(origin));
        offset_.insert(offset_.end(), {narrow(origin.a), narrow(origin.b), narrow(origin.c)});
        home_position_.push_back(in * cell.reduced);
    }
    // Wrapping rounds, so the search is made a little wider than asked for.
    double lengths = 0;
    for (const Vec3 a : cell.reduced.row) lengths += length(a);
    radius_ = radius_ * (1 + 1e-9) + 1e-15 * (farthest + 1e3) * lengths;
    atoms.margin = {radius_ / cell.spacing[0], radius_ / cell.spacing[1],
                    radius_ / cell.spacing[2]};
    return atoms;
}

void ImageCloud::choose_bins(const Wrapped& atoms) {
    const double low[3] = {atoms.low.x, atoms.low.y, atoms.low.z};
    const double high[3] = {atoms.high.x, atoms.high.y, atoms.high.z};
    const double margin[3] = {atoms.margin.x, atoms.margin.y, atoms.margin.z};
    double points = static_cast<double>(atoms.inside.size());
    double extent[3], n_bins[3];
    for (int k = 0; k < 3; ++k) {
        bin_start_[k] = low[k] - margin[k];
        extent[k] = high[k] - low[k] + 2 * margin[k];
        points *= extent[k];
        n_bins[k] = std::floor(extent[k] / margin[k] * (1 - 1e-9));
        if (n_bins[k] < 4) n_bins[k] = 1;  // a source would look at all of them
    }
    // More bins than points only cost memory.
    while (n_bins[0] * n_bins[1] * n_bins[2] > std::max(1.0, points)) {
        double& most = *std::max_element(n_bins, n_bins + 3);
        most = std::floor(most / 2);
    }
    for (int k = 0; k < 3; ++k) {
        n_bins_[k] = static_cast<std::int32_t>(n_bins[k]);
        bins_per_unit_[k] = n_bins[k] / extent[k];
    }
    if (n_bins_[0] * n_bins_[1] * n_bins_[2] == 1) return;
    for (const Vec3 g : atoms.inside) {
        home_bin_.insert(home_bin_.end(),
                         {bin_along(0, g.x), bin_along(1, g.y), bin_along(2, g.z)});
    }
}

std::int32_t ImageCloud::bin_along(int axis, double coordinate) const {
    const double place = (coordinate - bin_start_[axis]) * bins_per_unit_[axis];
    return std::clamp(static_cast<std::int32_t>(place), 0, n_bins_[axis] - 1);
}

void ImageCloud::add_images(const Crystal& crystal, const Wrapped& atoms) {
    const Cell& cell = crystal.cell;
    const std::int64_t n = crystal.size();
    const Vec3 extent = atoms.high - atoms.low + 2.0 * atoms.margin;
    const double most = static_cast<double>(n) * (extent.x + 1) * (extent.y + 1) * (extent.z + 1);
    if (!(most <= kMaxImages)) {
        fail(crystal.index, "its cell of " + decimals(cell.volume) +
                                " Å^3 has too many images within " + decimals(radius_) +
                                " Å; use a smaller cutoff or a larger cell");
    }
    const Vec3 far{extent.x + 1, extent.y + 1, extent.z + 1};
    for (int k = 0; k < 3; ++k) {
        const double shift = far.x * std::fabs(static_cast<double>(cell.to[0][k])) +
                             far.y * std::fabs(static_cast<double>(cell.to[1][k])) +
                             far.z * std::fabs(static_cast<double>(cell.to[2][k]));
        if (shift + 2 * atoms.largest_origin > kMaxShift) {
            fail(crystal.index, "shifts do not fit into 32 bits; wrap the coordinates");
        }
    }

    std::int64_t n_points = 0;
    for (std::int64_t j = 0; j < n; ++j) n_points += atoms.images(j).size();
    for (auto* values : {&x_, &y_, &z_}) values->resize(n_points);
    for (auto* values : {&atom_, &shift_[0], &shift_[1], &shift_[2]}) values->resize(n_points);
    if (binned()) bin_.resize(n_points);

    const bool in_order = is_identity(cell.to);
    const Vec3 step = cell.reduced.row[2];
    const Shift given_step = cell.given({0, 0, 1});
    std::int64_t q = 0;
    for (std::int64_t j = 0; j < n; ++j) {
        const Wrapped::Box box = atoms.images(j);
        const Vec3 in = atoms.inside[j];
        const std::int64_t begin = q;
        for (std::int64_t a = box.low[0]; a <= box.high[0]; ++a) {
            const std::int32_t bin_a = bin_along(0, in.x + static_cast<double>(a));
            for (std::int64_t b = box.low[1]; b <= box.high[1]; ++b) {
                const std::int32_t bin_ab =
                    bin_a * n_bins_[1] + bin_along(1, in.y + static_cast<double>(b));
                const Vec3 x = home_position_[j] + to_vec({a, b, 0}) * cell.reduced;
                Shift shift = cell.given({a, b, box.low[2]}) - atoms.origin[j];
                for (std::int64_t c = box.low[2]; c <= box.high[2]; ++c, ++q) {
                    const auto times = static_cast<double>(c);
                    x_[q] = x.x + times * step.x;
                    y_[q] = x.y + times * step.y;
                    z_[q] = x.z + times * step.z;
                    atom_[q] = narrow(j);
                    shift_[0][q] = narrow(shift.a);
                    shift_[1][q] = narrow(shift.b);
                    shift_[2][q] = narrow(shift.c);
                    shift = shift + given_step;
                    if (binned()) bin_[q] = bin_ab * n_bins_[2] + bin_along(2, in.z + times);
                }
            }
        }
        if (!in_order) sort_by_shift(begin, q);
        home_.push_back(find_home(begin, q, atoms.origin[j]));
    }
}

void ImageCloud::sort_by_shift(std::int64_t begin, std::int64_t end) {
    std::vector<std::int32_t> from(end - begin);
    std::iota(from.begin(), from.end(), narrow(begin));
    std::sort(from.begin(), from.end(), [this](std::int32_t p, std::int32_t q) {
        return std::tie(shift_[0][p], shift_[1][p], shift_[2][p]) <
               std::tie(shift_[0][q], shift_[1][q], shift_[2][q]);
    });
    for (auto* values : {&x_, &y_, &z_}) take(*values, from, begin);
    for (auto* values : {&shift_[0], &shift_[1], &shift_[2]}) take(*values, from, begin);
    if (binned()) take(bin_, from, begin);
}

// Number of the point with no shift among those of an atom, which are in order of their shifts.
std::int32_t ImageCloud::find_home(std::int64_t begin, std::int64_t end, Shift origin) const {
    const Shift home = Shift{0, 0, 0} - origin;
    while (end - begin > 1) {
        const std::int64_t middle = begin + (end - begin) / 2;
        const Shift here{shift_[0][middle], shift_[1][middle], shift_[2][middle]};
        (home < here ? end : begin) = middle;
    }
    return narrow(begin);
}

void ImageCloud::sort_by_bin() {
    first_.assign(static_cast<std::size_t>(n_bins_[0]) * n_bins_[1] * n_bins_[2] + 1, 0);
    for (const std::int32_t b : bin_) ++first_[b + 1];
    std::partial_sum(first_.begin(), first_.end(), first_.begin());
    std::vector<std::int32_t> next(first_.begin(), first_.end() - 1);
    number_.resize(bin_.size());
    for (std::size_t q = 0; q < bin_.size(); ++q) {
        number_[next[bin_[q]]++] = static_cast<std::int32_t>(q);
    }
    for (auto* values : {&x_, &y_, &z_}) take(*values, number_, 0);
    bin_ = {};
}

void ImageCloud::forget_positions() {
    x_ = y_ = z_ = {};
    number_ = first_ = {};
}

std::int64_t ImageCloud::near(std::int64_t src, std::vector<std::int32_t>& out) const {
    struct Run {
        std::int64_t begin, end;
    };
    Run runs[9];
    int n_runs = 0;
    std::int64_t candidates = 0;
    if (binned()) {
        const std::int32_t* at = &home_bin_[3 * src];
        std::int32_t low[3], high[3];
        for (int k = 0; k < 3; ++k) {
            low[k] = std::max(at[k] - 1, 0);
            high[k] = std::min(at[k] + 1, n_bins_[k] - 1);
        }
        for (std::int64_t a = low[0]; a <= high[0]; ++a) {
            for (std::int64_t b = low[1]; b <= high[1]; ++b) {
                const std::int64_t row = (a * n_bins_[1] + b) * n_bins_[2];
                runs[n_runs] = {first_[row + low[2]], first_[row + high[2] + 1]};
                candidates += runs[n_runs].end - runs[n_runs].begin;
                ++n_runs;
            }
        }
    } else {
        candidates = static_cast<std::int64_t>(x_.size());
        runs[n_runs++] = {0, candidates};
    }
    if (static_cast<std::int64_t>(out.size()) < candidates + kCollectPadding) {
        out.resize(2 * candidates + kCollectPadding);
    }
    const Points points{x_.data(), y_.data(), z_.data()};
    const Vec3 p = home_position_[src];
    std::int64_t n = 0;
    for (int r = 0; r < n_runs; ++r) {
        n = collect(points, runs[r].begin, runs[r].end, p.x, p.y, p.z, radius_, out.data(), n);
    }
    if (binned()) {
        for (std::int64_t i = 0; i < n; ++i) out[i] = number_[out[i]];
    }
    return n;
}

}  // namespace smoacs::cpu
