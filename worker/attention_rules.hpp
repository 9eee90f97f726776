// What a recipe may wish to compute attention with, and when cuDNN can: pure functions.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/tensor.hpp"

namespace demist {

enum class AttentionWish { automatic, own, unfused, cudnn };

// All that cuDNN's rules look at.
struct CudnnCase {
  std::size_t version = 0;   // as AttentionChooser::cudnn_version(); 0: not in this build
  std::int64_t columns = 0;  // data::whole_columns()
  std::int64_t head_dim = 0;
  float dropout = 0;  // of attention probabilities
  DType compute = DType::bf16;
};
struct Refusal {
  std::string why, remedy;  // "rows of 100 tokens ...", "set ..."; empty: none
  explicit operator bool() const { return !why.empty(); }
};
// The first rule that does not hold. (That the backward pass is deterministic and cuDNN's workspace
// starts as zeros is how kernels/cuda/attention_cudnn.cpp calls it.)
Refusal cudnn_refusal(const CudnnCase& c);
// Passes every rule about versions: for questions that are asked before there is a device.
inline constexpr std::size_t kAnyGoodCudnn = 91900;
std::string cudnn_name(std::size_t version);  // "cuDNN 9.19.0"

}  // namespace demist
