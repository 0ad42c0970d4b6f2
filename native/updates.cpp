#include "updates.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace sgdm {
namespace {

// A norm is summed in pieces of this many elements.
constexpr std::int64_t kPiece = 1 << 14;
// A thread takes pieces of at least so many elements in all before it asks for more work.
constexpr std::int64_t kTask = 1 << 14;
// Below so many elements in all, or in a tensor on the average, one thread is faster. Waking others
// costs more than they bring, and while they wait for the next work they slow down the thread that
// prepares it: 1000 tensors of 256 take 750 us a step with one thread, 1100 with two.
constexpr std::int64_t kSerial = 1 << 15;
constexpr std::int64_t kSerialPerTensor = 1 << 10;
// What is not stepped in place goes through the cache in blocks of this many elements, and memory is
// asked for what lies so much farther on. 50 million elements of bfloat16 with a float buffer take
// 16.5 ms so, 20.5 without asking, 23.3 in blocks of 1024; a bare pass, 16.0.
constexpr std::int64_t kBlock = 1 << 8;
constexpr std::int64_t kAhead = 2 * kBlock;
// And what is only read, in such.
constexpr std::int64_t kNormBlock = 1 << 12;

struct Piece {
    std::size_t update;
    std::int64_t begin, end;
};

// The work, cut into pieces, and the pieces gathered into tasks of about equal size.
struct Work {
    std::vector<Piece> pieces;
    std::vector<std::size_t> tasks;  // where each begins, and the end of the last
    std::int64_t elements = 0, tensors;

    explicit Work(const std::vector<Update>& updates)
        : tensors(static_cast<std::int64_t>(updates.size())) {
        std::int64_t gathered = kTask;
        for (std::size_t i = 0; i < updates.size(); ++i) {
            for (std::int64_t begin = 0; begin < updates[i].count; begin += kPiece) {
                const std::int64_t end = std::min(begin + kPiece, updates[i].count);
                if (gathered >= kTask) {
                    tasks.push_back(pieces.size());
                    gathered = 0;
                }
                pieces.push_back({i, begin, end});
                gathered += end - begin;
                elements += end - begin;
            }
        }
        tasks.push_back(pieces.size());
    }

    template <class Visit>  // visit(index of the piece, piece)
    void run(Threads threads, const Visit& visit) const {
        const bool serial = elements < kSerial || elements < kSerialPerTensor * tensors;
        const int count = serial ? 1 : threads.count;
        const auto tasks_count = static_cast<std::int64_t>(tasks.size()) - 1;
        parallel_for(threads.team, count, tasks_count, [&](std::int64_t task) {
            const auto t = static_cast<std::size_t>(task);
            for (std::size_t i = tasks[t]; i < tasks[t + 1]; ++i) visit(i, pieces[i]);
        });
    }
};

// The type of the arithmetic: float for everything but float64.
template <class T>
constexpr Format kOwn = sizeof(T) == 8 ? Format::wide : Format::single;
const Loops<float>& loops_of(const Kernels& kernels, float) { return kernels.single; }
const Loops<double>& loops_of(const Kernels& kernels, double) { return kernels.wide; }

const Conversion& conversion_of(const Kernels& kernels, Format format) {
    return format == Format::half ? kernels.half : kernels.brain;
}

template <class T>
bool is_direct(const Operand& x) {
    return x.walk == nullptr && x.format == kOwn<T>;
}

void convert_in(const Kernels& kernels, Format format, std::size_t n, const void* from, float* to) {
    if (format == Format::single) {
        std::memcpy(to, from, n * sizeof(float));
    } else {
        conversion_of(kernels, format).widen(n, static_cast<const std::uint16_t*>(from), to);
    }
}

void convert_in(const Kernels&, Format, std::size_t n, const void* from, double* to) {
    std::memcpy(to, from, n * sizeof(double));
}

void convert_out(const Kernels& kernels, Format format, std::size_t n, const float* from,
                 void* to) {
    if (format == Format::single) {
        std::memcpy(to, from, n * sizeof(float));
    } else {
        conversion_of(kernels, format).narrow(n, from, static_cast<std::uint16_t*>(to));
    }
}

void convert_out(const Kernels&, Format, std::size_t n, const double* from, void* to) {
    std::memcpy(to, from, n * sizeof(double));
}

// Copies elements between their places and a row of n.
template <bool gathers, class Bits>
void move_elements(const Operand& x, std::int64_t begin, std::int64_t n, Bits* row) {
    Bits* base = reinterpret_cast<Bits*>(x.data);
    x.walk->over(begin, begin + n, [&](std::int64_t place, std::int64_t stride, std::int64_t run) {
        Bits* at = base + place;
        for (std::int64_t i = 0; i < run; ++i, at += stride) {
            if constexpr (gathers)
                *row++ = *at;
            else
                *at = *row++;
        }
    });
}

template <bool gathers>
void move_row(const Operand& x, std::int64_t begin, std::int64_t n, void* row) {
    switch (size_of(x.format)) {
        case 2: return move_elements<gathers>(x, begin, n, static_cast<std::uint16_t*>(row));
        case 4: return move_elements<gathers>(x, begin, n, static_cast<std::uint32_t*>(row));
        default: return move_elements<gathers>(x, begin, n, static_cast<std::uint64_t*>(row));
    }
}

// Elements [begin, begin + n) as numbers of T: where they lie, or copied into `room`.
template <class T>
T* load(const Kernels& kernels, const Operand& x, std::int64_t begin, std::int64_t n, T* room) {
    char* from = x.data + begin * size_of(x.format);
    if (is_direct<T>(x)) return reinterpret_cast<T*>(from);
    alignas(64) std::uint64_t row[kNormBlock];
    if (x.walk != nullptr) {
        move_row<true>(x, begin, n, row);
        from = reinterpret_cast<char*>(row);
    }
    convert_in(kernels, x.format, static_cast<std::size_t>(n), from, room);
    return room;
}

// Puts what `load` copied back, rounded to the operand's format.
template <class T>
void store(const Kernels& kernels, const Operand& x, std::int64_t begin, std::int64_t n,
           const T* room) {
    if (is_direct<T>(x)) return;
    const auto count = static_cast<std::size_t>(n);
    if (x.walk == nullptr) {
        convert_out(kernels, x.format, count, room, x.data + begin * size_of(x.format));
        return;
    }
    alignas(64) std::uint64_t row[kBlock];
    convert_out(kernels, x.format, count, room, row);
    move_row<false>(x, begin, n, row);
}

// Asks for a block of elements that is needed soon. Not inlined, g++ 12 takes it for a function
// without effect and drops the calls.
[[gnu::always_inline]] inline void fetch(const Operand& x, std::int64_t begin, std::int64_t count) {
    if (x.data == nullptr || x.walk != nullptr) return;
    const std::int64_t size = size_of(x.format), end = std::min(begin + kBlock, count);
    for (std::int64_t byte = begin * size; byte < end * size; byte += 64)
        __builtin_prefetch(x.data + byte);
}

template <class T>
void step_piece(const Kernels& kernels, const Update& u, const Piece& piece, double scale) {
    const Loops<T>& loops = loops_of(kernels, T{});
    const auto step = loops.step(u.rule->terms(scale));
    const Scalars<T> scalars = u.rule->scalars<T>(scale);
    const bool has_buffer = u.b.data != nullptr, has_average = u.a.data != nullptr;
    const bool reads_buffer = u.rule->buffer == Buffer::running;
    if (is_direct<T>(u.p) && is_direct<T>(u.g) && (!has_buffer || is_direct<T>(u.b)) &&
        !has_average) {
        T* b = has_buffer ? reinterpret_cast<T*>(u.b.data) + piece.begin : nullptr;
        step(scalars, static_cast<std::size_t>(piece.end - piece.begin),
             reinterpret_cast<T*>(u.p.data) + piece.begin,
             reinterpret_cast<const T*>(u.g.data) + piece.begin, b);
        return;
    }
    const T weight = static_cast<T>(u.rule->average_weight);
    alignas(64) T rooms[4][kBlock];
    for (std::int64_t begin = piece.begin; begin < piece.end; begin += kBlock) {
        const std::int64_t n = std::min(kBlock, piece.end - begin);
        const auto count = static_cast<std::size_t>(n);
        for (const Operand* x : {&u.p, &u.g, &u.b, &u.a}) fetch(*x, begin + kAhead, u.count);
        T* p = load(kernels, u.p, begin, n, rooms[0]);
        const T* g = load(kernels, u.g, begin, n, rooms[1]);
        T* b = rooms[2];
        if (has_buffer && (reads_buffer || is_direct<T>(u.b)))
            b = load(kernels, u.b, begin, n, rooms[2]);
        step(scalars, count, p, g, b);
        store(kernels, u.p, begin, n, p);
        if (has_buffer) store(kernels, u.b, begin, n, b);
        if (has_average) {
            p = load(kernels, u.p, begin, n, rooms[0]);  // as it was stored
            T* a = load(kernels, u.a, begin, n, rooms[3]);
            loops.average(weight, count, p, a);
            store(kernels, u.a, begin, n, a);
        }
    }
}

template <class T>
Squares squares_of_piece(const Kernels& kernels, const Operand& g, const Piece& piece) {
    const Loops<T>& loops = loops_of(kernels, T{});
    alignas(64) T room[kNormBlock];
    Squares total{0.0, true};
    for (std::int64_t begin = piece.begin; begin < piece.end; begin += kNormBlock) {
        const std::int64_t n = std::min(kNormBlock, piece.end - begin);
        const T* x = load(kernels, g, begin, n, room);
        const Squares squares = loops.squares(static_cast<std::size_t>(n), x);
        total.sum += squares.sum;
        total.finite = total.finite && squares.finite;
    }
    return total;
}

}  // namespace

bool Rule::fits_float() const {
    for (const double x : {coupled_decay, retain, gain, buffer_weight, gradient_weight, keep, step})
        if (std::abs(x) > static_cast<double>(std::numeric_limits<float>::max())) return false;
    return true;
}

Terms Rule::terms(double scale) const {
    Move move = Move::both;
    if (buffer == Buffer::none || buffer_weight == 0) {
        move = Move::gradient;
    } else if (gradient_weight == 0) {
        move = Move::buffer;
    }
    return {scale != 1 || maximize, coupled_decay != 0, keep != 1, buffer, move};
}

template <class T>
Scalars<T> Rule::scalars(double scale) const {
    const auto as = [](double x) { return static_cast<T>(x); };
    const BitsOf<T> sign = BitsOf<T>{maximize} << (8 * sizeof(T) - 1);
    return {sign, as(scale), as(coupled_decay), as(retain), as(gain),
            as(buffer_weight), as(gradient_weight), as(keep), as(step)};
}

GradientSquares gradient_squares(const Kernels& kernels, const std::vector<Update>& updates,
                                 Threads threads) {
    const Work work(updates);
    GradientSquares result{std::vector<double>(work.pieces.size()), std::nullopt};
    std::vector<char> finite(work.pieces.size());  // not bool: threads write side by side
    work.run(threads, [&](std::size_t i, const Piece& piece) {
        const Update& u = updates[piece.update];
        const Squares squares = u.p.format == Format::wide
                                    ? squares_of_piece<double>(kernels, u.g, piece)
                                    : squares_of_piece<float>(kernels, u.g, piece);
        result.partial_sums[i] = squares.sum;
        finite[i] = squares.finite;
    });
    const auto bad = std::find(finite.begin(), finite.end(), 0);
    if (bad != finite.end())
        result.nonfinite = work.pieces[static_cast<std::size_t>(bad - finite.begin())].update;
    return result;
}

void step(const Kernels& kernels, const std::vector<Update>& updates, double scale,
          Threads threads) {
    Work(updates).run(threads, [&](std::size_t, const Piece& piece) {
        const Update& u = updates[piece.update];
        if (u.p.format == Format::wide)
            step_piece<double>(kernels, u, piece, scale);
        else
            step_piece<float>(kernels, u, piece, scale);
    });
}

std::uint32_t bare_pass(const Kernels& kernels, const std::vector<Update>& updates,
                        bool reads_before, Threads threads) {
    std::atomic<std::uint32_t> seen{0};
    const Work work(updates);
    for (const bool writes : {false, true}) {
        if (!writes && !reads_before) continue;
        work.run(threads, [&](std::size_t, const Piece& piece) {
            const Update& u = updates[piece.update];
            std::uint32_t mine = 0;
            for (std::int64_t begin = piece.begin; begin < piece.end; begin += kBlock) {
                const std::int64_t n = std::min(kBlock, piece.end - begin);
                const auto at = [&](const Operand& x) {
                    return x.data + begin * size_of(x.format);
                };
                const auto words = [&](const Operand& x) {
                    return static_cast<std::size_t>(n * size_of(x.format) / 4);
                };
                // An expanded gradient has less memory than the parameter.
                alignas(64) std::uint64_t row[kBlock];
                if (u.g.walk != nullptr) move_row<true>(u.g, begin, n, row);
                const void* g = u.g.walk != nullptr ? static_cast<const void*>(row) : at(u.g);
                const bool alike = u.a.data == nullptr && u.b.data != nullptr &&
                                   u.p.format == u.g.format && u.p.format == u.b.format;
                if (writes && alike) {
                    kernels.rewrite_two(words(u.p), at(u.p), g, at(u.b));
                    continue;
                }
                mine ^= kernels.look(words(u.g), g);
                for (const Operand* x : {&u.p, &u.b, &u.a})
                    if (writes && x->data != nullptr) kernels.rewrite(words(*x), at(*x));
            }
            seen.fetch_xor(mine, std::memory_order_relaxed);
        });
    }
    return seen.load();
}

}  // namespace sgdm
