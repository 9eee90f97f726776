// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/attention_fused.hpp"

#include <string>

#include "core/error.hpp"
#include "kernels/cuda/work_sizes.hpp"

namespace demist::cuda {
namespace {

AttentionWork work_of(const Attention& op) {
  static_assert(sizeof(QueryRow) == 16);
  return {op.grid.rows, op.grid.cols, op.heads, op.dropout.active()};
}

bool starts_at_16_bytes(const ConstTensorView& view) {
  return reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0 && view.ld % 8 == 0;
}

// Sequences are the z dimension of the kernels' grids.
void check_sequences(const Attention& op) {
  if (op.grid.rows > kMaxGridSequences)
    throw ConfigError("attention on the device: " + std::to_string(op.grid.rows) +
                      " sequences in a micro-batch, at most " + std::to_string(kMaxGridSequences) +
                      " fit; lower batch.max_tokens");
}

}  // namespace

bool fused_attention_supports(const ConstTensorView& qkv, const Attention& op) {
  return has_fused_attention(qkv.dtype, op.head_dim) && starts_at_16_bytes(qkv);
}

std::size_t fused_attention_workspace(const Attention& op) { return work_of(op).fused_bytes(); }

BackwardWorkspace backward_workspace(void* bytes, const Attention& op) {
  const AttentionWork work = work_of(op);
  return {static_cast<QueryRow*>(bytes), static_cast<std::uint8_t*>(bytes) + work.row_bytes(),
          work.padded_cols(), work.draw_groups()};
}

void fused_attention_forward(const Launch& launch, const AttentionForward& tensors,
                             const Attention& op) {
  ensure(fused_attention_supports(tensors.qkv, op) && starts_at_16_bytes(tensors.out),
         "fused_attention_forward: ask fused_attention_supports first");
  check_sequences(op);
  if (op.grid.tokens() > 0) launch_attention_forward(tensors, op, launch.stream);
}

void fused_attention_backward(const Launch& launch, const AttentionBackward& tensors,
                              const Attention& op) {
  ensure(fused_attention_supports(tensors.qkv, op) && starts_at_16_bytes(tensors.dqkv) &&
             starts_at_16_bytes(tensors.dout) && starts_at_16_bytes(tensors.out),
         "fused_attention_backward: ask fused_attention_supports first");
  check_sequences(op);
  const BackwardWorkspace parts = backward_workspace(
      launch.scratch<std::uint8_t>(static_cast<std::int64_t>(fused_attention_workspace(op))), op);
  if (op.grid.tokens() == 0) return;
  launch_query_gradient(tensors, op, parts, launch.stream);
  launch_key_gradient(tensors, op, parts, launch.stream);
}

}  // namespace demist::cuda
