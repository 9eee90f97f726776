// More live values than a thread of such a block has registers for.
// SPDX-License-Identifier: Apache-2.0
__global__ void __launch_bounds__(1024, 2) spill_kernel(float* values, int n) {
  float local[96];
  for (int i = 0; i < 96; ++i) local[i] = values[i * n + threadIdx.x];
  for (int round = 0; round < n; ++round) {
#pragma unroll
    for (int i = 0; i < 96; ++i) local[i] = local[(i + 1) % 96] * local[i] + local[(i + 7) % 96];
  }
  for (int i = 0; i < 96; ++i) values[i * n + threadIdx.x] = local[i];
}
