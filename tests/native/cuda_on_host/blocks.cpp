// Runs the threads of a block as fibers that take turns where they wait for each other.
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <vector>
#ifdef SMOACS_SANITIZE
#include <sanitizer/common_interface_defs.h>
#endif

#include "cuda_runtime.h"

dim3 threadIdx, blockIdx, blockDim;

namespace cuda_on_host {

namespace {

constexpr unsigned kLanes = 32;
constexpr std::size_t kStackBytes = 256 * 1024;

enum class State { ready, exchanging, at_barrier, done };

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[kStackBytes]};
    State state;
    std::uint64_t sent, received;
    unsigned from;
};

std::vector<Fiber> fibers;
ucontext_t scheduler;
const std::function<void()>* running;

#ifdef SMOACS_SANITIZE
const void* scheduler_stack;
std::size_t scheduler_bytes;
#endif

// The address sanitizer must know on which stack the program is.
void switch_stack(ucontext_t* from, ucontext_t* to, bool for_good, const void* stack,
                  std::size_t bytes) {
#ifdef SMOACS_SANITIZE
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fake, stack, bytes);
    swapcontext(from, to);
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
    (void)for_good, (void)stack, (void)bytes;
    swapcontext(from, to);
#endif
}

void pause(State state) {
    Fiber& fiber = fibers[threadIdx.x];
    fiber.state = state;
#ifdef SMOACS_SANITIZE
    switch_stack(&fiber.context, &scheduler, state == State::done, scheduler_stack,
                 scheduler_bytes);
#else
    switch_stack(&fiber.context, &scheduler, false, nullptr, 0);
#endif
}

void run_thread() {
#ifdef SMOACS_SANITIZE
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_bytes);
#endif
    (*running)();
    pause(State::done);
}

void prepare(Fiber& fiber) {
    fiber.state = State::ready;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run_thread, 0);
}

void resume(unsigned number) {
    threadIdx.x = number;
    Fiber& fiber = fibers[number];
    switch_stack(&scheduler, &fiber.context, false, fiber.stack.get(), kStackBytes);
}

bool all_are(State state, unsigned first, unsigned last) {
    for (unsigned i = first; i < last; ++i) {
        if (fibers[i].state != state) return false;
    }
    return true;
}

// Lets threads go on that have waited for each other; false if there are none.
bool meet(unsigned n_threads) {
    bool any = false;
    for (unsigned first = 0; first < n_threads; first += kLanes) {
        if (!all_are(State::exchanging, first, first + kLanes)) continue;
        for (unsigned i = first; i < first + kLanes; ++i) {
            fibers[i].received = fibers[first + fibers[i].from].sent;
            fibers[i].state = State::ready;
        }
        any = true;
    }
    if (!all_are(State::at_barrier, 0, n_threads)) return any;
    for (unsigned i = 0; i < n_threads; ++i) fibers[i].state = State::ready;
    return true;
}

}  // namespace

std::uint64_t exchange(std::uint64_t value, unsigned from) {
    Fiber& fiber = fibers[threadIdx.x];
    fiber.sent = value;
    fiber.from = from;
    pause(State::exchanging);
    return fiber.received;
}

void run(unsigned n_blocks, unsigned n_threads, const std::function<void()>& kernel) {
    static std::mt19937 random;
    if (fibers.size() < n_threads) fibers.resize(n_threads);
    running = &kernel;
    blockDim.x = n_threads;
    std::vector<unsigned> blocks(n_blocks), threads(n_threads);
    std::iota(blocks.begin(), blocks.end(), 0u);
    std::iota(threads.begin(), threads.end(), 0u);
    std::shuffle(blocks.begin(), blocks.end(), random);
    for (const unsigned number : blocks) {
        blockIdx.x = number;
        for (unsigned i = 0; i < n_threads; ++i) prepare(fibers[i]);
        while (true) {
            std::shuffle(threads.begin(), threads.end(), random);
            for (const unsigned i : threads) {
                if (fibers[i].state == State::ready) resume(i);
            }
            if (all_are(State::done, 0, n_threads)) break;
            if (!meet(n_threads)) {
                std::fprintf(stderr, "threads of a block wait for others that never come\n");
                std::abort();
            }
        }
    }
}

}  // namespace cuda_on_host

void __syncthreads() {
    cuda_on_host::pause(cuda_on_host::State::at_barrier);
}
