// The tensors of a step as memory, and the passes over it.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kernels.h"
#include "layout.h"
#include "parallel.h"

namespace sgdm {

enum class Format : unsigned char { half, brain, single, wide };

constexpr std::int64_t size_of(Format format) {
    return format == Format::wide ? 8 : format == Format::single ? 4 : 2;
}

// What is done to the tensors of one part of the plan.
struct Rule {
    double coupled_decay, retain, gain, buffer_weight, gradient_weight, keep, step;
    Buffer buffer;
    bool maximize;
    double average_weight;

    bool fits_float() const;  // no coefficient is too large
    Terms terms(double scale) const;
    template <class T>
    Scalars<T> scalars(double scale) const;
};

struct Operand {
    char* data = nullptr;  // nullptr: there is none
    Format format = Format::single;
    const Walk* walk = nullptr;  // nullptr: it lies as the parameter does
};

// One tensor's step. Elements are numbered as the parameter lies in memory.
struct Update {
    Operand p, g, b, a;
    std::int64_t count;
    const Rule* rule;
};

struct GradientSquares {
    std::vector<double> partial_sums;      // of fixed pieces of each tensor: threads change nothing
    std::optional<std::size_t> nonfinite;  // the first tensor with an element that is not finite
};

struct Threads {
    Team team;
    int count;
};

GradientSquares gradient_squares(const Kernels&, const std::vector<Update>&, Threads);

// Writes every p, b and a. The gradients are multiplied by `scale` first.
void step(const Kernels&, const std::vector<Update>&, double scale, Threads);

// Moves what a step moves and computes next to nothing: p, b and a are overwritten, g is read; and
// read once before, as for its norm, if asked to. Returns what was seen of g, so that no compiler
// leaves the reading out.
std::uint32_t bare_pass(const Kernels&, const std::vector<Update>&, bool reads_before, Threads);

}  // namespace sgdm
