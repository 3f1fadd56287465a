// Our functions against the C library.
#include <cmath>
#include <initializer_list>
#include <limits>

#include "check.h"
#include "core/math.h"

namespace {

// Numbers of double precision, in units of the result's last place.
void double_precision() {
    double exponential = 0, logarithm = 0, circle = 0;
    for (int i = 0; i <= 1000000; ++i) {
        const double x = -1021.5e-6 * i;
        for (const double exponent : {x, -x}) {
            const double power = std::exp2(exponent);
            const double error = std::fabs(smoacs::exp2_normal(exponent) - power);
            exponential = std::fmax(exponential, error / power);
        }
        // Near 1 as well as near 0, where random numbers are.
        for (const double y : {1e-6 * i + 1e-9, std::ldexp(1.0, -53) * (i + 1)}) {
            const double exact = std::log(y);
            const double error = std::fabs(smoacs::log_positive(y) - exact);
            if (error > 0) logarithm = std::fmax(logarithm, error / std::fabs(exact));
        }
        const double angle = 6.283185307179586e-6 * i;
        double cosine, sine;
        smoacs::cos_sin(angle, &cosine, &sine);
        circle = std::fmax(circle, std::fabs(cosine - std::cos(angle)));
        circle = std::fmax(circle, std::fabs(sine - std::sin(angle)));
    }
    std::printf("largest errors of exp, log, cos and sin in double precision: %.3g %.3g %.3g\n",
                exponential, logarithm, circle);
    CHECK(exponential < 3e-16);
    CHECK(logarithm < 3e-16);
    CHECK(circle < 2.3e-16);
    CHECK(smoacs::log_positive(1.0) == 0.0);
}

// 2^x from the lowest exponent on, and what comes before.
template <typename T>
void powers_of_two(T lowest, double tolerance) {
    double worst = 0;
    for (int i = 0; i <= 1000000; ++i) {
        const T x = lowest * T(1e-6 * i);
        const double exact = std::exp2(static_cast<double>(x));
        worst = std::fmax(worst, std::fabs(smoacs::exp2_nonpositive(x) - exact) / exact);
    }
    std::printf("largest relative error of exp2_nonpositive: %.3g\n", worst);
    CHECK(worst < tolerance);
    CHECK(smoacs::exp2_nonpositive(T(0)) == 1);
    CHECK(smoacs::exp2_nonpositive(-T(0)) == 1);
    CHECK(smoacs::exp2_nonpositive(lowest * T(1.001)) == 0);
    CHECK(smoacs::exp2_nonpositive(-std::numeric_limits<T>::max()) == 0);
    CHECK(smoacs::exp2_nonpositive(-std::numeric_limits<T>::infinity()) == 0);
}

}  // namespace

int main() {
    double worst = 0;
    for (float x = -125.5f; x <= 125.5f; x += 1.7e-4f) {
        const double exact = std::exp2(static_cast<double>(x));
        worst = std::fmax(worst, std::fabs(smoacs::exp2_normal(x) - exact) / exact);
    }
    std::printf("largest relative error of exp2_normal: %.3g\n", worst);
    CHECK(worst < 1e-7);
    powers_of_two(-125.4f, 1e-7);
    powers_of_two(-1021.4, 3e-16);
    double_precision();
}
