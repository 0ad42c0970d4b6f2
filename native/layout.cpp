#include "layout.h"

#include <algorithm>
#include <numeric>

namespace sgdm {
namespace {

// The dimensions that have more than one element, slowest first.
std::vector<int> by_stride(const Shape& shape) {
    std::vector<int> dims;
    for (int i = 0; i < shape.ndim; ++i)
        if (shape.sizes[i] != 1) dims.push_back(i);
    std::stable_sort(dims.begin(), dims.end(),
                     [&](int a, int b) { return shape.strides[a] > shape.strides[b]; });
    return dims;
}

}  // namespace

std::int64_t count_of(const Shape& shape) {
    std::int64_t n = 1;
    for (int i = 0; i < shape.ndim; ++i) n *= shape.sizes[i];
    return n;
}

bool same_strides(const Shape& a, const Shape& b) {
    for (int i = 0; i < a.ndim; ++i)
        if (a.sizes[i] != 1 && a.strides[i] != b.strides[i]) return false;
    return true;
}

bool is_dense(const Shape& shape) {
    if (count_of(shape) == 0) return true;
    std::int64_t expected = 1;
    int i = shape.ndim;
    while (i > 0 && (shape.sizes[i - 1] == 1 || shape.strides[i - 1] == expected))
        expected *= shape.sizes[--i];
    if (i == 0) return true;  // contiguous, as most are

    expected = 1;
    const std::vector<int> dims = by_stride(shape);
    for (auto dim = dims.rbegin(); dim != dims.rend(); ++dim) {
        if (shape.strides[*dim] != expected) return false;
        expected *= shape.sizes[*dim];
    }
    return true;
}

std::int64_t extent_of(const Shape& shape) {
    std::int64_t farthest = 0;
    for (int i = 0; i < shape.ndim; ++i) farthest += (shape.sizes[i] - 1) * shape.strides[i];
    return farthest;
}

Walk::Walk(const Shape& order, const Shape& walked) {
    for (int dim : by_stride(order)) {
        const std::int64_t size = walked.sizes[dim], stride = walked.strides[dim];
        if (!sizes_.empty() && strides_.back() == size * stride) {
            sizes_.back() *= size;  // runs on where the slower dimension goes on
            strides_.back() = stride;
        } else {
            sizes_.push_back(size);
            strides_.push_back(stride);
        }
    }
}

bool any_overlap(const std::vector<Stretch>& stretches, std::vector<std::uint32_t>& order) {
    const std::size_t n = stretches.size();
    if (order.size() != n) {
        order.resize(n);
        std::iota(order.begin(), order.end(), 0U);
    }
    const auto earlier = [&](std::uint32_t a, std::uint32_t b) {
        return stretches[a].begin < stretches[b].begin;
    };
    if (!std::is_sorted(order.begin(), order.end(), earlier))
        std::sort(order.begin(), order.end(), earlier);
    std::uintptr_t written_end = 0, any_end = 0;
    for (std::uint32_t i : order) {
        const Stretch& s = stretches[i];
        if (s.begin < (s.written ? any_end : written_end)) return true;
        any_end = std::max(any_end, s.end);
        if (s.written) written_end = std::max(written_end, s.end);
    }
    return false;
}

}  // namespace sgdm
