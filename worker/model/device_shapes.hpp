// What matrix products on GPUs ask of a model's sizes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "core/tensor.hpp"
#include "worker/config.hpp"

namespace demist {

// Empty, or which size of a rank's part is wrong and what to do: matrices, heads among them, start
// at multiples of 16 bytes there (kernels/cuda/gemm.hpp).
std::string device_shape_problem(const ModelConfig& model, DType compute, int tensor_size);

}  // namespace demist
