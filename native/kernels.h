// The loops of one instruction set, as a table. kernels.cpp is compiled once for each.
#pragma once

#include <cstddef>
#include <cstdint>

#include "step.h"

namespace sgdm {

// Sum of squares in double, in an order that depends on the elements only.
struct Squares {
    double sum;
    bool finite;  // every element, whether or not the sum overflowed
};

template <class T>
struct Loops {
    using Step = void (*)(const Scalars<T>&, std::size_t, T*, const T*, T*);

    Step steps[2][2][2][7];  // scaled, decays, keeps, shape_of(buffer, move)
    void (*average)(T weight, std::size_t n, const T* p, T* a);
    Squares (*squares)(std::size_t n, const T* x);

    Step step(const Terms& t) const {
        return steps[t.scaled][t.decays][t.keeps][shape_of(t.buffer, t.move)];
    }

    static constexpr int shape_of(Buffer buffer, Move move) {
        if (buffer == Buffer::none) return 0;
        return 1 + 3 * (buffer == Buffer::running) + static_cast<int>(move);
    }
};

// Between a 16-bit storage format and float; narrowing rounds to nearest, ties to even.
struct Conversion {
    void (*widen)(std::size_t n, const std::uint16_t* from, float* to);
    void (*narrow)(std::size_t n, const float* from, std::uint16_t* to);
};

struct Kernels {
    const char* name;
    Loops<float> single;
    Loops<double> wide;
    Conversion half;
    Conversion brain;
    // What a pass over memory costs that computes next to nothing.
    void (*rewrite)(std::size_t words, void* x);
    void (*rewrite_two)(std::size_t words, void* x, const void* read, void* y);
    std::uint32_t (*look)(std::size_t words, const void* x);
};

extern const Kernels kernels_baseline;
#ifdef SGDM_X86
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

}  // namespace sgdm
