// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/attention_fused.hpp"

#include "core/error.hpp"

namespace demist::cuda {
namespace {

constexpr std::int64_t kTile = 64, kGroup = 128, kDraws = 16;

std::int64_t padded_cols(const Attention& op) { return (op.grid.cols + kTile - 1) / kTile * kTile; }
std::int64_t groups(const Attention& op) {
  return op.dropout.active() ? (op.grid.cols + kGroup - 1) / kGroup : 0;
}
std::size_t rows_bytes(const Attention& op) {
  return static_cast<std::size_t>(op.grid.rows * op.heads * padded_cols(op)) * sizeof(QueryRow);
}

bool starts_at_16_bytes(const ConstTensorView& view) {
  return reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0 && view.ld % 8 == 0;
}

}  // namespace

bool fused_attention_supports(const ConstTensorView& qkv, const Attention& op) {
  const bool dim = op.head_dim == 64 || op.head_dim == 80 || op.head_dim == 128;
  return qkv.dtype == DType::bf16 && dim && starts_at_16_bytes(qkv);
}

std::size_t fused_attention_workspace(const Attention& op) {
  return rows_bytes(op) +
         static_cast<std::size_t>(op.grid.rows * op.heads * groups(op) * kDraws * padded_cols(op));
}

void fused_attention_forward(const Launch& launch, const AttentionForward& tensors,
                             const Attention& op) {
  ensure(fused_attention_supports(tensors.qkv, op) && starts_at_16_bytes(tensors.out),
         "fused_attention_forward: ask fused_attention_supports first");
  if (op.grid.tokens() > 0) launch_attention_forward(tensors, op, launch.stream);
}

void fused_attention_backward(const Launch& launch, const AttentionBackward& tensors,
                              const Attention& op) {
  ensure(fused_attention_supports(tensors.qkv, op) && starts_at_16_bytes(tensors.dqkv) &&
             starts_at_16_bytes(tensors.dout) && starts_at_16_bytes(tensors.out),
         "fused_attention_backward: ask fused_attention_supports first");
  auto* const bytes =
      launch.scratch<std::uint8_t>(static_cast<std::int64_t>(fused_attention_workspace(op)));
  if (op.grid.tokens() == 0) return;
  const BackwardWorkspace parts{reinterpret_cast<QueryRow*>(bytes), bytes + rows_bytes(op),
                                padded_cols(op), groups(op)};
  launch_query_gradient(tensors, op, parts, launch.stream);
  launch_key_gradient(tensors, op, parts, launch.stream);
}

}  // namespace demist::cuda
