// Which kernels this processor runs. Apart from kernels.h, which is compiled for each of them.
#pragma once

#include <vector>

#include "kernels.h"

namespace sgdm {

// The fastest first.
std::vector<const Kernels*> runnable_kernels();

}  // namespace sgdm
