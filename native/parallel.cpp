#include "parallel.h"

#include <dlfcn.h>
#include <pthread.h>

namespace sgdm {
namespace {

using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
GompParallel gomp_parallel = nullptr;

// The threads of a pool do not live on in a forked child, which would wait for them for ever.
std::atomic<bool> forked{false};

void openmp_team(int threads, void (*body)(void*), void* data) {
    if (forked.load(std::memory_order_relaxed)) {
        serial_team(threads, body, data);
    } else {
        gomp_parallel(body, data, static_cast<unsigned>(threads), 0);
    }
}

}  // namespace

void serial_team(int, void (*body)(void*), void* data) { body(data); }

Team openmp_team_of(const char* path_of_library) {
    void* library = dlopen(path_of_library, RTLD_LAZY | RTLD_NOLOAD);
    if (library == nullptr) return nullptr;
    // Also looks in what the library depends on. LLVM's and Intel's runtimes have this entry too.
    gomp_parallel = reinterpret_cast<GompParallel>(dlsym(library, "GOMP_parallel"));
    if (gomp_parallel == nullptr) return nullptr;
    pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });
    return openmp_team;
}

}  // namespace sgdm
