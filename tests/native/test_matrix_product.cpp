// Matrix products on exactly sized buffers, with each set of instructions that this processor has.
#include <cmath>
#include <vector>

#include "check.h"
#include "cpu/matrix_product.h"
#include "cpu/threads.h"

namespace {

using smoacs::cpu::Instructions;

template <typename T>
std::vector<T> waves(std::int64_t n, double start) {
    std::vector<T> values(n);
    for (std::int64_t i = 0; i < n; ++i) values[i] = T(std::sin(start + 1.7 * i));
    return values;
}

// `matrices` products of (n, k) by (k, m); b is stored by columns if `transposed`.
template <typename T>
std::vector<T> product(std::int64_t matrices, std::int64_t n, std::int64_t k, std::int64_t m,
                       bool transposed, bool has_bias, Instructions instructions) {
    const auto a = waves<T>(matrices * n * k, 0.1), b = waves<T>(matrices * k * m, 0.2);
    const auto bias = waves<T>(m, 0.3);
    std::vector<T> out(matrices * n * m, T(NAN));
    const std::int64_t row = transposed ? 1 : m, column = transposed ? k : 1;
    smoacs::cpu::matrix_product<T>({matrices,
                                    n,
                                    k,
                                    m,
                                    {a.data(), n * k, k, 1},
                                    {b.data(), k * m, row, column},
                                    has_bias ? bias.data() : nullptr,
                                    out.data()},
                                   instructions);
    for (std::int64_t i = 0; i < matrices * n; ++i) {
        for (std::int64_t j = 0; j < m; ++j) {
            double sum = has_bias ? double(bias[j]) : 0.0;
            for (std::int64_t l = 0; l < k; ++l) {
                const T factor = b[i / n * k * m + l * row + j * column];
                sum += double(a[i * k + l]) * double(factor);
            }
            CHECK(std::fabs(out[i * m + j] - sum) < (sizeof(T) == 4 ? 1e-5 : 1e-13) * (k + 1));
        }
    }
    return out;
}

template <typename T>
void products_follow_the_formula() {
    const Instructions best = smoacs::cpu::best_instructions();
    for (const std::int64_t m : {0, 1, 3, 16, 33, 64, 100}) {
        for (const std::int64_t n : {0, 1, 6, 97, 200}) {
            for (const std::int64_t k : {0, 1, 17, 513}) {
                for (const bool flag : {false, true}) {
                    const auto with = [&](Instructions instructions, int threads) {
                        smoacs::cpu::set_num_threads(threads);
                        return product<T>(k < 17 ? 3 : 1, n, k, m, flag, flag, instructions);
                    };
                    with(Instructions::plain, 1);
                    if (best == Instructions::plain) continue;
                    const auto out = with(Instructions::avx2, 1);
                    CHECK(out == with(best, 1));
                    CHECK(out == with(best, 3));
                }
            }
        }
    }
}

}  // namespace

int main() {
    products_follow_the_formula<float>();
    products_follow_the_formula<double>();
    return 0;
}
