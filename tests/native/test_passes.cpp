// The passes, bit by bit against a reference that does one element at a time, for every
// instruction set that the processor runs. What lies around the arrays is watched: by a pattern in
// front of them, and behind them by the sanitizer, for they end where their memory does.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "dispatch.h"
#include "updates.h"

namespace {

using namespace sgdm;
using Places = std::vector<std::int64_t>;

class Random {  // splitmix64
  public:
    explicit Random(std::uint64_t seed) : state_(seed) {}

    std::uint64_t bits() {
        std::uint64_t x = state_ += 0x9E3779B97F4A7C15u;
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
        x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
        return x ^ (x >> 31);
    }

    int below(int n) { return static_cast<int>(bits() % static_cast<std::uint64_t>(n)); }

    double between(double low, double high) {
        return low + (high - low) * static_cast<double>(bits() >> 11) * 0x1p-53;
    }

  private:
    std::uint64_t state_;
};

const std::vector<const Kernels*> all_kernels = runnable_kernels();

constexpr Threads kAlone{serial_team, 1};

void team_of_threads(int threads, void (*body)(void*), void* data) {
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i) others.emplace_back(body, data);
    body(data);
    for (std::thread& other : others) other.join();
}

// ---- The formats ----

struct Narrow {
    int fraction;  // how many bits of it are stored
    int least;     // the exponent of the least normal number

    std::uint16_t infinity() const {
        return static_cast<std::uint16_t>(0x7FFF >> fraction << fraction);
    }
};

constexpr Narrow kHalf{10, -14}, kBrain{7, -126};

double widened(Narrow format, int bits) {
    const int fraction = bits & ((1 << format.fraction) - 1);
    const int exponent = (bits & 0x7FFF) >> format.fraction;
    double size = 0;
    if (exponent == 0x7FFF >> format.fraction)
        size = fraction == 0 ? INFINITY : NAN;
    else if (exponent == 0)
        size = std::ldexp(fraction, format.least - format.fraction);
    else
        size = std::ldexp(fraction + (1 << format.fraction),
                          format.least - 1 + exponent - format.fraction);
    return bits & 0x8000 ? -size : size;
}

std::uint16_t narrowed(Narrow format, float x) {
    const int sign = std::signbit(x) ? 0x8000 : 0;
    int bits = format.infinity();
    if (std::isnan(x)) {
        bits += 1;
    } else if (!std::isinf(x)) {
        const double size = std::fabs(static_cast<double>(x));
        const int exponent = size == 0 ? format.least : std::max(std::ilogb(size), format.least);
        // To the nearest, ties to even. A binade ends where the next begins, in bits as well.
        const double steps = std::nearbyint(std::ldexp(size, format.fraction - exponent));
        const int rounded =
            ((exponent - format.least) << format.fraction) + static_cast<int>(steps);
        bits = std::min(bits, rounded);
    }
    return static_cast<std::uint16_t>(sign | bits);
}

const std::vector<float>& table_of(Format format) {
    const auto table = [](Narrow narrow) {
        std::vector<float> all(0x10000);
        for (int bits = 0; bits < 0x10000; ++bits)
            all[static_cast<std::size_t>(bits)] = static_cast<float>(widened(narrow, bits));
        return all;
    };
    static const std::vector<float> half = table(kHalf), brain = table(kBrain);
    return format == Format::half ? half : brain;
}

template <class T>
T decoded(Format format, std::uint64_t bits) {
    if (format == Format::half || format == Format::brain)
        return static_cast<T>(table_of(format)[bits]);
    if (format == Format::wide) {
        double x;
        std::memcpy(&x, &bits, sizeof x);
        return static_cast<T>(x);
    }
    const auto low = static_cast<std::uint32_t>(bits);
    float x;
    std::memcpy(&x, &low, sizeof x);
    return static_cast<T>(x);
}

template <class T>
std::uint64_t encoded(Format format, T value) {
    if (format == Format::half) return narrowed(kHalf, static_cast<float>(value));
    if (format == Format::brain) return narrowed(kBrain, static_cast<float>(value));
    if (format == Format::wide) {
        const double x = value;
        std::uint64_t bits;
        std::memcpy(&bits, &x, sizeof bits);
        return bits;
    }
    const float x = static_cast<float>(value);
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

std::uint64_t drawn(Format format, Random& random) {
    static const double special[] = {0.0,  -0.0,   INFINITY, -INFINITY, NAN,    1.0,
                                     0x1p-24, 0x1p-149, 65504.0, FLT_MAX, 0x1p-1074};
    const int kind = random.below(32);
    if (kind < 3) return random.bits() >> (64 - 8 * size_of(format));  // any exponent
    if (kind == 3) return encoded(format, special[random.below(11)]);
    return encoded(format, std::ldexp(random.between(-1, 1), random.below(8) - 4));
}

// ---- Arrays that are watched ----

class Array {
  public:
    Array(Format format, std::int64_t count, int before, int after)
        : format_(format), count_(count), begin_(before * size_of(format)),
          memory_(static_cast<std::size_t>((before + count + after) * size_of(format)),
                  '\xA5') {}

    void fill(Random& random) {
        for (std::int64_t i = 0; i < count_; ++i) put(i, drawn(format_, random));
    }

    char* data() { return memory_.data() + begin_; }
    Format format() const { return format_; }

    std::uint64_t bits(std::int64_t i) const {
        std::uint64_t bits = 0;
        std::memcpy(&bits, memory_.data() + begin_ + i * size_of(format_), bytes());
        return bits;
    }

    void put(std::int64_t i, std::uint64_t bits) {
        std::memcpy(memory_.data() + begin_ + i * size_of(format_), &bits, bytes());
    }

    template <class T>
    T number(std::int64_t i) const {
        return decoded<T>(format_, bits(i));
    }

    // The same bits within and around, but for what NaN it is.
    bool operator==(const Array& other) const {
        if (memory_ == other.memory_) return true;
        Array matched = other;
        for (std::int64_t i = 0; i < count_; ++i)
            if (std::isnan(number<double>(i)) && std::isnan(other.number<double>(i)))
                matched.put(i, bits(i));
        return memory_ == matched.memory_;
    }

  private:
    std::size_t bytes() const { return static_cast<std::size_t>(size_of(format_)); }

    Format format_;
    std::int64_t count_, begin_;
    std::vector<char> memory_;  // no longer than it need be: what lies behind is poisoned
};

// ---- The reference ----

// The step as step.h writes it, and the average as torch.lerp does.
template <class T>
void step_element(const Rule& rule, double scale, T g, T& p, T& b) {
    const auto as = [](double x) { return static_cast<T>(x); };
    T d = g;
    if (scale != 1) d = as(scale) * d;
    if (rule.maximize) d = -d;
    if (rule.coupled_decay != 0) d = std::fma(p, as(rule.coupled_decay), d);
    if (rule.buffer == Buffer::first) b = as(rule.gain) * d;
    if (rule.buffer == Buffer::running) b = std::fma(d, as(rule.gain), as(rule.retain) * b);
    T u;
    if (rule.buffer == Buffer::none || rule.buffer_weight == 0)
        u = as(rule.gradient_weight) * d;
    else if (rule.gradient_weight == 0)
        u = as(rule.buffer_weight) * b;
    else
        u = std::fma(b, as(rule.buffer_weight), as(rule.gradient_weight) * d);
    p = std::fma(u, as(rule.step), rule.keep == 1 ? p : as(rule.keep) * p);
}

template <class T>
T average_element(double weight, T p, T a) {
    const T w = static_cast<T>(weight);
    return w < T(0.5) ? std::fma(w, p - a, a) : std::fma(w - T(1), p - a, p);
}

// The places of one element in the four tensors.
struct Element {
    std::int64_t p, g, b, a;
};

struct Tensors {
    Array p, g, b, a;

    bool operator==(const Tensors& other) const {
        return p == other.p && g == other.g && b == other.b && a == other.a;
    }
};

template <class T>
void step_reference(const Rule& rule, double scale, bool averages, const Element& at,
                    Tensors& x) {
    T p = x.p.number<T>(at.p), b = x.b.number<T>(at.b);
    step_element(rule, scale, x.g.number<T>(at.g), p, b);
    x.p.put(at.p, encoded(x.p.format(), p));
    if (rule.buffer != Buffer::none) x.b.put(at.b, encoded(x.b.format(), b));
    if (!averages) return;
    const T a = average_element(rule.average_weight, x.p.number<T>(at.p), x.a.number<T>(at.a));
    x.a.put(at.a, encoded(x.a.format(), a));
}

void step_reference(const Rule& rule, double scale, bool averages, const Element& at,
                    Tensors& x) {
    if (x.p.format() == Format::wide)
        step_reference<double>(rule, scale, averages, at, x);
    else
        step_reference<float>(rule, scale, averages, at, x);
}

// ---- What is tried ----

// Calls run(values) so often that every pair of values of two dimensions occurs.
class Pairs {
  public:
    struct Dimension {
        const char* name;
        int size;
    };

    explicit Pairs(std::vector<Dimension> dimensions) : dimensions_(std::move(dimensions)) {}

    void run(const char* test, const std::function<void(const std::vector<int>&)>& run) {
        const std::size_t n = dimensions_.size();
        std::vector<std::vector<char>> seen(n * n);
        for (std::size_t i = 0; i < n * n; ++i)
            seen[i].resize(static_cast<std::size_t>(dimensions_[i / n].size *
                                                    dimensions_[i % n].size));
        std::vector<int> values(n);
        const auto is_seen = [&](std::size_t i, std::size_t j) -> char& {
            return seen[i * n + j][static_cast<std::size_t>(
                values[i] * dimensions_[j].size + values[j])];
        };
        Random random(n);
        for (std::size_t a = 0; a < n; ++a) {
            for (std::size_t b = a + 1; b < n; ++b) {
                for (int i = 0; i < dimensions_[a].size; ++i) {
                    for (int j = 0; j < dimensions_[b].size; ++j) {
                        for (std::size_t k = 0; k < n; ++k)
                            values[k] = random.below(dimensions_[k].size);
                        values[a] = i;
                        values[b] = j;
                        if (is_seen(a, b)) continue;
                        for (std::size_t k = 0; k < n; ++k)
                            for (std::size_t l = k + 1; l < n; ++l) is_seen(k, l) = 1;
                        doing = test;
                        for (std::size_t k = 0; k < n; ++k)
                            doing += std::string(" ") + dimensions_[k].name + "=" +
                                     std::to_string(values[k]);
                        run(values);
                    }
                }
            }
        }
    }

  private:
    std::vector<Dimension> dimensions_;
};

// Seeds the numbers of a case by what the case is, so that it can be run alone.
Random random_of(const std::vector<int>& values) {
    std::uint64_t seed = 1;
    for (int value : values) seed = Random(seed * 1000 + static_cast<std::uint64_t>(value)).bits();
    return Random(seed);
}

constexpr int kTerms = 2 * 2 * 2 * 7;  // all that Rule::terms can answer

struct Setting {
    Rule rule;
    double scale;
};

Setting setting_of(int which, int weight, Random& random) {
    static const double weights[] = {0.1, 0.5, 0.9, 0.49999999999};  // the last is 0.5 in float
    const bool scaled = which % 2, decays = which / 2 % 2, keeps = which / 4 % 2;
    const int shape = which / 8;
    Setting s{};
    const int how = scaled ? 1 + random.below(3) : 0;
    s.scale = how & 1 ? random.between(0.2, 3) : 1;
    s.rule.maximize = how & 2;
    s.rule.coupled_decay = decays ? random.between(-0.5, 0.5) : 0;
    s.rule.keep = keeps ? random.between(0.5, 1) : 1;
    s.rule.retain = random.between(0.5, 1);
    s.rule.gain = random.between(0.1, 1);
    s.rule.buffer_weight = random.between(0.5, 1);
    s.rule.gradient_weight = random.between(0.1, 1);
    s.rule.step = random.between(-0.5, 0.1);
    s.rule.average_weight = weights[weight];
    s.rule.buffer = shape == 0 ? Buffer::none : shape < 4 ? Buffer::first : Buffer::running;
    const Move move = shape == 0 ? Move::gradient : static_cast<Move>((shape - 1) % 3);
    if (shape != 0 && move == Move::gradient) s.rule.buffer_weight = 0;
    if (move == Move::buffer) s.rule.gradient_weight = 0;

    const Terms terms = s.rule.terms(s.scale);
    CHECK(terms.scaled == scaled && terms.decays == decays && terms.keeps == keeps);
    CHECK(terms.buffer == s.rule.buffer && terms.move == move);
    CHECK(Loops<float>::shape_of(terms.buffer, terms.move) == shape);
    return s;
}

struct Formats {
    Format p, g, b, a;
};

constexpr int kFormats = 3 * 3 * 3 + 1;  // of p, g and b; the last is float64
constexpr int kAverages = 3;             // none, as the parameter, float32

Formats formats_of(int which, int average) {
    static const Format narrow[] = {Format::single, Format::half, Format::brain};
    if (which == 27) return {Format::wide, Format::wide, Format::wide, Format::wide};
    const Format p = narrow[which / 9];
    return {p, narrow[which / 3 % 3], narrow[which % 3], average == 2 ? Format::single : p};
}

Update update_of(Tensors& x, std::int64_t count, const Rule& rule, bool averages) {
    Update u{};
    u.p = {x.p.data(), x.p.format(), nullptr};
    u.g = {x.g.data(), x.g.format(), nullptr};
    if (rule.buffer != Buffer::none) u.b = {x.b.data(), x.b.format(), nullptr};
    if (averages) u.a = {x.a.data(), x.a.format(), nullptr};
    u.count = count;
    u.rule = &rule;
    return u;
}

// ---- The tests ----

void test_conversions() {
    for (const Kernels* kernels : all_kernels) {
        for (const bool half : {true, false}) {
            const Narrow format = half ? kHalf : kBrain;
            const Conversion& conversion = half ? kernels->half : kernels->brain;
            doing = std::string("conversions of ") + (half ? "float16 " : "bfloat16 ") +
                    kernels->name;

            // In pieces of every length up to 40, each in memory of its own.
            std::size_t length = 0;
            for (std::size_t begin = 0; begin < 0x10000; begin += length) {
                length = std::min(length % 40 + 1, 0x10000 - begin);
                std::vector<std::uint16_t> from(length);
                std::vector<float> to(length);
                std::iota(from.begin(), from.end(), static_cast<std::uint16_t>(begin));
                conversion.widen(length, from.data(), to.data());
                for (std::size_t i = 0; i < length; ++i) {
                    const auto expected = static_cast<float>(widened(format, from[i]));
                    CHECK(std::isnan(expected) ? std::isnan(to[i])
                                               : std::memcmp(&to[i], &expected, 4) == 0);
                }
            }

            // Every number, the tie above it, and the floats next to the tie. Above the last
            // number the next one would be a power of 2; it is infinity.
            std::vector<float> from;
            std::vector<int> expected;
            for (int bits = 0; bits < format.infinity(); ++bits) {
                const double low = widened(format, bits);
                const double high = bits + 1 < format.infinity()
                                        ? widened(format, bits + 1)
                                        : std::ldexp(1, half ? 16 : 128);
                const auto tie = static_cast<float>((low + high) / 2);
                CHECK(static_cast<double>(tie) == (low + high) / 2);
                for (const float sign : {1.0F, -1.0F}) {
                    const int signs = sign < 0 ? 0x8000 : 0;
                    const float tried[] = {static_cast<float>(low), std::nextafter(tie, 0.0F), tie,
                                           std::nextafter(tie, INFINITY)};
                    for (const float x : tried) from.push_back(sign * x);
                    for (const int x : {bits, bits, bits + bits % 2, bits + 1})
                        expected.push_back(signs | x);
                }
            }
            for (const float x : {FLT_MAX, INFINITY}) {
                from.insert(from.end(), {x, -x});
                expected.insert(expected.end(), {format.infinity(), 0x8000 | format.infinity()});
            }
            for (const std::uint32_t nan : {0x7F800001U, 0x7FC00000U, 0x7FFFFFFFU, 0xFF800001U}) {
                from.push_back(decoded<float>(Format::single, nan));
                expected.push_back(-1);
            }
            for (std::size_t begin = 0; begin < from.size(); begin += length) {
                length = std::min(length % 40 + 1, from.size() - begin);
                const auto first = from.begin() + static_cast<std::ptrdiff_t>(begin);
                const std::vector<float> piece(first, first + static_cast<std::ptrdiff_t>(length));
                std::vector<std::uint16_t> to(length);
                conversion.narrow(length, piece.data(), to.data());
                for (std::size_t i = 0; i < length; ++i) {
                    const int bits = expected[begin + i];
                    const std::uint16_t mine = narrowed(format, piece[i]);
                    if (bits < 0) {
                        CHECK(std::isnan(piece[i]) && std::isnan(widened(format, to[i])));
                        CHECK(std::isnan(widened(format, mine)));
                    } else {
                        CHECK(to[i] == bits);
                        CHECK(mine == bits);
                    }
                }
            }
        }
    }
}

// Tensors that lie alike: every count up to some vectors' length, and around what is cut there.
void test_steps() {
    std::vector<std::int64_t> counts(131);
    std::iota(counts.begin(), counts.end(), 0);
    for (const std::int64_t n : {1023, 1024, 1025, 16383, 16384, 16385, 32769}) counts.push_back(n);
    Pairs pairs({{"count", static_cast<int>(counts.size())},
                 {"terms", kTerms},
                 {"formats", kFormats},
                 {"average", kAverages},
                 {"weight", 4},
                 {"before_p", 4},
                 {"before_g", 4},
                 {"before_b", 4},
                 {"before_a", 4},
                 {"after", 2}});
    pairs.run("steps", [&](const std::vector<int>& v) {
        Random random = random_of(v);
        const std::int64_t n = counts[static_cast<std::size_t>(v[0])];
        const Setting s = setting_of(v[1], v[4], random);
        const Formats f = formats_of(v[2], v[3]);
        const bool averages = v[3] != 0;
        const int after = 40 * v[9];
        Tensors initial{{f.p, n, v[5], after}, {f.g, n, v[6], after}, {f.b, n, v[7], after},
                        {f.a, n, v[8], after}};
        for (Array* x : {&initial.p, &initial.g, &initial.b, &initial.a}) x->fill(random);
        Tensors expected = initial;
        for (std::int64_t i = 0; i < n; ++i)
            step_reference(s.rule, s.scale, averages, {i, i, i, i}, expected);
        for (const Kernels* kernels : all_kernels) {
            Tensors x = initial;
            step(*kernels, {update_of(x, n, s.rule, averages)}, s.scale, kAlone);
            if (!(x == expected)) doing += std::string(" ") + kernels->name;
            CHECK(x.p == expected.p);
            CHECK(x.g == expected.g);
            CHECK(x.b == expected.b);
            CHECK(x.a == expected.a);
        }
    });
}

struct Layout {
    Places sizes, strides;

    Shape shape() const { return {static_cast<int>(sizes.size()), sizes.data(), strides.data()}; }
};

std::int64_t count_of(const Places& sizes) {
    return std::accumulate(sizes.begin(), sizes.end(), std::int64_t{1}, std::multiplies<>());
}

// Fills memory with the dimensions in some order; a factor leaves gaps.
Layout permuted(const Places& sizes, Random& random, std::int64_t factor = 1) {
    std::vector<std::size_t> order(sizes.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    for (std::size_t i = order.size(); i > 1; --i)
        std::swap(order[i - 1], order[static_cast<std::size_t>(random.below(static_cast<int>(i)))]);
    Layout layout{sizes, Places(sizes.size())};
    std::int64_t stride = factor;
    for (const std::size_t dim : order) {
        layout.strides[dim] = sizes[dim] == 1 ? random.below(50) : stride;
        stride *= sizes[dim];
    }
    return layout;
}

// Where the elements lie, in the order of their indices.
Places places_of(const Layout& layout) {
    Places places{0};
    for (std::size_t dim = 0; dim < layout.sizes.size(); ++dim) {
        Places longer;
        for (const std::int64_t place : places)
            for (std::int64_t i = 0; i < layout.sizes[dim]; ++i)
                longer.push_back(place + i * layout.strides[dim]);
        places = longer;
    }
    return places;
}

const std::vector<Places> shapes = {
    {},          {1},         {7},         {3, 5},       {5, 1, 4},    {2, 3, 4},
    {3, 2, 1, 5}, {33, 31},   {32, 32},    {4, 16, 17},  {2, 2, 2, 3}, {5, 7, 3, 11},
    {127, 130},  {1, 16, 1}};

// Gradients that are permuted, with gaps, or expanded; buffers and averages that are permuted.
void test_walked_steps() {
    Pairs pairs({{"terms", kTerms},
                 {"formats", kFormats},
                 {"shape", static_cast<int>(shapes.size())},
                 {"gradient", 5},
                 {"others", 4},
                 {"average", kAverages},
                 {"weight", 4},
                 {"order", 6}});
    pairs.run("walked steps", [&](const std::vector<int>& v) {
        Random random = random_of(v);
        const Setting s = setting_of(v[0], v[6], random);
        const Formats f = formats_of(v[1], v[5]);
        const Places& sizes = shapes[static_cast<std::size_t>(v[2])];
        const std::int64_t n = count_of(sizes);
        const bool averages = v[5] != 0;
        const Layout lp = permuted(sizes, random);
        Layout lg = permuted(sizes, random, v[3] == 2 ? 1 + random.below(3) : 1);
        if (v[3] == 0) lg = lp;
        if (v[3] >= 3 && !sizes.empty()) {  // expanded along one dimension, or all but one
            const std::size_t dim = static_cast<std::size_t>(random.below(
                static_cast<int>(sizes.size())));
            for (std::size_t i = 0; i < sizes.size(); ++i)
                if ((i == dim) == (v[3] == 3)) lg.strides[i] = 0;
        }
        const Layout lb = v[4] & 1 ? permuted(sizes, random) : lp;
        const Layout la = v[4] & 2 ? permuted(sizes, random) : lp;
        Tensors initial{{f.p, n, 1, 0},
                        {f.g, extent_of(lg.shape()) + 1, 0, 0},
                        {f.b, n, 3, 0},
                        {f.a, n, 2, 0}};
        for (Array* x : {&initial.p, &initial.g, &initial.b, &initial.a}) x->fill(random);
        Tensors expected = initial;
        const Places p = places_of(lp), g = places_of(lg), b = places_of(lb), a = places_of(la);
        for (std::size_t i = 0; i < p.size(); ++i)
            step_reference(s.rule, s.scale, averages, {p[i], g[i], b[i], a[i]}, expected);

        const auto walk = [&](const Layout& walked) {
            const bool alike = same_strides(lp.shape(), walked.shape());
            return alike ? nullptr : std::make_unique<Walk>(lp.shape(), walked.shape());
        };
        const auto wg = walk(lg), wb = walk(lb), wa = walk(la);
        for (const Kernels* kernels : all_kernels) {
            Tensors x = initial;
            Update u = update_of(x, n, s.rule, averages);
            u.g.walk = wg.get();
            u.b.walk = wb.get();
            u.a.walk = wa.get();
            step(*kernels, {u}, s.scale, kAlone);
            if (!(x == expected)) doing += std::string(" ") + kernels->name;
            CHECK(x.p == expected.p);
            CHECK(x.g == expected.g);
            CHECK(x.b == expected.b);
            CHECK(x.a == expected.a);
        }
    });
}

void test_walk() {
    for (int seed = 0; seed < 300; ++seed) {
        doing = "walk seed=" + std::to_string(seed);
        Random random(static_cast<std::uint64_t>(seed));
        Places sizes(static_cast<std::size_t>(random.below(5)));
        for (std::int64_t& size : sizes) size = 1 + random.below(4);
        const Layout order = permuted(sizes, random);
        Layout walked = permuted(sizes, random, 1 + random.below(2));
        for (std::int64_t& stride : walked.strides)
            if (random.below(5) == 0) stride = 0;
        const Places from = places_of(order), to = places_of(walked);
        Places expected(from.size());
        for (std::size_t i = 0; i < from.size(); ++i)
            expected[static_cast<std::size_t>(from[i])] = to[i];

        const Walk walk(order.shape(), walked.shape());
        if (walk.repeats()) CHECK(expected[0] == expected[1]);
        const std::int64_t n = count_of(sizes);
        for (std::int64_t begin = 0; begin <= n; ++begin) {
            for (std::int64_t end = begin; end <= n; end += 1 + random.below(5)) {
                Places seen;
                walk.over(begin, end,
                          [&](std::int64_t place, std::int64_t stride, std::int64_t run) {
                              CHECK(run > 0);
                              for (std::int64_t i = 0; i < run; ++i)
                                  seen.push_back(place + i * stride);
                          });
                CHECK(seen == Places(expected.begin() + begin, expected.begin() + end));
            }
        }
    }
}

void test_shapes() {
    int dense = 0, alike = 0;
    for (int seed = 0; seed < 5000; ++seed) {
        doing = "shapes seed=" + std::to_string(seed);
        Random random(static_cast<std::uint64_t>(seed));
        Places sizes(static_cast<std::size_t>(random.below(5)));
        for (std::int64_t& size : sizes) size = 1 + random.below(4);
        Layout x = permuted(sizes, random);
        const Layout other = random.below(2) ? permuted(sizes, random) : x;
        if (!sizes.empty() && random.below(2))
            x.strides[static_cast<std::size_t>(random.below(static_cast<int>(sizes.size())))] =
                random.below(9);

        Places places = places_of(x);
        const bool same = places == places_of(other);
        CHECK(same_strides(x.shape(), other.shape()) == same);
        CHECK(sgdm::count_of(x.shape()) == static_cast<std::int64_t>(places.size()));
        std::sort(places.begin(), places.end());
        CHECK(extent_of(x.shape()) == places.back());
        Places filled(places.size());
        std::iota(filled.begin(), filled.end(), 0);
        CHECK(is_dense(x.shape()) == (places == filled));
        dense += places == filled;
        alike += same;
    }
    doing = "shapes";
    CHECK(dense > 1000 && dense < 4000);
    CHECK(alike > 1000 && alike < 4000);
}

bool any_overlap_by_pairs(const std::vector<Stretch>& stretches) {
    for (std::size_t i = 0; i < stretches.size(); ++i) {
        for (std::size_t j = 0; j < i; ++j) {
            const Stretch &a = stretches[i], &b = stretches[j];
            if ((a.written || b.written) && a.begin < b.end && b.begin < a.end) return true;
        }
    }
    return false;
}

void test_overlaps() {
    int overlapping = 0;
    std::vector<std::uint32_t> order;  // remembered through all: it must not matter
    Random random(7);
    for (int seed = 0; seed < 20000; ++seed) {
        doing = "overlaps, number " + std::to_string(seed);
        // Mostly as many as before, and seldom in the same order.
        const int n = random.below(3) ? static_cast<int>(order.size()) : random.below(13);
        const int written = random.below(4);
        std::vector<Stretch> stretches(static_cast<std::size_t>(n));
        for (Stretch& s : stretches) {
            const int begin = random.below(100);
            s = {static_cast<std::uintptr_t>(begin),
                 static_cast<std::uintptr_t>(begin + 1 + random.below(random.below(8) ? 4 : 20)),
                 random.below(4) < written};
        }
        const bool expected = any_overlap_by_pairs(stretches);
        overlapping += expected;
        CHECK(any_overlap(stretches, order) == expected);
    }
    CHECK(overlapping > 4000 && overlapping < 16000);

    doing = "overlaps of many, side by side";
    std::vector<Stretch> many;
    for (std::uintptr_t i = 0; i < 3000; ++i) {
        const std::uintptr_t place = i * 1237 % 3000;
        many.push_back({8 * place, 8 * place + 8, i % 3 != 0});
    }
    for (int i = 0; i < 2; ++i) {
        std::vector<Stretch> copy = many;
        CHECK(!any_overlap(copy, order));
    }
    for (std::size_t i = 1; i < 3000; i += 500) {
        std::vector<Stretch> copy = many;
        copy[i].written = true;
        copy[i].end += 1;
        CHECK(any_overlap(copy, order) == any_overlap_by_pairs(copy));
    }
}

Update gradient_of(Array& x, std::int64_t count, const Walk* walk = nullptr) {
    static const Rule rule{};
    Update u{};
    u.p.format = x.format() == Format::wide ? Format::wide : Format::single;
    u.g = {x.data(), x.format(), walk};
    u.count = count;
    u.rule = &rule;
    return u;
}

// The sums of several gradients: a contiguous one, and one that is walked, of every format.
void test_squares() {
    const std::vector<std::int64_t> counts = {1,    2,    15,    16,    17,    33,
                                              1023, 1025, 16383, 16385, 32769, 49157};
    for (const Format format : {Format::single, Format::half, Format::brain, Format::wide}) {
        for (const bool walked : {false, true}) {
            doing = "squares of format " + std::to_string(static_cast<int>(format)) +
                    (walked ? " walked" : "");
            Random random(static_cast<std::uint64_t>(format));
            std::vector<Array> arrays;
            std::vector<std::unique_ptr<Walk>> walks;
            std::vector<Update> updates;
            std::vector<long double> exact;
            for (const std::int64_t n : counts) {
                arrays.emplace_back(format, walked ? 2 * n - 1 : n, static_cast<int>(n % 4), 0);
                long double sum = 0;
                for (std::int64_t i = 0; i < n; ++i) {
                    const double x = std::ldexp(random.between(-1, 1), random.below(20) - 10);
                    const std::int64_t place = walked ? 2 * i : i;
                    arrays.back().put(place, encoded(format, x));
                    const long double value = arrays.back().number<double>(place);
                    sum += value * value;
                }
                exact.push_back(sum);
                const std::int64_t one = 1, two = 2;
                walks.push_back(
                    walked ? std::make_unique<Walk>(Shape{1, &n, &one}, Shape{1, &n, &two})
                           : nullptr);
            }
            for (std::size_t i = 0; i < counts.size(); ++i)
                updates.push_back(gradient_of(arrays[i], counts[i], walks[i].get()));

            std::vector<double> sums;
            for (const Kernels* kernels : all_kernels) {
                for (const int threads : {1, 2, 3, 8}) {
                    const GradientSquares found =
                        gradient_squares(*kernels, updates, {team_of_threads, threads});
                    CHECK(!found.nonfinite);
                    if (sums.empty()) sums = found.partial_sums;
                    CHECK(found.partial_sums == sums);
                }
            }
            // In the order of the tensors, and each alone as among others.
            std::size_t at = 0;
            for (std::size_t i = 0; i < updates.size(); ++i) {
                const GradientSquares alone =
                    gradient_squares(kernels_baseline, {updates[i]}, kAlone);
                double total = 0;
                for (const double sum : alone.partial_sums) {
                    CHECK(at < sums.size() && sums[at++] == sum);
                    total += sum;
                }
                CHECK(std::fabs(total - static_cast<double>(exact[i])) <= 1e-13 * total);
            }
            CHECK(at == sums.size());
        }
    }
}

// What is finite is the largest there is: the sum of float64 overflows, and that is no NaN.
void test_finite() {
    const std::int64_t counts[] = {1, 18, 1025, 40000, 17};
    const std::int64_t places[] = {0, 1, 15, 16, 17, 1023, 1024, 16383, 16384, 16400, 39999};
    for (const Format format : {Format::single, Format::half, Format::brain, Format::wide}) {
        std::vector<Array> arrays;
        for (const std::int64_t n : counts) {
            arrays.emplace_back(format, n, 0, 0);
            for (std::int64_t i = 0; i < n; ++i)
                arrays.back().put(i, encoded(format, i % 2 ? INFINITY : -INFINITY) - 1);
        }
        std::vector<Update> updates;
        for (std::size_t i = 0; i < arrays.size(); ++i)
            updates.push_back(gradient_of(arrays[i], counts[i]));

        for (const Kernels* kernels : all_kernels) {
            doing = "finite, format " + std::to_string(static_cast<int>(format)) + " " +
                    kernels->name;
            const GradientSquares all = gradient_squares(*kernels, updates, kAlone);
            CHECK(!all.nonfinite);
            for (const double sum : all.partial_sums)
                CHECK(std::isinf(sum) == (format == Format::wide));
            for (std::size_t i = 0; i < arrays.size(); ++i) {
                for (const std::int64_t place : places) {
                    if (place >= counts[i]) continue;
                    for (const double bad : {INFINITY, -INFINITY, NAN}) {
                        const Array kept = arrays[i], last = arrays[4];
                        arrays[4].put(16, encoded(format, bad));  // the first one is named
                        arrays[i].put(place, encoded(format, bad));
                        const auto found = gradient_squares(*kernels, updates, kAlone).nonfinite;
                        CHECK(found && *found == i);
                        arrays[4].put(16, last.bits(16));
                        arrays[i].put(place, kept.bits(place));
                    }
                }
            }
        }
    }
}

// It is for timing only, but it must stay inside its tensors; a second one undoes the first.
void test_bare_pass() {
    Rule rule{};
    rule.buffer = Buffer::running;
    for (const Format format : {Format::single, Format::half, Format::brain, Format::wide}) {
        for (const std::int64_t n : {1, 2, 31, 1025, 16386}) {
            for (const bool averages : {false, true}) {
                for (const Kernels* kernels : all_kernels) {
                    doing = "bare pass, format " + std::to_string(static_cast<int>(format)) +
                            " count=" + std::to_string(n) + " " + kernels->name;
                    Random random(static_cast<std::uint64_t>(n));
                    Tensors x{{format, n, 1, 0}, {format, 1, 0, 0}, {format, n, 3, 0},
                              {format, n, 2, 0}};
                    for (Array* array : {&x.p, &x.g, &x.b, &x.a}) array->fill(random);
                    const Tensors initial = x;
                    std::vector<Update> updates{update_of(x, n, rule, averages)};
                    const std::int64_t one = 1, none = 0;  // one element stands for all
                    const Walk walk({1, &n, &one}, {1, &n, &none});
                    updates[0].g.walk = &walk;
                    const std::uint32_t seen = bare_pass(*kernels, updates, false, kAlone);
                    CHECK(n == 1 || x.p.bits(0) != initial.p.bits(0));
                    CHECK(x.g == initial.g);
                    CHECK(bare_pass(*kernels, updates, false, kAlone) == seen);
                    CHECK(x == initial);
                }
            }
        }
    }
}

}  // namespace

int main() {
    test_conversions();
    test_steps();
    test_walked_steps();
    test_walk();
    test_shapes();
    test_overlaps();
    test_squares();
    test_finite();
    test_bare_pass();
    std::printf("passes:");
    for (const Kernels* kernels : all_kernels) std::printf(" %s", kernels->name);
    std::printf("\n");
}
