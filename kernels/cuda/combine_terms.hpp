// Adds what several ranks sent, in the order of the ranks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/tensor.hpp"

namespace demist::cuda {

// out[i] = own and the `others` terms at terms[j * stride + i], added or compared (the largest; a
// NaN wins and +0 is larger than -0) in rank order: terms of ranks below `rank` come first, own is
// term `rank`. out: a row in fp32, of sums in bf16 too (rounded once, to nearest even), which may
// be own. All device memory. Reads 1 + others values in fp32 and writes 1 an element: 4 (1 +
// others) and out's bytes. Half of 16,384 tokens of 2,560, as each of two ranks adds them, are 210
// MB with sums in bf16, 63 us at 3.35 TB/s.
struct FloatTerms {
  const float* own = nullptr;
  const float* others = nullptr;  // of the other ranks, in rank order
  std::int64_t stride = 0;
  int count = 0;  // of the others
  int rank = 0;   // how many of them come before own
};
void sum_terms(cudaStream_t stream, const TensorView& out, const FloatTerms& terms);
void max_terms(cudaStream_t stream, const TensorView& out, const FloatTerms& terms);

}  // namespace demist::cuda
