// Where the elements of a tensor lie: whether they fill their memory, in which order, and whether
// tensors share any of it. Shapes and strides count elements.
#pragma once

#include <cstdint>
#include <vector>

namespace sgdm {

struct Shape {
    int ndim;
    const std::int64_t* sizes;
    const std::int64_t* strides;
};

std::int64_t count_of(const Shape& shape);

// Whether element i of one lies where element i of the other does, for every i.
bool same_strides(const Shape& a, const Shape& b);

// Whether the elements fill count_of(shape) places, each its own, in any order of dimensions.
bool is_dense(const Shape& shape);

// How far the farthest element lies from the first. No stride is negative.
std::int64_t extent_of(const Shape& shape);

// The places of one tensor's elements, in the order in which another, dense one lies in memory.
class Walk {
  public:
    Walk(const Shape& order, const Shape& walked);

    // Whether neighbours are one and the same element.
    bool repeats() const { return !strides_.empty() && strides_.back() == 0; }

    // Calls run(place, stride, n) for the elements from `begin` to `end`, in runs of equal stride.
    template <class Run>
    void over(std::int64_t begin, std::int64_t end, Run run) const {
        if (sizes_.empty()) {
            if (begin < end) run(std::int64_t{0}, std::int64_t{0}, end - begin);
            return;
        }
        const std::size_t inner = sizes_.size() - 1;
        while (begin < end) {
            std::int64_t rest = begin, place = 0;
            for (std::size_t i = sizes_.size(); i-- > 0;) {
                place += rest % sizes_[i] * strides_[i];
                rest /= sizes_[i];
            }
            const std::int64_t left = sizes_[inner] - begin % sizes_[inner];
            const std::int64_t n = left < end - begin ? left : end - begin;
            run(place, strides_[inner], n);
            begin += n;
        }
    }

  private:
    std::vector<std::int64_t> sizes_;  // slowest first, in the order of the dense tensor
    std::vector<std::int64_t> strides_;
};

// A stretch of memory that a step reads, or reads and writes.
struct Stretch {
    std::uintptr_t begin, end;
    bool written;
};

// Whether a written stretch shares memory with any other. `order` is how they were sorted the last
// time: from one step to the next it seldom changes, and to look is cheaper than to sort.
bool any_overlap(const std::vector<Stretch>& stretches, std::vector<std::uint32_t>& order);

}  // namespace sgdm
