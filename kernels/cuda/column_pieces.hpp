// Column sums in a fixed order: rows in pieces, one partial sum a piece, pieces added in order.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/cuda/row_launch.hpp"

namespace demist::cuda {

static_assert(partial_width(1) == kChunk);

enum class Combine { overwrite, add };

// out[k] (absent: null) = or += partials summed over the pieces; partial k of piece p is at
// (p * sums + k) * partial_width(cols). sums <= 3.
struct PieceSums {
  static constexpr int kMaxSums = 3;
  float* out[kMaxSums] = {};
  const float* partial = nullptr;
  std::int64_t pieces = 0;
  int sums = 1;
};
void combine_pieces(const Launch& launch, const PieceSums& op, std::int64_t cols, Combine combine);

}  // namespace demist::cuda
