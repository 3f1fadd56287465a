// The periodic images of a crystal's atoms around its cell, arranged for fast distance searches.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "core/cell.h"
#include "cpu/buffer.h"
#include "cpu/order.h"

namespace smoacs::cpu {

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
    std::int64_t index = 0;  // in its batch
    std::int64_t first = 0;  // of its sites in the batch
    Cell cell;
    Buffer<Vec3> frac;  // as given, any real numbers

    std::int64_t size() const { return frac.size(); }
};

// Replaces the contents of `out`. Throws std::invalid_argument if crystal c is not finite or has
// no volume.
template <typename T>
void load_crystal(const Crystals<T>& crystals, std::int64_t c, Crystal& out);

// A site, and by how many lattice vectors its image is away, by axis of the given cell.
struct Image {
    std::int32_t site;
    std::int32_t shift[3];
};

// All four at once: written out, since compilers add them one by one.
inline Image operator+(Image a, Image b) {
    using Numbers [[gnu::vector_size(sizeof(Image))]] = std::int32_t;
    Numbers x, y;
    std::memcpy(&x, &a, sizeof x);
    std::memcpy(&y, &b, sizeof y);
    x += y;
    std::memcpy(&a, &x, sizeof a);
    return a;
}

// Working memory of a search.
struct Sorting {
    Buffer<std::int32_t> unsorted, keys;
    Order order;
};

// An atom whose neighbours are looked for.
struct Source {
    Image offset;        // the atom; what to add to the shifts of points
    std::int32_t point;  // the atom itself among the points
    std::int32_t bin[3];
    float position[3];
    Vec3 start;
};

// Every image of every atom that may lie within a radius of an atom of the cell.
//
// Few points stay in one run, in the order of (atom, shift). Many are sorted into bins, so that a
// source looks at nine runs of them, and sources follow their points, so that successive ones look
// at the same memory; whatever they need of an atom is with its points. Positions are in single
// precision, since distances will be measured again.
class ImageCloud {
  public:
    // Replaces the contents; memory is reused. `starts` is what comes with the points of each atom.
    void fill(const Crystal& crystal, const Vec3* starts, double radius, int threads);

    // Each atom, in no particular order.
    const Source& source(std::int64_t i) const { return sources_[i]; }

    // Points that may be within the radius of a source, in the order of (atom, shift), written to
    // `out`; returns their number. Some are slightly farther, and the source itself is there too.
    std::int64_t near(const Source& source, Buffer<std::int32_t>& out, Sorting& sorting) const;

    // The images that n points are, seen from a source and except for itself, with the numbers of
    // sites counted from `first`, and their atoms' starts. Returns their number.
    std::int64_t neighbors(const Source& source, const std::int32_t* points, std::int64_t n,
                           std::int64_t first, Image* images, Vec3* starts) const;

  private:
    // Images of an atom that are needed: within the margin around the bounds of all atoms.
    struct Box {
        std::int64_t low[3], high[3];
        std::int64_t first;  // number of its first point

        std::int64_t size() const {
            return (high[0] - low[0] + 1) * (high[1] - low[1] + 1) * (high[2] - low[2] + 1);
        }
    };

    void wrap(const Crystal& crystal);
    void check_size(const Crystal& crystal) const;
    std::int64_t make_boxes();
    void choose_bins(std::int64_t n_points);
    void add_images(const Crystal& crystal, const Vec3* starts, std::int64_t begin,
                    std::int64_t end);
    std::int64_t sort_by_shift(std::int64_t begin, std::int64_t end, std::int64_t home);
    void sort_by_bin(int threads);
    void sort_sources();
    bool binned() const { return n_bins_[0] * n_bins_[1] * n_bins_[2] > 1; }
    std::int32_t bin_along(int axis, double coordinate) const;

    // Atoms moved into the compact cell.
    Buffer<Vec3> inside_;    // fractional coordinates in the compact basis, from 0 to 1
    Buffer<Vec3> position_;  // the same in Å
    Buffer<Image> offset_;   // in the given basis: lattice vector taken off
    Buffer<Box> boxes_;
    Vec3 low_, high_;        // bounds of inside_
    double farthest_;        // largest lattice vector taken off, in the compact basis
    double largest_offset_;  // and in the given one

    Vec3 margin_;   // the radius in units of the plane spacings
    float square_;  // of a distance that no point within the radius exceeds

    // Points.
    struct Point {
        Image image;  // the atom and the shift, less that of a source
        Vec3 start;   // of the atom
    };
    Buffer<Point> points_;
    Buffer<float> axis_[3];  // positions by axis
    Buffer<Source> sources_;

    // Bins split the compact cell and its margin.
    std::int32_t n_bins_[3];
    double bin_start_[3], bins_per_unit_[3];
    Buffer<std::int32_t> bin_;     // of each point
    Buffer<std::int32_t> first_;   // first point of each bin, then their number
    Buffer<std::int32_t> number_;  // of each point in the order of (atom, shift)

    // Scratch for sorting.
    Buffer<std::int32_t> from_;
    Buffer<float> unsorted_;
    Buffer<Point> unsorted_points_;
    Buffer<Source> sorted_sources_;
};

}  // namespace smoacs::cpu
