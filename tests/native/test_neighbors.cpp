// Neighbour lists against a plain loop over images, and what a GPU runs against the CPU's own
// versions.
#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <random>
#include <tuple>
#include <vector>

#include "check.h"
#include "cpu/collect.h"
#include "cpu/edge_vectors.h"
#include "cpu/line_graph.h"
#include "cpu/neighbors.h"
#include "cpu/order.h"
#include "cpu/steps.h"
#include "cuda/edge_vectors.h"
#include "cuda/line_graph.h"
#include "cuda/neighbors.h"

using namespace smoacs;

namespace {

constexpr double kPi = 3.141592653589793;

struct Batch {
    std::vector<double> frac, lattice;
    std::vector<std::int64_t> ptr{0};

    std::int64_t n_sites() const { return ptr.back(); }
    std::int64_t n_crystals() const { return static_cast<std::int64_t>(ptr.size()) - 1; }

    void add(const std::array<double, 9>& cell, const std::vector<double>& coords) {
        lattice.insert(lattice.end(), cell.begin(), cell.end());
        frac.insert(frac.end(), coords.begin(), coords.end());
        ptr.push_back(ptr.back() + static_cast<std::int64_t>(coords.size()) / 3);
    }
};

// Skewed cells with coordinates outside of them, an empty crystal and one large enough for bins.
Batch awkward_batch() {
    std::mt19937 random(7);
    std::uniform_real_distribution<double> real(-1, 2);
    Batch batch;
    for (const int n : {1, 4, 0, 70}) {
        const double size = n == 70 ? 10 : 3;
        std::array<double, 9> cell{};
        for (int i = 0; i < 9; ++i) cell[i] = i % 4 == 0 ? size : 0.1 * size * real(random);
        if (n == 4) cell[6] += 2 * size;
        std::vector<double> coords(3 * n);
        for (double& x : coords) x = real(random);
        batch.add(cell, coords);
    }
    const double a = 3.9;
    batch.add({a, 0, 0, 0, a, 0, 0, 0, a}, {0, 0, 0, .5, .5, .5, .5, .5, 0, .5, 0, .5, 0, .5, .5});
    return batch;
}

struct List {
    std::vector<std::int64_t> src, dst, edge_ptr;
    std::vector<std::int32_t> shift;
    std::vector<double> distance;

    List(std::int64_t n_edges, std::int64_t n_crystals)
        : src(n_edges),
          dst(n_edges),
          edge_ptr(n_crystals + 1),
          shift(3 * n_edges),
          distance(n_edges) {}

    std::int64_t size() const { return static_cast<std::int64_t>(src.size()); }

    std::vector<std::tuple<std::int64_t, std::int64_t, int, int, int>> sorted() const {
        std::vector<std::tuple<std::int64_t, std::int64_t, int, int, int>> rows;
        for (std::int64_t e = 0; e < size(); ++e) {
            const std::int32_t* s = &shift[3 * e];
            rows.emplace_back(src[e], dst[e], s[0], s[1], s[2]);
        }
        std::sort(rows.begin(), rows.end());
        return rows;
    }
};

bool operator==(const List& a, const List& b) {
    return a.src == b.src && a.dst == b.dst && a.shift == b.shift && a.distance == b.distance &&
           a.edge_ptr == b.edge_ptr;
}

List find(const Batch& batch, const NeighborQuery& query) {
    const cpu::Crystals<double> crystals{batch.frac.data(), batch.lattice.data(), batch.ptr.data(),
                                         batch.n_crystals()};
    const cpu::NeighborSearch search(crystals, query);
    List list(search.n_edges(), batch.n_crystals());
    search.write(list.src.data(), list.dst.data(), list.shift.data(), list.distance.data(),
                 list.edge_ptr.data());
    return list;
}

void cells_are_reduced() {
    const Mat3 skewed{{{3, 0.1, 0}, {301, 4, -0.2}, {-155, 39, 5}}};
    Cell cell;
    CHECK(make_cell(skewed, cell) == CellStatus::ok);
    for (int i = 0; i < 3; ++i) {
        CHECK(length(cell.reduced.row[i]) < 6);
        Vec3 back{0, 0, 0};
        for (int k = 0; k < 3; ++k) {
            std::int64_t product = 0;
            for (int m = 0; m < 3; ++m) product += cell.from[i][m] * cell.to[m][k];
            CHECK(product == (i == k));
            back = back + static_cast<double>(cell.from[i][k]) * cell.reduced.row[k];
        }
        CHECK(length(back - skewed.row[i]) < 1e-9);
    }
    const Mat3 flat{{{1, 0, 0}, {0, 1, 0}, {1, 1, 1e-12}}};
    CHECK(make_cell(flat, cell) == CellStatus::singular);
}

void all_instruction_sets_collect_the_same() {
    std::mt19937 random(1);
    std::uniform_real_distribution<float> real(-1, 1);
    std::vector<float> x(50), y(50), z(50);
    for (auto* values : {&x, &y, &z}) {
        for (float& v : *values) v = real(random);
    }
    x[20] = NAN;
    const cpu::Points points{x.data(), y.data(), z.data()};
    for (std::int64_t begin = 0; begin < 9; ++begin) {
        for (std::int64_t end = begin; end <= 50; ++end) {
            std::vector<std::int32_t> wanted;
            for (std::int64_t i = begin; i < end; ++i) {
                const Vec3 r{x[i] - 0.1, y[i], z[i] + 0.2};
                if (!(length(r) > 0.9)) wanted.push_back(static_cast<std::int32_t>(i));
            }
            const std::int64_t middle = begin + (end - begin) / 3;
            for (const auto simd : {cpu::Simd::none, cpu::Simd::avx2, cpu::Simd::avx512}) {
                if (simd > cpu::best_simd()) continue;
                std::vector<std::int32_t> found(end - begin + cpu::kCollectPadding, -1);
                const cpu::Run runs[2] = {{begin, middle}, {middle, end}};
                found.resize(
                    cpu::collect(points, runs, 2, {0.1, 0, -0.2, 0.81}, found.data(), simd));
                CHECK(found == wanted);
            }
        }
    }
}

void few_and_many_are_put_in_order() {
    std::mt19937 random(2);
    cpu::Order order;
    for (const int n : {1, 2, 15, 16, 17, 100, 384, 385, 900}) {
        std::vector<std::int32_t> numbers(n), sorted(n), found(n), keys(n + cpu::Order::kPadding);
        std::iota(sorted.begin(), sorted.end(), -n / 2);
        numbers = sorted;
        std::shuffle(numbers.begin(), numbers.end(), random);
        for (int i = 0; i < n; ++i) keys[i] = 3 * numbers[i];
        order.sort(keys.data(), numbers.data(), n, found.data());
        CHECK(found == sorted);
        std::vector<double> values(n);
        for (double& v : values) v = static_cast<double>(random() % n);  // with ties
        std::vector<double> ascending = values;
        std::sort(ascending.begin(), ascending.end());
        for (int k = 1; k <= n; k += 7) {
            CHECK(order.kth(values.data(), n, k) == ascending[k - 1]);
        }
    }
}

void radius_equals_a_plain_loop() {
    const Batch batch = awkward_batch();
    const double cutoff = 4.3;
    List wanted(0, batch.n_crystals());
    for (std::int64_t c = 0; c < batch.n_crystals(); ++c) {
        const Mat3 lattice = load_matrix(batch.lattice.data(), c);
        for (std::int64_t i = batch.ptr[c]; i < batch.ptr[c + 1]; ++i) {
            for (std::int64_t j = batch.ptr[c]; j < batch.ptr[c + 1]; ++j) {
                const Vec3 step = load_row(batch.frac.data(), j) - load_row(batch.frac.data(), i);
                const int n = batch.ptr[c + 1] - batch.ptr[c] == 70 ? 6 : 18;
                for (int s = 0; s < (2 * n + 1) * (2 * n + 1) * (2 * n + 1); ++s) {
                    const int m = 2 * n + 1;
                    const int shift[3] = {s / m / m - n, s / m % m - n, s % m - n};
                    const Vec3 t{double(shift[0]), double(shift[1]), double(shift[2])};
                    if (length((step + t) * lattice) > cutoff) continue;
                    if (i == j && s == m * m * m / 2) continue;
                    wanted.src.push_back(i);
                    wanted.dst.push_back(j);
                    wanted.shift.insert(wanted.shift.end(), shift, shift + 3);
                }
            }
        }
    }
    const List found = find(batch, {NeighborRule::radius, cutoff, 0, 1e-3});
    CHECK(found.size() > 1000);
    CHECK(found.sorted() == wanted.sorted());
}

// The steps one after the other on the CPU, or as the kernels of a GPU.
struct OneByOne {
    static void prepare(const NeighborJob& job) { cpu::prepare(job); }
    static void find_reach(const NeighborJob& job) { cpu::find_reach(job); }
    static void count(const NeighborJob& job) { cpu::count(job); }
    template <typename T>
    static void fill(const NeighborJob& job, const NeighborOutput<T>& out) {
        cpu::fill(job, out);
    }
};
struct InKernels {
    static void prepare(const NeighborJob& job) { cuda::prepare(job, 0); }
    static void find_reach(const NeighborJob& job) { cuda::find_reach(job, 0); }
    static void count(const NeighborJob& job) { cuda::count(job, 0); }
    template <typename T>
    static void fill(const NeighborJob& job, const NeighborOutput<T>& out) {
        cuda::fill(job, out, 0);
    }
};

std::vector<std::int64_t> offsets(const std::vector<std::int64_t>& counts) {
    std::vector<std::int64_t> out(counts.size() + 1, 0);
    std::partial_sum(counts.begin(), counts.end(), out.begin() + 1);
    return out;
}

// Rows in ascending order of their group, and where each of n groups starts.
std::pair<std::vector<std::int64_t>, std::vector<std::int64_t>> grouped(
    const std::vector<std::int64_t>& group, std::int64_t n) {
    std::vector<std::int64_t> rows(group.size()), counts(n, 0);
    std::iota(rows.begin(), rows.end(), 0);
    std::stable_sort(rows.begin(), rows.end(),
                     [&](std::int64_t a, std::int64_t b) { return group[a] < group[b]; });
    for (const std::int64_t g : group) ++counts[g];
    return {rows, offsets(counts)};
}

template <typename Steps>
List find_in_steps(const Batch& batch, const NeighborQuery& query) {
    const std::int64_t n_sites = batch.n_sites(), n_crystals = batch.n_crystals();
    std::vector<SearchCell> cells(n_crystals);
    std::vector<SearchSite> sites(n_sites);
    std::vector<std::int64_t> bin(n_sites), counts(n_sites);
    std::vector<double> reach(n_sites), longest(n_crystals, 0.0);
    std::vector<LastNeighbor> last(n_sites);
    std::vector<std::int64_t> faults(kAllSteps, kNoNeighborFault);
    NeighborJob job{};
    job.query = query;
    job.n_sites = n_sites;
    job.n_crystals = n_crystals;
    job.frac_coords = batch.frac.data();
    job.lattice = batch.lattice.data();
    job.ptr = batch.ptr.data();
    job.cells = cells.data();
    job.sites = sites.data();
    job.bin = bin.data();
    job.reach = reach.data();
    job.longest_reach = longest.data();
    job.last = last.data();
    job.counts = counts.data();
    job.faults = faults.data();
    Steps::prepare(job);
    const auto [by_bin, first] = grouped(bin, n_sites);
    job.by_bin = by_bin.data();
    job.first = first.data();
    if (query.rule != NeighborRule::radius) Steps::find_reach(job);
    for (std::int64_t s = 0; s < n_sites; ++s) {
        double& reach_of_crystal = longest[sites[s].crystal];
        reach_of_crystal = std::max(reach_of_crystal, reach[s]);
    }
    Steps::count(job);
    for (std::int64_t fault : faults) CHECK(fault == kNoNeighborFault);
    const auto starts = offsets(counts);
    std::vector<Arc> arcs(starts.back());
    job.starts = starts.data();
    job.capacity = starts.back();
    job.arcs = arcs.data();
    List list(starts.back(), n_crystals);
    Steps::fill(job, NeighborOutput<double>{list.src.data(), list.dst.data(), list.shift.data(),
                                            list.distance.data()});
    for (std::int64_t c = 0; c <= n_crystals; ++c) list.edge_ptr[c] = starts[batch.ptr[c]];
    return list;
}

void steps_equal_the_search() {
    const Batch batch = awkward_batch();
    for (const NeighborQuery query : {NeighborQuery{NeighborRule::radius, 3.1, 0, 1e-3},
                                      NeighborQuery{NeighborRule::knn, 3.1, 5, 1e-3},
                                      NeighborQuery{NeighborRule::knn, 3.1, 5, 0.0},
                                      NeighborQuery{NeighborRule::knn_shell, 3.1, 6, 1e-3},
                                      NeighborQuery{NeighborRule::knn_shell, 3.1, 6, 0.0}}) {
        const List wanted = find(batch, query);
        CHECK(find_in_steps<OneByOne>(batch, query) == wanted);
        CHECK(find_in_steps<InKernels>(batch, query) == wanted);
    }
}

void bad_crystals_are_named() {
    Batch batch = awkward_batch();
    batch.lattice[9 * 3 + 4] = NAN;
    bool caught = false;
    try {
        find(batch, {NeighborRule::radius, 3, 0, 1e-3});
    } catch (const std::invalid_argument& error) {
        caught = std::strstr(error.what(), "crystal 3") != nullptr;
    }
    CHECK(caught);
}

void pairs_of_edges() {
    const Batch batch = awkward_batch();
    const List list = find(batch, {NeighborRule::knn_shell, 3, 4, 1e-3});
    std::vector<std::uint8_t> keep(list.size());
    for (std::int64_t e = 0; e < list.size(); ++e) keep[e] = list.distance[e] < 2.8;
    for (const bool self_pairs : {false, true}) {
        const cpu::LineGraph graph(list.src.data(), list.dst.data(),
                                   reinterpret_cast<const bool*>(keep.data()), list.size(),
                                   self_pairs);
        std::vector<std::int64_t> a(graph.n_pairs()), b(graph.n_pairs()), ptr(list.size() + 1);
        graph.write(a.data(), b.data(), ptr.data());
        CHECK(ptr.front() == 0 && ptr.back() == graph.n_pairs());
        std::size_t t = 0;
        for (std::int64_t y = 0; y < list.size(); ++y) {
            for (std::int64_t x = 0; x < list.size(); ++x) {
                if (list.dst[x] != list.src[y] || !keep[x] || !keep[y]) continue;
                if (x == y && !self_pairs) continue;
                CHECK(t < a.size() && a[t] == x && b[t] == y);
                ++t;
            }
        }
        CHECK(t == a.size());

        // All edges, as a GPU pairs them.
        keep.assign(list.size(), 1);
        const cpu::LineGraph all(list.src.data(), list.dst.data(),
                                 reinterpret_cast<const bool*>(keep.data()), list.size(),
                                 self_pairs);
        a.assign(all.n_pairs(), -1);
        b.assign(all.n_pairs(), -1);
        all.write(a.data(), b.data(), ptr.data());
        const auto [by_dst, ends] = grouped(list.dst, batch.n_sites());
        std::vector<std::int64_t> first, counts, c(a.size()), d(a.size());
        for (std::int64_t e = 0; e < list.size(); ++e) {
            const std::int64_t s = list.src[e];
            first.push_back(ends[s]);
            counts.push_back(ends[s + 1] - ends[s] - (!self_pairs && s == list.dst[e]));
        }
        const auto starts = offsets(counts);
        const PairJob job{list.size(),  list.src.data(), list.dst.data(), by_dst.data(),
                          first.data(), starts.data(),   self_pairs,      starts.back(),
                          c.data(),     d.data()};
        cuda::fill_pairs(job, 0);
        CHECK(a == c && b == d);
    }
}

void gradients_of_edge_vectors() {
    const Batch batch = awkward_batch();
    const List list = find(batch, {NeighborRule::radius, 4.3, 0, 1e-3});
    const std::int64_t n_sites = batch.n_sites(), n_crystals = batch.n_crystals();
    CHECK(list.edge_ptr[4] - list.edge_ptr[3] > EdgeGradientJob<double>::kChunk);
    const cpu::Edges edges{list.src.data(),      list.dst.data(), list.shift.data(),
                           list.edge_ptr.data(), list.size(),     list.size(),
                           n_crystals,           n_sites};
    std::vector<double> vectors(3 * list.size()), grad(3 * list.size());
    cpu::edge_vectors(batch.frac.data(), batch.lattice.data(), edges, vectors.data());
    for (std::int64_t e = 0; e < list.size(); ++e) {
        CHECK(length(load_row(vectors.data(), e)) == list.distance[e]);
        for (int k = 0; k < 3; ++k) grad[3 * e + k] = std::sin(kPi * (e + 0.3 * k));
    }
    std::vector<double> grad_frac(3 * n_sites), grad_lattice(9 * n_crystals);
    cpu::edge_vectors_backward(grad.data(), batch.frac.data(), batch.lattice.data(), edges,
                               grad_frac.data(), grad_lattice.data());

    const auto [by_src, first_out] = grouped(list.src, n_sites);
    const auto [by_dst, first_in] = grouped(list.dst, n_sites);
    std::vector<std::int64_t> chunks;
    for (std::int64_t c = 0; c < n_crystals; ++c) {
        const std::int64_t n = list.edge_ptr[c + 1] - list.edge_ptr[c];
        chunks.push_back((n + EdgeGradientJob<double>::kChunk - 1) /
                         EdgeGradientJob<double>::kChunk);
    }
    const auto chunk_ptr = offsets(chunks);
    std::vector<double> sums(9 * chunk_ptr.back()), frac(3 * n_sites), lattice(9 * n_crystals);
    const EdgeGradientJob<double> job{
        {n_sites, n_crystals, list.size(), batch.frac.data(), batch.lattice.data(), list.src.data(),
         list.dst.data(), list.shift.data(), list.edge_ptr.data()},
        grad.data(),
        by_src.data(),
        first_out.data(),
        by_dst.data(),
        first_in.data(),
        chunk_ptr.back(),
        chunk_ptr.data(),
        sums.data(),
        frac.data(),
        lattice.data()};
    cuda::edge_gradients(job, 0);
    std::vector<double> same(vectors.size());
    cuda::edge_vectors(job.edges, same.data(), 0);
    CHECK(same == vectors);
    for (std::size_t i = 0; i < frac.size(); ++i) {
        CHECK(std::fabs(frac[i] - grad_frac[i]) < 1e-10);
    }
    for (std::size_t i = 0; i < lattice.size(); ++i) {
        CHECK(std::fabs(lattice[i] - grad_lattice[i]) < 1e-10);
    }
}

}  // namespace

int main() {
    cells_are_reduced();
    all_instruction_sets_collect_the_same();
    few_and_many_are_put_in_order();
    radius_equals_a_plain_loop();
    steps_equal_the_search();
    bad_crystals_are_named();
    pairs_of_edges();
    gradients_of_edge_vectors();
}
