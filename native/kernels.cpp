// The loops for one instruction set, SGDM_ISA, chosen by the compiler's flags. The compiler
// vectorises them; nothing here but the conversion of float16 is written for a processor.
#include "kernels.h"

#ifdef __F16C__
#include <immintrin.h>
#endif

namespace sgdm {
namespace {

#ifdef __aarch64__
using Half = __fp16;  // g++ has the other name since version 13
#else
using Half = _Float16;
#endif

constexpr std::size_t kLanes = 16;  // of the sums, on every processor

template <class T, bool scaled, bool decays, bool keeps>
constexpr void fill_shapes(typename Loops<T>::Step* row) {
    using L = Loops<T>;
    row[0] = step_elements<T, scaled, decays, keeps, Buffer::none, Move::gradient>;
#define SGDM_SHAPE(buffer, move) \
    row[L::shape_of(buffer, move)] = step_elements<T, scaled, decays, keeps, buffer, move>
    SGDM_SHAPE(Buffer::first, Move::gradient);
    SGDM_SHAPE(Buffer::first, Move::buffer);
    SGDM_SHAPE(Buffer::first, Move::both);
    SGDM_SHAPE(Buffer::running, Move::gradient);
    SGDM_SHAPE(Buffer::running, Move::buffer);
    SGDM_SHAPE(Buffer::running, Move::both);
#undef SGDM_SHAPE
}

template <class T>
Squares squares_of(std::size_t n, const T* x) {
    double sums[kLanes] = {};
    std::size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        // One stream alone is not fetched ahead far enough: 100 MB in 6.1 ms without this, in 4.3
        // with it (two cores; of distances from 256 to 2048 elements, 1024 was the best).
        __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(x + i) +
                                                         1024 * sizeof(T)));
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
            const double value = x[i + lane];
            sums[lane] += value * value;  // of float, the product is exact
        }
    }
    for (std::size_t lane = 0; i + lane < n; ++lane) {
        const double value = x[i + lane];
        sums[lane] += value * value;
    }
    for (std::size_t half = kLanes / 2; half > 0; half /= 2)
        for (std::size_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
    if (__builtin_isfinite(sums[0])) return {sums[0], true};
    for (i = 0; i < n; ++i)
        if (!__builtin_isfinite(x[i])) return {sums[0], false};
    return {sums[0], true};  // finite, and too large to be squared
}

template <class T>
constexpr Loops<T> loops() {
    Loops<T> table{};
    fill_shapes<T, false, false, false>(table.steps[0][0][0]);
    fill_shapes<T, false, false, true>(table.steps[0][0][1]);
    fill_shapes<T, false, true, false>(table.steps[0][1][0]);
    fill_shapes<T, false, true, true>(table.steps[0][1][1]);
    fill_shapes<T, true, false, false>(table.steps[1][0][0]);
    fill_shapes<T, true, false, true>(table.steps[1][0][1]);
    fill_shapes<T, true, true, false>(table.steps[1][1][0]);
    fill_shapes<T, true, true, true>(table.steps[1][1][1]);
    table.average = average_elements<T>;
    table.squares = squares_of<T>;
    return table;
}

void widen_half(std::size_t n, const std::uint16_t* __restrict from, float* __restrict to) {
    std::size_t i = 0;
#ifdef __F16C__
    for (; i + 8 <= n; i += 8) {
        const __m128i narrow = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(narrow));
    }
#endif
    for (; i < n; ++i) {
        Half value;
        __builtin_memcpy(&value, from + i, sizeof value);
        to[i] = static_cast<float>(value);
    }
}

void narrow_half(std::size_t n, const float* __restrict from, std::uint16_t* __restrict to) {
    std::size_t i = 0;
#ifdef __F16C__
    for (; i + 8 <= n; i += 8) {
        const __m256 wide = _mm256_loadu_ps(from + i);
        const __m128i narrow =
            _mm256_cvtps_ph(wide, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), narrow);
    }
#endif
    for (; i < n; ++i) {
        const Half value = static_cast<Half>(from[i]);
        __builtin_memcpy(to + i, &value, sizeof value);
    }
}

void widen_brain(std::size_t n, const std::uint16_t* __restrict from, float* __restrict to) {
    for (std::size_t i = 0; i < n; ++i) {
        const std::uint32_t bits = std::uint32_t{from[i]} << 16;
        __builtin_memcpy(to + i, &bits, sizeof bits);
    }
}

void narrow_brain(std::size_t n, const float* __restrict from, std::uint16_t* __restrict to) {
    for (std::size_t i = 0; i < n; ++i) {
        std::uint32_t bits;
        __builtin_memcpy(&bits, from + i, sizeof bits);
        const std::uint32_t rounded = bits + 0x7FFFu + ((bits >> 16) & 1u);
        const bool is_nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
        to[i] = static_cast<std::uint16_t>(is_nan ? 0x7FC0u : rounded >> 16);
    }
}

// Word i of elements that may be of 16 bits, and begin in the middle of a word.
std::uint32_t word_of(const void* x, std::size_t i) {
    std::uint32_t word;
    __builtin_memcpy(&word, static_cast<const char*>(x) + 4 * i, sizeof word);
    return word;
}

void put_word(void* x, std::size_t i, std::uint32_t word) {
    __builtin_memcpy(static_cast<char*>(x) + 4 * i, &word, sizeof word);
}

void rewrite(std::size_t words, void* x) {
    for (std::size_t i = 0; i < words; ++i) put_word(x, i, ~word_of(x, i));
}

void rewrite_two(std::size_t words, void* __restrict x, const void* __restrict read,
                 void* __restrict y) {
    for (std::size_t i = 0; i < words; ++i) {
        put_word(y, i, word_of(y, i) ^ word_of(read, i));
        put_word(x, i, ~word_of(x, i));
    }
}

std::uint32_t look(std::size_t words, const void* x) {
    std::uint32_t seen = 0;
    for (std::size_t i = 0; i < words; ++i) seen ^= word_of(x, i);
    return seen;
}

}  // namespace

#define SGDM_JOIN_(a, b) a##b
#define SGDM_JOIN(a, b) SGDM_JOIN_(a, b)
#define SGDM_TEXT_(a) #a
#define SGDM_TEXT(a) SGDM_TEXT_(a)

const Kernels SGDM_JOIN(kernels_, SGDM_ISA) = {
    SGDM_TEXT(SGDM_ISA),
    loops<float>(),
    loops<double>(),
    {widen_half, narrow_half},
    {widen_brain, narrow_brain},
    rewrite,
    rewrite_two,
    look,
};

}  // namespace sgdm
