// SPDX-License-Identifier: Apache-2.0
#include "worker/model/device_shapes.hpp"

#include <cstdint>

namespace demist {
namespace {

constexpr std::size_t kAlignment = 16;

}  // namespace

// Hidden features are whole heads, and the vocabulary is padded where it must be.
std::string device_shape_problem(const ModelConfig& model, DType compute, int tensor_size) {
  const auto unit = static_cast<std::int64_t>(kAlignment / size_of(compute));
  const auto problem = [unit](const char* size, std::int64_t is) {
    return std::string(size) + " is " + std::to_string(is) +
           ", and on GPUs must be a multiple of " + std::to_string(unit) +
           "; change one of them, or use the CPU (parallel.device: CPU, or CUDA_VISIBLE_DEVICES= "
           "where there is no recipe)";
  };
  if (model.head_dim() % unit != 0) return problem("model.hidden / model.heads", model.head_dim());
  if (model.ffn / tensor_size % unit != 0)
    return problem("model.ffn / parallel.tensor", model.ffn / tensor_size);
  return {};
}

}  // namespace demist
