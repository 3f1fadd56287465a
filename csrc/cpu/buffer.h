// Memory for results of unknown size.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <type_traits>

#include "cpu/memory.h"

namespace smoacs::cpu {

// A growing array that does not clear what it allocates. It starts at a cache line, and a large one
// fills large pages.
template <typename T>
class Buffer {
    static_assert(std::is_trivially_copyable_v<T>);

  public:
    std::int64_t size() const { return size_; }
    std::int64_t capacity() const { return capacity_; }
    T* data() { return data_.get(); }
    const T* data() const { return data_.get(); }
    T& operator[](std::int64_t i) { return data_[i]; }
    const T& operator[](std::int64_t i) const { return data_[i]; }

    // Room for at least n elements in all; keeps those there are.
    void reserve(std::int64_t n) {
        if (n <= capacity_) return;
        capacity_ = n;
        std::unique_ptr<T[], Free> grown(static_cast<T*>(allocate_aligned(n * sizeof(T))));
        std::copy_n(data_.get(), size_, grown.get());
        data_ = std::move(grown);
    }

    // Sets the size; new elements are arbitrary. Returns the first element.
    T* resize(std::int64_t n) {
        if (n > capacity_) reserve(n + n / 2);
        size_ = n;
        return data();
    }

    void clear() { size_ = 0; }
    void push_back(T value) {
        resize(size_ + 1);
        data_[size_ - 1] = value;
    }

  private:
    struct Free {
        void operator()(T* memory) const { std::free(memory); }
    };

    std::unique_ptr<T[], Free> data_;
    std::int64_t size_ = 0, capacity_ = 0;
};

}  // namespace smoacs::cpu
