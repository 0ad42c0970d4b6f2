// One way to run tasks on several threads; who the threads are is a parameter.
#pragma once

#include <atomic>
#include <cstdint>

namespace sgdm {

// Runs body(data) once on each of `threads` threads, the caller's among them, and returns when all
// have returned.
using Team = void (*)(int threads, void (*body)(void*), void* data);

void serial_team(int threads, void (*body)(void*), void* data);

// The threads of the OpenMP runtime that a loaded library depends on, or nullptr. There is one pool
// then, not two that fight for the cores, and whatever the library calls its runtime is found.
Team openmp_team_of(const char* path_of_library);

// Runs task(i) for every i in [0, count). Tasks are handed out one by one, so that a core that is
// held up by others' work holds up nobody.
template <class Task>
void parallel_for(Team team, int threads, std::int64_t count, const Task& task) {
    struct Shared {
        std::atomic<std::int64_t> next{0};
        std::int64_t count;
        const Task& task;
    } shared{{0}, count, task};
    const auto body = [](void* data) {
        auto& mine = *static_cast<Shared*>(data);
        for (;;) {
            const std::int64_t i = mine.next.fetch_add(1, std::memory_order_relaxed);
            if (i >= mine.count) return;
            mine.task(i);
        }
    };
    if (threads > count) threads = static_cast<int>(count);
    if (threads <= 1) {
        body(&shared);
    } else {
        team(threads, body, &shared);
    }
}

}  // namespace sgdm
