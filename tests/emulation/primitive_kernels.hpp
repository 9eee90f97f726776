// Small kernels around one device primitive each, for tests that also run on a real device.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace demist::cuda::test {

// One warp. out[op][lane] = op(in[lane]); the order of ops is that of kShuffleOps.
enum ShuffleOp { kIndex5, kXor3, kDown4, kUp2, kWidth8Xor4, kWidth8Index9, kShuffleOps };
void shuffle_int(int* out, const int* in, cudaStream_t stream);
void shuffle_int64(std::int64_t* out, const std::int64_t* in, cudaStream_t stream);
void shuffle_float(float* out, const float* in, cudaStream_t stream);
void shuffle_double(double* out, const double* in, cudaStream_t stream);

}  // namespace demist::cuda::test
