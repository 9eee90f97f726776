// Attention on a CUDA device (Backend::attention_forward and _backward): fused kernels for bf16 on
// tensor cores, and a path of matrix products and row kernels for every other shape and type.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/tensor.hpp"
#include "kernels/cuda/workspace.hpp"
#include "kernels/types.hpp"

namespace demist::cuda {

// Every pointer of tensors, workspaces and Attention (sample, keys.begin, keys.end) is device
// memory. Calls are asynchronous on the stream; all tensors are as kernels/backend.hpp says. Bits
// depend on shapes and values only.

struct AttentionForward {
  TensorView out, lse;
  ConstTensorView qkv;
};

struct AttentionBackward {
  TensorView dqkv;
  ConstTensorView dout, qkv, out, lse;
};

// Whether the fused kernels can: bf16, head_dim 64, 80 or 128, rows of qkv that start at multiples
// of 16 bytes. Any number of columns; they are made for up to some thousand.
bool fused_attention_supports(const ConstTensorView& qkv, const Attention& op);

// out and the like have rows at multiples of 16 bytes too. No workspace.
void fused_attention_forward(const Launch& launch, const AttentionForward& tensors,
                             const Attention& op);

// 16 bytes a query and head, and with dropout one bit a score.
std::size_t fused_attention_workspace(const Attention& op);
void fused_attention_backward(const Launch& launch, const AttentionBackward& tensors,
                              const Attention& op);

// Matrices [sequences][heads][rows, cols], row-major: element (r, c) of matrix (s, h) lies at
// data + s * sequence_stride + h * head_stride + r * ld + c (elements).
template <class Void>
struct MatrixBatch {
  Void* data;
  DType dtype;
  std::int64_t rows, cols, ld, sequence_stride, head_stride;
};

// The batched matrix product that the unfused path is made of; the backend brings one.
class BatchedGemm {
 public:
  virtual ~BatchedGemm() = default;
  // out = op(a) op(b) for every sequence and head, on the stream of the attention call. a and b
  // have one type; out has it too, or is fp32. Sums in fp32 in an order that depends on the shapes
  // of one matrix only.
  virtual void multiply(const MatrixBatch<void>& out, const MatrixBatch<const void>& a,
                        const MatrixBatch<const void>& b, Transpose transpose,
                        std::int64_t sequences, std::int64_t heads) = 0;
};

// S = Q K^T (fp32), P = dropout(softmax(S)), out = P V, a few sequences at a time. Any head_dim.
std::size_t unfused_attention_forward_workspace(const Attention& op, DType dtype);
void unfused_attention_forward(const Launch& launch, const AttentionForward& tensors,
                               const Attention& op, BatchedGemm& gemm);

// P again from S and lse; dP = dout V^T, dS = P (dropout'(dP) - rowsum(dout out)); dQ = dS K,
// dK = dS^T Q, dV = dropout(P)^T dout.
std::size_t unfused_attention_backward_workspace(const Attention& op, DType dtype);
void unfused_attention_backward(const Launch& launch, const AttentionBackward& tensors,
                                const Attention& op, BatchedGemm& gemm);

}  // namespace demist::cuda
