// Column sums in a fixed order: rows in pieces, one partial sum a piece, pieces added in order.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/cuda/row_launch.hpp"

namespace demist::cuda {

// How many pieces, and how long: a function of the shape only.
struct ColumnPieces {
  std::int64_t piece_rows = 0, count = 0;
  ColumnPieces(std::int64_t rows, std::int64_t max_pieces, std::int64_t min_rows)
      : piece_rows(std::max(ceil_div(rows, max_pieces), min_rows)),
        count(ceil_div(rows, piece_rows)) {}
};

// Floats of one partial sum of `cols` columns: every one starts on 16 bytes and holds whole chunks.
constexpr std::int64_t partial_width(std::int64_t cols) { return round_up(cols, kChunk); }

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
