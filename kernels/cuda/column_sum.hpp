// The kernel that sums columns of something computed row by row.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/cuda/column_pieces.hpp"

namespace demist::cuda {

// A block of 8 warps takes 256 columns (a chunk a lane) of one piece; warp w takes rows w, w + 8,
// ... of the piece, and the warps' sums are added in order.
constexpr int kColumnSumWarps = 8;
constexpr std::int64_t kColumnSumWidth = kWarpSize * kChunk;

inline std::size_t column_sum_bytes(std::int64_t rows, std::int64_t cols) {
  return partial_bytes(ColumnPieces(rows, kColumnSumPieces).count, cols);
}

// source.load(row, column) reads what source.finish(row, column, loaded) turns into a Chunk to add;
// finish may store what else it makes. For columns below `cols` only. A warp reads two rows before
// it finishes one, and three blocks fit on a multiprocessor, so that enough reads are on their way.
template <class Source>
__global__ __launch_bounds__(kWarpSize* kColumnSumWarps,
                             3) void column_sum_kernel(float* partial, Source source,
                                                       std::int64_t rows, std::int64_t cols,
                                                       std::int64_t piece_rows) {
  auto& warp_sums = shared<float[kColumnSumWarps][kChunk][kWarpSize], struct WarpSums>();
  const int lane = threadIdx.x, warp = threadIdx.y;
  const std::int64_t first = blockIdx.x * kColumnSumWidth, column = first + lane * kChunk;
  const std::int64_t begin = blockIdx.y * piece_rows;
  const std::int64_t end = begin + piece_rows < rows ? begin + piece_rows : rows;
  Chunk sum{};
  if (column < cols)
    for (std::int64_t r = begin + warp; r < end; r += 2 * kColumnSumWarps) {
      const std::int64_t next = r + kColumnSumWarps;
      const auto loaded = source.load(r, column);
      const auto loaded_next = source.load(next < end ? next : r, column);
      add_to(sum, source.finish(r, column, loaded));
      if (next < end) add_to(sum, source.finish(next, column, loaded_next));
    }
  for (int i = 0; i < kChunk; ++i) warp_sums[warp][i][lane] = sum[i];
  __syncthreads();
  // Thread (lane, i) adds what the warps have for element i of this lane's chunk.
  static_assert(kColumnSumWarps == kChunk);
  if (column >= cols) return;
  float total = 0;
  for (int w = 0; w < kColumnSumWarps; ++w) total += warp_sums[w][warp][lane];
  partial[blockIdx.y * partial_width(cols) + column + warp] = total;
}

// out [cols] = or += the column sums of source over `rows` rows.
template <class Source>
void sum_columns(const Launch& launch, std::span<float> out, const Source& source,
                 std::int64_t rows, Combine combine = Combine::overwrite) {
  const auto cols = static_cast<std::int64_t>(out.size());
  const ColumnPieces pieces(rows, kColumnSumPieces);
  float* partial = launch.scratch<float>(pieces.count * partial_width(cols));
  if (pieces.count > 0 && cols > 0)
    cuda::launch(column_sum_kernel<Source>, blocks(ceil_div(cols, kColumnSumWidth), pieces.count),
                 dim3(kWarpSize, kColumnSumWarps), 0, launch.stream, partial, source, rows, cols,
                 pieces.piece_rows);
  combine_pieces(launch, {.out = {out.data()}, .partial = partial, .pieces = pieces.count}, cols,
                 combine);
}

}  // namespace demist::cuda
