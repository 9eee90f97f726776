// Adds what several ranks sent, in the order of the ranks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace demist::cuda {

// out[i] = own and the `others` terms at terms[j * stride + i], added or compared (the largest; a
// NaN wins and +0 is larger than -0) in rank order: terms of ranks below `rank` come first, own is
// term `rank`. out may be own. All device memory. Reads 1 + others and writes 1 value an element:
// 4 (2 + others) bytes. Half of 16,384 tokens of 2,560 in fp32, as each of two ranks adds them, are
// 252 MB, 75 us at 3.35 TB/s.
struct FloatTerms {
  const float* own = nullptr;
  const float* others = nullptr;  // of the other ranks, in rank order
  std::int64_t stride = 0;
  int count = 0;  // of the others
  int rank = 0;   // how many of them come before own
};
void sum_terms(cudaStream_t stream, float* out, const FloatTerms& terms, std::int64_t size);
void max_terms(cudaStream_t stream, float* out, const FloatTerms& terms, std::int64_t size);

}  // namespace demist::cuda
