// What every attention kernel knows of its problem, and of the block's head and sequence.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include "core/philox.hpp"
#include "kernels/cuda/device.hpp"
#include "kernels/types.hpp"

namespace demist::cuda {
namespace {

// Keys whose dropout bits come from the same 16 random draws (kernels/types.hpp, Dropout).
constexpr int kGroup = 128;
constexpr float kLog2E = 1.44269504088896341f;
constexpr float kInfinity = __builtin_huge_valf();

// What every kernel knows of an Attention. Blocks: x = tile of queries or keys, y = head,
// z = sequence.
struct HeadProblem {
  int cols, heads, first_head;
  float scale;  // 1 / sqrt(head_dim)
  const std::uint64_t* sample;
  const std::int32_t *begin, *end;
  std::uint64_t dropout_key;
  std::uint32_t threshold;  // of a 16-bit draw
  float keep_scale;         // 1 without dropout

  explicit HeadProblem(const Attention& op)
      : cols(static_cast<int>(op.grid.cols)),
        heads(static_cast<int>(op.heads)),
        first_head(static_cast<int>(op.first_head)),
        scale(1.0f / std::sqrt(static_cast<float>(op.head_dim))),
        sample(op.grid.sample.data()),
        begin(op.keys.begin.data()),
        end(op.keys.end.data()),
        dropout_key(op.dropout.key),
        threshold(op.dropout.active() ? op.dropout.threshold() : 0),
        keep_scale(op.dropout.active() ? op.dropout.keep_scale() : 1.0f) {}

  __device__ std::int64_t first_token() const { return std::int64_t{blockIdx.z} * cols; }
  // Names a query's dropout rows (kernels/types.hpp, Attention).
  __device__ std::uint32_t dropout_position(int query) const {
    return static_cast<std::uint32_t>(query) * Attention::kMaxHeads +
           static_cast<std::uint32_t>(first_head) + blockIdx.y;
  }
  __device__ std::int64_t head_row() const {  // of [sequences][heads]
    return std::int64_t{blockIdx.z} * heads + blockIdx.y;
  }
};

// Row-major rows of one tensor; `of` moves to the block's sequence and head.
template <class T>
struct Rows {
  T* data;
  int ld;  // elements; 32 bits keep addresses to one instruction

  __device__ Rows of(const HeadProblem& problem, int part, int head_dim) const {
    const int head = part * problem.heads + static_cast<int>(blockIdx.y);
    return {data + problem.first_token() * ld + std::int64_t{head} * head_dim, ld};
  }
  __device__ T* row(int r) const { return data + std::int64_t{r} * ld; }
  __device__ Rows from(int r) const { return {row(r), ld}; }
};

template <class T, class View>
Rows<T> rows_of(const View& view) {
  return {static_cast<T*>(view.data), static_cast<int>(view.ld)};
}

}  // namespace
}  // namespace demist::cuda
