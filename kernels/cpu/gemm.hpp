// Matrix products by oneDNN, with results that do not depend on the number of threads.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "core/tensor.hpp"
#include "kernels/types.hpp"

namespace demist::cpu {

// Backend::gemm: out (S or fp32) = op(a) op(b) (both S) [+ bias fp32 [n]], or out += (fp32 only).
// Uses the OpenMP threads of the caller; inside a parallel region, the calling thread alone.
void gemm(TensorView out, ConstTensorView a, ConstTensorView b, Transpose transpose,
          bool accumulate, std::span<const float> bias);

}  // namespace demist::cpu
