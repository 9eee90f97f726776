// Attention by cuDNN: attention_cudnn.cpp where its frontend's headers were found at the build,
// else attention_cudnn_absent.cpp. SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "core/tensor.hpp"
#include "kernels/cuda/attention_engine.hpp"
#include "kernels/cuda/runtime.hpp"

namespace demist::cuda {

std::size_t cudnn_version();  // 91900: 9.19.0; 0: built without

// bf16, sequences of multiples of 128 tokens, which all see each other: Attention::keys is not
// read. No dropout: cuDNN would drop other elements. Bits depend on shapes and values only. Works
// in memory of its own, which nobody else writes to and which is zero when a shape first comes up.
// Throws EnvironmentError where there is no cuDNN, or the device is older than Hopper.
std::unique_ptr<AttentionEngine> make_cudnn_attention(const Stream& stream, Memory& memory);

}  // namespace demist::cuda
