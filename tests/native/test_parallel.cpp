// The work on several threads: all of it, once, and with the bits of one thread. Built under
// ThreadSanitizer by tests/test_native_sanitizers.py.
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "updates.h"

namespace {

using namespace sgdm;

std::atomic<int> bodies{0};

void team_of_threads(int threads, void (*body)(void*), void* data) {
    const auto one = [=] {
        bodies.fetch_add(1, std::memory_order_relaxed);
        body(data);
    };
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i) others.emplace_back(one);
    one();
    for (std::thread& other : others) other.join();
}

void test_every_index_once() {
    for (const std::int64_t count : {0, 1, 2, 7, 1000, 100000}) {
        for (const int threads : {1, 2, 3, 8}) {
            doing = "parallel_for of " + std::to_string(count) + " on " + std::to_string(threads);
            // Not atomic: an index that two threads visit is a race, too.
            std::vector<int> visits(static_cast<std::size_t>(count));
            bodies = 0;
            parallel_for(team_of_threads, threads, count,
                         [&](std::int64_t i) { ++visits[static_cast<std::size_t>(i)]; });
            for (const int n : visits) CHECK(n == 1);
            const int expected = threads < count ? threads : static_cast<int>(count);
            CHECK(bodies == (expected > 1 ? expected : 0));
        }
    }
}

struct Model {
    // The tensors lie side by side, so that a thread that reaches too far meets another.
    std::vector<float> p, g, b, a;
    std::vector<std::uint16_t> half, brain;
    std::vector<double> wide, wide_g, wide_b;

    // NaN is as equal as any other bits.
    bool operator==(const Model& x) const {
        const auto same = [](const auto& a, const auto& b) {
            return std::memcmp(a.data(), b.data(), a.size() * sizeof a[0]) == 0;
        };
        return same(p, x.p) && same(g, x.g) && same(b, x.b) && same(a, x.a) &&
               same(half, x.half) && same(brain, x.brain) && same(wide, x.wide) &&
               same(wide_g, x.wide_g) && same(wide_b, x.wide_b);
    }
};

template <class T>
char* at(std::vector<T>& x, std::int64_t place) {
    return reinterpret_cast<char*>(x.data() + place);
}

const std::vector<std::int64_t> sizes = {40001, 1, 16385, 3,    7,     1023,  33333, 2,
                                         129,   5, 16383, 1025, 20003, 32769, 77,    4099};

std::vector<Update> updates_of(Model& x, const std::vector<Rule>& rules, const Walk& backwards) {
    std::vector<Update> updates;
    std::int64_t place = 0;
    for (std::size_t i = 0; i < 4 * sizes.size(); ++i) {
        const std::int64_t n = sizes[i / 4];
        Update u{};
        u.count = n;
        u.rule = &rules[i % rules.size()];
        const bool has_buffer = u.rule->buffer != Buffer::none;
        if (i % 4 == 3) {
            u.p = {at(x.wide, place), Format::wide, nullptr};
            u.g = {at(x.wide_g, place), Format::wide, nullptr};
            if (has_buffer) u.b = {at(x.wide_b, place), Format::wide, nullptr};
        } else {
            u.p = {at(x.p, place), Format::single, nullptr};
            if (i % 4 == 1) u.p = {at(x.half, place), Format::half, nullptr};
            u.g = {at(x.g, place), Format::single, n == sizes[0] ? &backwards : nullptr};
            if (has_buffer) u.b = {at(x.b, place), Format::single, nullptr};
            if (has_buffer && i % 4 == 2) u.b = {at(x.brain, place), Format::brain, nullptr};
            if (i % 8 < 4) u.a = {at(x.a, place), Format::single, nullptr};
        }
        updates.push_back(u);
        place += n;
    }
    return updates;
}

void test_same_bits_as_one_thread() {
    std::int64_t elements = 0;
    for (const std::int64_t n : sizes) elements += 4 * n;
    const auto n = static_cast<std::size_t>(elements);
    Model initial{std::vector<float>(n),         std::vector<float>(n),
                  std::vector<float>(n),         std::vector<float>(n),
                  std::vector<std::uint16_t>(n), std::vector<std::uint16_t>(n),
                  std::vector<double>(n),        std::vector<double>(n),
                  std::vector<double>(n)};
    for (std::size_t i = 0; i < n; ++i) {
        const double x = std::sin(static_cast<double>(i));
        initial.p[i] = initial.a[i] = static_cast<float>(x);
        initial.g[i] = static_cast<float>(x * x - 0.3);
        initial.b[i] = static_cast<float>(0.5 - x);
        initial.half[i] = initial.brain[i] = static_cast<std::uint16_t>(i * 40503);  // any bits
        initial.wide[i] = x;
        initial.wide_g[i] = x * x - 0.3;
        initial.wide_b[i] = 0.5 - x;
    }
    const std::vector<Rule> rules = {
        {0.01, 0.9, 1, 1, 0, 1, -0.1, Buffer::running, false, 0.1},
        {0, 0.9, 0.1, 0.9, 0.1, 0.99, -0.1, Buffer::first, true, 0.9},
        {0.01, 0, 0, 0, 1, 1, -0.01, Buffer::none, false, 0.01}};
    // The largest gradients are walked, in two dimensions: 13 * 17 * 181.
    const std::int64_t shape[] = {13 * 17, 181}, rows[] = {181, 1}, columns[] = {1, 13 * 17};
    const Walk walk({2, shape, rows}, {2, shape, columns});

    const Kernels& kernels = kernels_baseline;
    doing = "one thread";
    Model alone = initial;
    const auto updates = updates_of(alone, rules, walk);
    const GradientSquares squares = gradient_squares(kernels, updates, {serial_team, 1});
    CHECK(!squares.nonfinite);
    step(kernels, updates, 0.7, {serial_team, 1});
    CHECK(!(alone == initial));
    for (const int threads : {2, 3, 8}) {
        doing = std::to_string(threads) + " threads";
        Model together = initial;
        const auto same = updates_of(together, rules, walk);
        const Threads team{team_of_threads, threads};
        bodies = 0;
        const GradientSquares found = gradient_squares(kernels, same, team);
        CHECK(found.partial_sums == squares.partial_sums);
        CHECK(!found.nonfinite);
        step(kernels, same, 0.7, team);
        CHECK(bodies == 2 * threads);  // neither was too small for them
        CHECK(together == alone);
        bare_pass(kernels, same, true, team);
        bare_pass(kernels, same, true, team);
        CHECK(together == alone);
    }

    doing = "the first of two gradients that are not finite";
    Model broken = initial;
    broken.g[n - 500] = INFINITY;
    broken.g[n - 10000] = NAN;
    const auto with = updates_of(broken, rules, walk);
    const auto expected = gradient_squares(kernels, with, {serial_team, 1}).nonfinite;
    CHECK(expected);
    for (const int threads : {2, 3, 8})
        CHECK(gradient_squares(kernels, with, {team_of_threads, threads}).nonfinite == expected);
}

}  // namespace

int main() {
    test_every_index_once();
    test_same_bits_as_one_thread();
    std::printf("threads: as one\n");
}
