// Number of OpenMP threads that the CPU kernels use.
#pragma once

namespace smoacs::cpu {

// Sets the number of threads of later kernel calls; n < 1 restores OpenMP's own default.
void set_num_threads(int n);

// Threads that a kernel with `work` independent pieces should use: at least 1.
int num_threads(long long work);

// Threads that a kernel with plenty of work uses.
int num_threads();

}  // namespace smoacs::cpu
