// The host's side of row kernels: from views to kernel arguments, and from shapes to grids.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "core/tensor.hpp"
#include "kernels/cuda/chunk.hpp"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/work_sizes.hpp"
#include "kernels/cuda/workspace.hpp"

namespace demist::cuda {

// Blocks along x; y and z hold small counts only.
inline dim3 blocks(std::int64_t x, std::int64_t y = 1) {
  ensure(x <= std::numeric_limits<std::int32_t>::max() && y <= 65535,
         "CUDA grid is too large: the matrix has more rows and columns than a kernel can cover");
  return dim3(static_cast<unsigned>(x), static_cast<unsigned>(y));
}

template <class T>
Rows<T> rows_of(const TensorView& view) {
  return {static_cast<T*>(view.data), view.ld};
}
template <class T>
Rows<const T> rows_of(const ConstTensorView& view) {
  return {static_cast<const T*>(view.data), view.ld};
}

inline bool is_aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }
template <class T>
bool is_aligned(std::span<T> values) {
  return is_aligned(values.data());
}
// Absent views are.
inline bool is_aligned(const ConstTensorView& view) {
  const std::size_t row_bytes = static_cast<std::size_t>(view.ld) * size_of(view.dtype);
  return is_aligned(view.data) && (view.rows <= 1 || row_bytes % 16 == 0);
}
template <class... Operand>
bool all_aligned(const Operand&... operands) {
  return (is_aligned(operands) && ...);
}

// Calls body.operator()<T>() with the element type that dtype names.
template <class Body>
void with_element(DType dtype, Body&& body) {
  if (dtype == DType::bf16)
    body.template operator()<bf16>();
  else
    body.template operator()<float>();
}

// Calls body.operator()<kBest>() where the condition that it states holds, else with Access::any.
template <Access kBest, class Body>
void with_access(bool holds, Body&& body) {
  if (holds)
    body.template operator()<kBest>();
  else
    body.template operator()<Access::any>();
}

// A matrix cut into blocks of chunks, a chunk a thread. Threads of a block are neighbours in a row.
struct RowTiles {
  static constexpr std::int64_t kMaxThreads = 256;
  std::int64_t row_count;
  int column_blocks, threads;

  RowTiles(std::int64_t rows, std::int64_t cols) : row_count(rows) {
    const std::int64_t chunks = std::max<std::int64_t>(1, ceil_div(cols, kChunk));
    column_blocks = static_cast<int>(ceil_div(chunks, kMaxThreads));
    threads = static_cast<int>(round_up(ceil_div(chunks, column_blocks), kWarpSize));
  }
  // `rows_a_thread` rows, one below the other, for each thread.
  dim3 grid(std::int64_t rows_a_thread = 1) const {
    return blocks(ceil_div(row_count, rows_a_thread) * column_blocks);
  }
  dim3 block() const { return dim3(static_cast<unsigned>(threads)); }
};

// The same inside the kernel: this thread's first row and column.
struct TilePlace {
  std::int64_t row, column;
  __device__ explicit TilePlace(int column_blocks, int rows_a_thread = 1) {
    const unsigned row_block = blockIdx.x / column_blocks,
                   column_block = blockIdx.x % column_blocks;
    row = static_cast<std::int64_t>(row_block) * rows_a_thread;
    column = (static_cast<std::int64_t>(column_block) * blockDim.x + threadIdx.x) * kChunk;
  }
};

}  // namespace demist::cuda
