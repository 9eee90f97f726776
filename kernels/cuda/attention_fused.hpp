// The fused attention's kernels: one forward, two backward, and what the first of these leaves for
// the second.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/cuda/attention.hpp"

namespace demist::cuda {

// One query of one head as the key kernel needs it.
struct alignas(16) QueryRow {
  float lse2;               // lse / ln 2; infinity where no key is seen, which makes P 0
  float delta;              // rowsum(dout out) = rowsum(P dP)
  std::int32_t begin, end;  // keys seen
};

// Dropout's decisions are made once, by the query kernel, whose fragments use all 8 decisions of a
// random draw; those of the key kernel would use 2. One byte holds a draw: bit 2 w + e is key
// 32 w + 2 j + e of the group of 128.
struct BackwardWorkspace {
  QueryRow* rows;      // [sequences][heads][padded_cols]
  std::uint8_t* kept;  // [sequences][heads][groups][16 draws j][padded_cols queries]
  std::int64_t padded_cols, groups;
};
// In `bytes`, of fused_attention_workspace(op) bytes.
BackwardWorkspace backward_workspace(void* bytes, const Attention& op);

void launch_attention_forward(const AttentionForward& tensors, const Attention& op,
                              cudaStream_t stream);
// dQ, and the workspace.
void launch_query_gradient(const AttentionBackward& tensors, const Attention& op,
                           const BackwardWorkspace& workspace, cudaStream_t stream);
// dK and dV.
void launch_key_gradient(const AttentionBackward& tensors, const Attention& op,
                         const BackwardWorkspace& workspace, cudaStream_t stream);

}  // namespace demist::cuda
