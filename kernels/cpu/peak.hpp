// What matrix products reach on this rank's cores: the yardstick of "% of peak".
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/tensor.hpp"

namespace demist::cpu {

// FLOP/s of products that stay in each core's L2 cache, on this process's OpenMP threads together,
// measured over about `seconds`. Ranks that share a machine measure at the same time, so that their
// sum is the machine's. `compute` is the type of the operands; sums are fp32.
double measure_peak(DType compute, double seconds);

}  // namespace demist::cpu
