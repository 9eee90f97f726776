// What computes attention on a CUDA device: one operation, several implementations.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "kernels/cuda/attention.hpp"

namespace demist::cuda {

// Shapes, types and results are those of kernels/backend.hpp; calls are asynchronous on the stream
// of the launch, whose workspace has the bytes that the engine asks for.
class AttentionEngine {
 public:
  virtual ~AttentionEngine() = default;
  virtual bool supports(const ConstTensorView& qkv, const Attention& op) const = 0;
  // REQUIRES, of all below: supports().
  virtual std::size_t forward_workspace(const ConstTensorView& qkv, const Attention& op) const = 0;
  virtual std::size_t backward_workspace(const ConstTensorView& qkv, const Attention& op) const = 0;
  virtual void forward(const Launch& launch, const AttentionForward& tensors,
                       const Attention& op) = 0;
  virtual void backward(const Launch& launch, const AttentionBackward& tensors,
                        const Attention& op) = 0;
};

}  // namespace demist::cuda
