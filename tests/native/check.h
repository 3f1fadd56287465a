// What the C++ unit tests share. Unlike assert, CHECK also works in release builds.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <vector>

#define CHECK(condition)                                                                \
    do {                                                                                \
        if (!(condition)) {                                                             \
            std::fprintf(stderr, "%s:%d: %s failed\n", __FILE__, __LINE__, #condition); \
            std::exit(1);                                                               \
        }                                                                               \
    } while (false)

// Whether central differences of given.objective() with respect to x, one of its members, are this
// gradient.
template <typename Case>
bool has_slopes(Case& given, std::vector<double>& x, const std::vector<double>& gradient,
                double step, double tolerance) {
    for (std::size_t i = 0; i < x.size(); ++i) {
        const double kept = x[i];
        x[i] = kept + step;
        const double above = given.objective();
        x[i] = kept - step;
        const double below = given.objective();
        x[i] = kept;
        if (!(std::fabs((above - below) / (2 * step) - gradient[i]) < tolerance)) return false;
    }
    return true;
}
