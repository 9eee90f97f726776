// A row that several threads hold in registers, and sums over it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/cuda/row_launch.hpp"

namespace demist::cuda {

// A row's threads are the x dimension of the block, its warps follow one another; rows side by side
// are the y dimension. Thread t holds chunks t, t + threads, ... of its row.
struct RowGroup {
  int threads = 0;  // of a row, whole warps
  int chunks = 0;   // of a thread, at most
  int rows = 0;     // of a block
};

// The sum of `value` over the row's threads. With several warps a row: `slots` has one for each
// warp of the block, and no slot is written twice without a barrier since it was last read.
template <class Value>
__device__ __forceinline__ Value row_sum(Value value, Value* slots) {
  value = warp_sum(value);
  const int warps = static_cast<int>(blockDim.x) / kWarpSize;
  if (warps == 1) return value;
  Value* row_slots = slots + threadIdx.y * warps;
  if (threadIdx.x % kWarpSize == 0) row_slots[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  Value total = row_slots[0];
  for (int warp = 1; warp < warps; ++warp) total += row_slots[warp];
  return total;
}

// Calls body.operator()<kChunks>() with the number of chunks of a thread, 1 .. kMax.
template <int kMax, class Body>
void with_chunks(int chunks, Body&& body) {
  if constexpr (kMax > 1)
    if (chunks < kMax) return with_chunks<kMax - 1>(chunks, body);
  body.template operator()<kMax>();
}

}  // namespace demist::cuda
