// exp_nonpositive against the C library in double precision.
#include <cmath>
#include <limits>

#include "check.h"
#include "core/math.h"

int main() {
    using smoacs::exp_nonpositive;
    double worst = 0;
    for (float x = -87.0f; x <= 0.0f; x += 1.7e-4f) {
        const double exact = std::exp(static_cast<double>(x));
        worst = std::fmax(worst, std::fabs(exp_nonpositive(x) - exact) / exact);
    }
    std::printf("largest relative error of exp_nonpositive: %.3g\n", worst);
    CHECK(worst < 1.5e-7);
    CHECK(exp_nonpositive(0.0f) == 1.0f);
    CHECK(exp_nonpositive(-0.0f) == 1.0f);
    CHECK(exp_nonpositive(-87.1f) == 0.0f);
    CHECK(exp_nonpositive(-3e38f) == 0.0f);
    CHECK(exp_nonpositive(-std::numeric_limits<float>::infinity()) == 0.0f);
    CHECK(exp_nonpositive(-std::numeric_limits<double>::infinity()) == 0.0);
}
