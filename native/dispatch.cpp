#include "dispatch.h"

namespace sgdm {

std::vector<const Kernels*> runnable_kernels() {
    std::vector<const Kernels*> list;
#ifdef SGDM_X86
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("f16c");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        list.push_back(&kernels_avx512);
    if (avx2) list.push_back(&kernels_avx2);
#endif
    list.push_back(&kernels_baseline);
    return list;
}

}  // namespace sgdm
