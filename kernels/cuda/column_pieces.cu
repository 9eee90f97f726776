// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/column_pieces.hpp"

namespace demist::cuda {
namespace {

constexpr int kSegments =
    8;  // each adds an eighth of the pieces, then the eight are added in order

// 4 bytes a partial: 256 pieces of 3,072 columns are 3 MB, 1 us at 3.35 TB/s; waiting for memory
// takes longer, hence the segments.
__global__ __launch_bounds__(kWarpSize* kSegments) void combine_kernel(PieceSums op,
                                                                       std::int64_t cols,
                                                                       bool add) {
  auto& segment_sums = shared<float[kSegments][kWarpSize], struct SegmentSums>();
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * kWarpSize + threadIdx.x;
  const std::int64_t length = (op.pieces + kSegments - 1) / kSegments;
  const std::int64_t begin = threadIdx.y * length;
  const std::int64_t end = begin + length < op.pieces ? begin + length : op.pieces;
  const std::int64_t stride = op.sums * partial_width(cols);
  const float* partial = op.partial + blockIdx.y * partial_width(cols) + column;
  float sum = 0;
  if (column < cols)
    for (std::int64_t p = begin; p < end; ++p) sum += partial[p * stride];
  segment_sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  float* out = blockIdx.y == 0 ? op.out[0] : blockIdx.y == 1 ? op.out[1] : op.out[2];
  if (threadIdx.y > 0 || column >= cols || !out) return;
  float total = add ? out[column] : 0.0f;
  for (int segment = 0; segment < kSegments; ++segment) total += segment_sums[segment][threadIdx.x];
  out[column] = total;
}

}  // namespace

void combine_pieces(const Launch& launch, const PieceSums& op, std::int64_t cols, Combine combine) {
  if (cols == 0) return;
  cuda::launch(combine_kernel, blocks(ceil_div(cols, kWarpSize), op.sums),
               dim3(kWarpSize, kSegments), 0, launch.stream, op, cols, combine == Combine::add);
}

}  // namespace demist::cuda
