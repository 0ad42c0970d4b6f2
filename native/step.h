// The step, once. No Python, no threads, no storage formats: numbers of one type in, numbers out.
//
//     d = fma(p, coupled_decay, ±round(scale * g))                    - where it is maximised
//     b = fma(d, gain, round(retain * b))        first step: b = gain * d
//     u = fma(b, buffer_weight, round(gradient_weight * d))
//     p = fma(u, step, round(keep * p))
//
// A term whose coefficient leaves its operand as it is (coupled_decay 0, buffer_weight 0,
// gradient_weight 0, keep 1) is not evaluated at all: 0 * inf would be NaN.
// Every fma is one rounding on every processor; the files that include this are compiled with
// -ffp-contract=off, so that no other one appears.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace sgdm {

// Whether the step has a buffer: none that it touches, one that it makes, one that it goes on with.
enum class Buffer : unsigned char { none, first, running };

// What u is made of.
enum class Move : unsigned char { gradient, buffer, both };

// The terms that are evaluated.
struct Terms {
    bool scaled;  // or maximised
    bool decays;
    bool keeps;  // keep is not 1
    Buffer buffer;
    Move move;
};

template <class T>
using BitsOf = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;

// The coefficients, rounded once to the type of the arithmetic.
template <class T>
struct Scalars {
    BitsOf<T> sign;  // the sign bit where the gradient is negated, else 0
    T scale, coupled_decay, retain, gain, buffer_weight, gradient_weight, keep, step;
};

namespace {  // one copy for each instruction set: an inline function may be compiled for only one

inline float fma_of(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double fma_of(double a, double b, double c) { return __builtin_fma(a, b, c); }

// Negates where `sign` is the sign bit. A minus would be folded into the fma that follows, and the
// sign of a NaN, which torch's own negation turns, would stay.
template <class T>
inline T with_sign(T x, BitsOf<T> sign) {
    BitsOf<T> bits;
    __builtin_memcpy(&bits, &x, sizeof x);
    bits ^= sign;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
}

// Steps n elements. p and b are read and written; b is not read where the buffer is `first`.
template <class T, bool scaled, bool decays, bool keeps, Buffer buffer, Move move>
void step_elements(const Scalars<T>& scalars, std::size_t n, T* __restrict p,
                   const T* __restrict g, T* __restrict b) {
    const Scalars<T> c = scalars;
    for (std::size_t i = 0; i < n; ++i) {
        T d = g[i];
        if constexpr (scaled) {
            d = with_sign(c.scale * d, c.sign);
        }
        if constexpr (decays) d = fma_of(p[i], c.coupled_decay, d);

        T velocity{};
        if constexpr (buffer == Buffer::first) velocity = c.gain * d;
        if constexpr (buffer == Buffer::running) velocity = fma_of(d, c.gain, c.retain * b[i]);
        if constexpr (buffer != Buffer::none) b[i] = velocity;

        T u;
        if constexpr (move == Move::gradient) u = c.gradient_weight * d;
        if constexpr (move == Move::buffer) u = c.buffer_weight * velocity;
        if constexpr (move == Move::both)
            u = fma_of(velocity, c.buffer_weight, c.gradient_weight * d);

        p[i] = fma_of(u, c.step, keeps ? c.keep * p[i] : p[i]);
    }
}

// Moves the average of the parameters: a + weight * (p - a), rounded as torch.lerp rounds it.
template <class T>
void average_elements(T weight, std::size_t n, const T* __restrict p, T* __restrict a) {
    if (weight < T(0.5)) {
        for (std::size_t i = 0; i < n; ++i) a[i] = fma_of(weight, p[i] - a[i], a[i]);
    } else {
        for (std::size_t i = 0; i < n; ++i) a[i] = fma_of(weight - T(1), p[i] - a[i], p[i]);
    }
}

}  // namespace
}  // namespace sgdm
