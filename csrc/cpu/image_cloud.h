// The periodic images of a crystal's atoms around its cell, arranged for fast distance searches.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/cell.h"

namespace smoacs::cpu {

[[noreturn]] inline void fail(std::int64_t crystal, const std::string& what) {
    throw std::invalid_argument("crystal " + std::to_string(crystal) + ": " + what);
}

// A number for an error message.
std::string decimals(double x);

// S sites in C crystals: frac_coords (S, 3) and lattice (C, 3, 3) row-major, ptr (C + 1) ascending
// from 0 to S.
template <typename T>
struct Crystals {
    const T* frac_coords;
    const T* lattice;
    const std::int64_t* ptr;
    std::int64_t n_crystals;
};

// One crystal in double precision.
struct Crystal {
    std::int64_t index;  // in its batch
    Cell cell;
    std::vector<Vec3> frac;  // as given, any real numbers

    std::int64_t size() const { return static_cast<std::int64_t>(frac.size()); }
};

// Throws std::invalid_argument if crystal c is not finite or has no volume.
template <typename T>
Crystal load_crystal(const Crystals<T>& crystals, std::int64_t c);

// Every image of every atom that may lie within a radius of an atom of the cell.
//
// Points are numbered in the order of (atom, shift). They carry the shift from a source at the
// origin of the given cell; from source i it is that plus offset(i). Small crystals keep their
// points in one run, large ones in bins at least as wide as the radius, so that a source looks at
// nine runs of three bins.
class ImageCloud {
  public:
    ImageCloud() = default;
    ImageCloud(const Crystal& crystal, double radius);

    // Points that may be within the radius of `src`, written to `out`, which grows as needed;
    // returns their number. Some are slightly farther, and `src` itself is there too.
    std::int64_t near(std::int64_t src, std::vector<std::int32_t>& out) const;

    // Frees what only near() needs.
    void forget_positions();

    // Atom and shift, by axis of the given cell, of each point.
    const std::int32_t* atom() const { return atom_.data(); }
    const std::int32_t* shift(int axis) const { return shift_[axis].data(); }

    const std::int32_t* offset(std::int64_t src) const { return &offset_[3 * src]; }

    // Point of a source itself.
    std::int32_t home(std::int64_t src) const { return home_[src]; }

  private:
    struct Wrapped;  // atoms moved into the compact cell

    Wrapped wrap(const Crystal& crystal);
    void choose_bins(const Wrapped& atoms);
    void add_images(const Crystal& crystal, const Wrapped& atoms);
    void sort_by_shift(std::int64_t begin, std::int64_t end);
    std::int32_t find_home(std::int64_t begin, std::int64_t end, Shift origin) const;
    void sort_by_bin();
    bool binned() const { return !home_bin_.empty(); }
    std::int32_t bin_along(int axis, double coordinate) const;

    double radius_ = 0;
    std::vector<std::int32_t> offset_;  // (n, 3)
    std::vector<std::int32_t> home_;    // (n)
    std::vector<Vec3> home_position_;   // (n)

    std::vector<std::int32_t> atom_;
    std::vector<std::int32_t> shift_[3];
    std::vector<double> x_, y_, z_;     // sorted by bin; number_ has the points
    std::vector<std::int32_t> number_;  // empty without bins

    // Bins split the compact cell and its margin.
    std::int32_t n_bins_[3] = {1, 1, 1};
    double bin_start_[3], bins_per_unit_[3];
    std::vector<std::int32_t> bin_;       // of each point, while they are added
    std::vector<std::int32_t> first_;     // first place of each bin, then their number
    std::vector<std::int32_t> home_bin_;  // (n, 3), empty without bins
};

}  // namespace smoacs::cpu
