// Kernels with one defect each, which the emulated device must find. Never for a real device.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

namespace demist::cuda::test {

enum class Defect {
  none,
  // Each thread of a block of 64 writes a shared element and reads its mirror.
  read_before_write,  // no barrier between
  overwrite,          // no barrier before the next round writes
  unordered_write,    // threads of a block write one element of `out`
  warp_without_sync,  // lanes exchange through shared memory without __syncwarp
  // Asynchronous copies.
  copy_not_awaited,     // a tile is read before the wait
  copy_overtakes_read,  // the next tile is fetched into the one that others still read
  // Control flow.
  divergent_barriers,  // odd and even threads wait at different barriers
  early_exit,          // a thread leaves before the barrier
  lane_outside_mask,
  mixed_collectives,  // lanes of a warp shuffle at different places
  partial_warp_mma,
  // Memory.
  read_past_end,
  write_past_end,
  shared_past_end,
  dynamic_shared_past_end,
  misaligned_vector,
  unaligned_matrix_row,
  no_dynamic_shared,
  too_much_shared
};

// out[64] = in[64] reversed, three rounds of it, when nothing is wrong.
void run_defect(Defect defect, int* out, const int* in, cudaStream_t stream);
// A launch as large as the caller wants.
void run_nothing(dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream);

}  // namespace demist::cuda::test
