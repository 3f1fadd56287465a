// Cosines of bond pairs on exactly sized buffers: the formula, finite differences, any number of
// threads, the kernels of a GPU, and ends that are not there.
#include <algorithm>
#include <cmath>
#include <vector>

#include "check.h"
#include "cpu/gated_messages.h"
#include "cpu/pair_cosines.h"
#include "cpu/threads.h"
#include "cuda/pair_cosines.h"

namespace {

template <typename T>
struct Pairs {
    std::int64_t bonds, size;
    std::vector<std::int64_t> src, dst, by_src, first_out, by_dst, first_in;
    std::vector<T> vectors, cosines, grad, grad_vectors;
    std::vector<double> directions;

    Pairs(std::int64_t bonds, std::int64_t size) : bonds(bonds), size(size) {
        for (std::int64_t p = 0; p < size; ++p) {
            src.push_back(p * p % 13 % bonds);
            dst.push_back(p * 5 % bonds);
            grad.push_back(T(std::cos(0.9 * p)));
        }
        for (std::int64_t i = 0; i < 3 * bonds; ++i)
            vectors.push_back(T(2 * std::sin(1 + 1.7 * i)));
        by_src = by_dst = std::vector<std::int64_t>(size);
        first_out = first_in = std::vector<std::int64_t>(bonds + 1);
        cosines = std::vector<T>(size, T(7));
        grad_vectors = std::vector<T>(3 * bonds, T(7));
        directions = std::vector<double>(4 * bonds);
        sort(src, dst);
    }

    void sort(const std::vector<std::int64_t>& first, const std::vector<std::int64_t>& second) {
        smoacs::cpu::group_rows(first.data(), size, bonds, by_src.data(), first_out.data());
        smoacs::cpu::group_rows(second.data(), size, bonds, by_dst.data(), first_in.data());
    }

    smoacs::EdgeEnds ends() const {
        return {bonds,
                size,
                1,
                src.data(),
                dst.data(),
                by_src.data(),
                first_out.data(),
                by_dst.data(),
                first_in.data()};
    }

    void run() {
        smoacs::cpu::pair_cosines<T>({ends(), vectors.data(), directions.data(), cosines.data()});
        smoacs::cpu::pair_cosines_backward<T>(
            {ends(), directions.data(), grad.data(), grad_vectors.data()});
    }

    void run_on_gpu() {
        smoacs::cuda::pair_cosines<T>({ends(), vectors.data(), directions.data(), cosines.data()},
                                      0);
        smoacs::cuda::pair_cosines_backward<T>(
            {ends(), directions.data(), grad.data(), grad_vectors.data()}, 0);
    }

    // What the gradients are gradients of.
    double objective() {
        smoacs::cpu::pair_cosines<T>({ends(), vectors.data(), directions.data(), cosines.data()});
        double sum = 0;
        for (std::int64_t p = 0; p < size; ++p) sum += grad[p] * cosines[p];
        return sum;
    }
};

void cosines_follow_the_formula() {
    Pairs<double> given(11, 60);
    given.run();
    for (std::int64_t p = 0; p < given.size; ++p) {
        const double *a = &given.vectors[3 * given.src[p]], *b = &given.vectors[3 * given.dst[p]];
        const auto dot = [](const double* x, const double* y) {
            return x[0] * y[0] + x[1] * y[1] + x[2] * y[2];
        };
        CHECK(std::fabs(given.cosines[p] + dot(a, b) / std::sqrt(dot(a, a) * dot(b, b))) < 1e-14);
        CHECK(std::fabs(given.cosines[p]) <= 1);
    }
    CHECK(has_slopes(given, given.vectors, given.grad_vectors, 1e-5, 1e-8));
}

template <typename T>
void threads_and_devices_do_not_matter() {
    Pairs<T> alone(1000, 40000), together(1000, 40000), on_gpu(1000, 40000);
    smoacs::cpu::set_num_threads(1);
    alone.run();
    smoacs::cpu::set_num_threads(5);
    together.run();
    smoacs::cpu::set_num_threads(0);
    CHECK(alone.cosines == together.cosines && alone.grad_vectors == together.grad_vectors);
    on_gpu.run_on_gpu();
    CHECK(alone.cosines == on_gpu.cosines && alone.grad_vectors == on_gpu.grad_vectors);
}

// Pair 3 is none; pairs 7 and 20 have an end that is not there, as a GPU may find them; bond 5 has
// no length.
void pairs_follow_bonds_only() {
    Pairs<double> given(11, 60);
    const std::int64_t wrong = std::int64_t{1} << 40;
    std::fill_n(&given.vectors[15], 3, 0.0);
    given.src[3] = given.dst[3] = 11;
    std::vector<std::int64_t> src = given.src, dst = given.dst;
    src[7] = dst[20] = 11;
    given.src[7] = wrong;
    given.dst[20] = -wrong;
    given.grad[3] = NAN;
    given.sort(src, dst);
    given.run();
    for (std::int64_t p = 0; p < given.size; ++p) {
        CHECK(std::isnan(given.cosines[p]) == (p == 7 || p == 20));
        if (p == 3 || given.src[p] == 5 || given.dst[p] == 5) CHECK(given.cosines[p] == 0);
    }
    for (std::int64_t i = 0; i < 3 * given.bonds; ++i) {
        const bool touched = i / 3 == given.dst[7] || i / 3 == given.src[20];
        CHECK(std::isnan(given.grad_vectors[i]) == touched);
        if (i / 3 == 5) CHECK(given.grad_vectors[i] == 0);
    }
}

void no_pairs_and_no_bonds() {
    Pairs<float> lonely(3, 0), nothing(0, 0);
    lonely.run();
    nothing.run();
    for (float x : lonely.grad_vectors) CHECK(x == 0);
}

}  // namespace

int main() {
    cosines_follow_the_formula();
    threads_and_devices_do_not_matter<float>();
    threads_and_devices_do_not_matter<double>();
    pairs_follow_bonds_only();
    no_pairs_and_no_bonds();
    return 0;
}
