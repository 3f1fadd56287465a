#include "cpu/image_cloud.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <numeric>

#include "core/neighbor_rules.h"
#include "cpu/collect.h"

namespace smoacs::cpu {

namespace {

constexpr double kMaxShift = std::numeric_limits<std::int32_t>::max();

// A lattice vector: in both bases and in Å.
struct Image {
    Shift compact;
    Shift given;
    Vec3 move;
};

double largest(Shift s) {
    return std::max({std::fabs(static_cast<double>(s.a)), std::fabs(static_cast<double>(s.b)),
                     std::fabs(static_cast<double>(s.c))});
}

std::int32_t narrow(std::int64_t x) {
    return static_cast<std::int32_t>(x);
}

template <typename T>
void take(std::vector<T>& values, const std::vector<std::int32_t>& from) {
    std::vector<T> taken(from.size());
    for (std::size_t q = 0; q < from.size(); ++q) taken[q] = values[from[q]];
    values.swap(taken);
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
    double size;                // no two atoms are farther apart
    double largest_origin;
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
    Wrapped atoms{{}, {}, {1, 1, 1}, {0, 0, 0}, {}, 0, 0};
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
        atoms.size = std::max(atoms.size, 2 * length(home_position_.back() - home_position_[0]));
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

std::int32_t ImageCloud::bin(Vec3 g) const {
    return (bin_along(0, g.x) * n_bins_[1] + bin_along(1, g.y)) * n_bins_[2] + bin_along(2, g.z);
}

void ImageCloud::add_images(const Crystal& crystal, const Wrapped& atoms) {
    const Cell& cell = crystal.cell;
    const std::int64_t n = crystal.size();
    const Vec3 first = atoms.low - atoms.high - atoms.margin;
    const Vec3 last = atoms.high - atoms.low + atoms.margin;
    const Vec3 extent = atoms.high - atoms.low + 2.0 * atoms.margin;
    const double most = static_cast<double>(n) * (extent.x + 1) * (extent.y + 1) * (extent.z + 1);
    if (!(most <= kMaxImages)) {
        fail(crystal.index, "its cell of " + decimals(cell.volume) +
                                " Å^3 has too many images within " + decimals(radius_) +
                                " Å; use a smaller cutoff or a larger cell");
    }

    std::vector<Image> images;
    const double reach = radius_ + atoms.size;
    double largest_image = 0;
    for (double a = std::ceil(first.x); a <= last.x; ++a) {
        for (double b = std::ceil(first.y); b <= last.y; ++b) {
            for (double c = std::ceil(first.z); c <= last.z; ++c) {
                const Vec3 move = Vec3{a, b, c} * cell.reduced;
                if (dot(move, move) > reach * reach) continue;
                const Shift compact{static_cast<std::int64_t>(a), static_cast<std::int64_t>(b),
                                    static_cast<std::int64_t>(c)};
                images.push_back({compact, cell.given(compact), move});
                largest_image = std::max(largest_image, largest(images.back().given));
            }
        }
    }
    if (largest_image + 2 * atoms.largest_origin > kMaxShift) {
        fail(crystal.index, "shifts do not fit into 32 bits; wrap the coordinates");
    }
    const auto by_given = [](const Image& s, const Image& t) { return s.given < t.given; };
    if (!std::is_sorted(images.begin(), images.end(), by_given)) {
        std::sort(images.begin(), images.end(), by_given);
    }

    const Vec3 low = atoms.low - atoms.margin, high = atoms.high + atoms.margin;
    std::int64_t points = 0;
    for (std::int64_t j = 0; j < n; ++j) {
        const Vec3 in = atoms.inside[j];
        resize(points + static_cast<std::int64_t>(images.size()));
        for (const Image& image : images) {
            const Vec3 g = in + to_vec(image.compact);
            if (g.x < low.x || g.x > high.x || g.y < low.y || g.y > high.y || g.z < low.z ||
                g.z > high.z) {
                continue;
            }
            if (image.given == Shift{0, 0, 0}) home_.push_back(narrow(points));
            const Vec3 x = home_position_[j] + image.move;
            const Shift shift = image.given - atoms.origin[j];
            x_[points] = x.x;
            y_[points] = x.y;
            z_[points] = x.z;
            atom_[points] = narrow(j);
            shift_[0][points] = narrow(shift.a);
            shift_[1][points] = narrow(shift.b);
            shift_[2][points] = narrow(shift.c);
            if (binned()) bin_[points] = bin(g);
            ++points;
        }
    }
    resize(points);
}

void ImageCloud::resize(std::int64_t n) {
    for (auto* values : {&x_, &y_, &z_}) values->resize(n);
    for (auto* values : {&atom_, &shift_[0], &shift_[1], &shift_[2]}) values->resize(n);
    if (binned()) bin_.resize(n);
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
    take(x_, number_);
    take(y_, number_);
    take(z_, number_);
    bin_ = {};
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
