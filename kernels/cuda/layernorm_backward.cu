// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/column_pieces.hpp"
#include "kernels/cuda/philox.hpp"
#include "kernels/cuda/row_group.hpp"
#include "kernels/cuda/row_kernels.hpp"

namespace demist::cuda {
namespace {

// A block does the rows of one piece, a few side by side, a chunk a thread, and keeps three column
// sums in registers.
constexpr int kMaxThreads = kMaxLayerNormColumns / kChunk;
constexpr int kMaxWarps = kMaxThreads / kWarpSize;
constexpr int kUsualThreads = 256;

RowGroup row_group(std::int64_t cols) {
  const auto threads = static_cast<int>(round_up(ceil_div(cols, kChunk), kWarpSize));
  return {threads, 1, std::max(1, kUsualThreads / threads)};
}

enum Sum { kGamma, kBeta, kBias, kSums };
static_assert(kSums <= PieceSums::kMaxSums && kSums == kLayerNormSums);

template <class T>
struct Backward {
  Rows<T> dsum, dx;
  Rows<const T> dy, extra, sum;
  const float *mean, *rstd, *gamma;
  float* partial;  // [pieces][kSums][partial_width(cols)]
  bool wants_bias;
  DropoutRows dropout;
  std::int64_t rows, cols, piece_rows;
};

// Of a row: the sums over its columns of dy gamma and of dy gamma times the normalized value.
struct RowSums {
  float gradient, product;
  __device__ RowSums& operator+=(const RowSums& other) {
    gradient += other.gradient;
    product += other.product;
    return *this;
  }
};
__device__ __forceinline__ RowSums warp_sum(RowSums value) {
  return {cuda::warp_sum(value.gradient), cuda::warp_sum(value.product)};
}

// What a thread holds of a row: dy, dy gamma, and the normalized value.
struct Held {
  Chunk dy, scaled, normal;
};

template <class T, Access kAccess>
__device__ __forceinline__ Held load_held(const Backward<T>& op, std::int64_t r,
                                          std::int64_t column) {
  const float mean = op.mean[r], rstd = op.rstd[r];
  Held held{load_chunk<kAccess>(op.dy[r], column, op.cols),
            load_chunk<kAccess>(op.gamma, column, op.cols),
            load_chunk<kAccess>(op.sum[r], column, op.cols)};
  for (int i = 0; i < kChunk; ++i) {
    held.scaled[i] *= held.dy[i];
    held.normal[i] = (held.normal[i] - mean) * rstd;
  }
  return held;
}

// LayerNorm's gradient by its input, given the row's means.
__device__ __forceinline__ Chunk input_gradient(const Held& held, const RowSums& mean, float rstd) {
  Chunk v;
  for (int i = 0; i < kChunk; ++i)
    v[i] = (held.scaled[i] - mean.gradient - held.normal[i] * mean.product) * rstd;
  return v;
}

// The column sums of the block's rows side by side, added in order, to to[0, kChunk).
// [row][element][thread] in shared memory: neighbours in a warp are neighbours there.
__device__ __forceinline__ void store_block_sums(float* to, Chunk sums, bool stores) {
  const unsigned others = blockDim.y - 1, width = blockDim.x;
  if (others > 0) {
    float* held = dynamic_shared<float>();
    __syncthreads();
    if (threadIdx.y > 0)
      for (int i = 0; i < kChunk; ++i)
        held[((threadIdx.y - 1) * kChunk + i) * width + threadIdx.x] = sums[i];
    __syncthreads();
    if (threadIdx.y > 0) return;
    for (unsigned y = 0; y < others; ++y)
      for (int i = 0; i < kChunk; ++i) sums[i] += held[(y * kChunk + i) * width + threadIdx.x];
  }
  if (stores) store_whole(to, sums);
}

// Up to 5 s bytes an element at size s (dy, sum, extra; dsum, dx): 32,768 tokens of 768 in bf16 are
// 252 MB, 75 us at 3.35 TB/s; the partial column sums add 9 MB.
template <class T, Access kAccess>
__global__ __launch_bounds__(kMaxThreads) void backward_kernel(Backward<T> op) {
  auto& slots = shared<RowSums[2][kMaxWarps], struct Slots>();  // turn about: one barrier a row
  const std::int64_t chunk = threadIdx.x, column = chunk * kChunk;
  const std::int64_t begin = blockIdx.x * op.piece_rows;
  const std::int64_t end = begin + op.piece_rows < op.rows ? begin + op.piece_rows : op.rows;
  const auto size = static_cast<float>(op.cols);
  Chunk dgamma{}, dbeta{}, dbias{};
  int turn = 0;
  for (std::int64_t first = begin; first < end; first += blockDim.y, turn ^= 1) {
    // A thread without a row goes along with the last one: lanes draw, and warps meet, together.
    const bool here = first + threadIdx.y < end && column < op.cols;
    const std::int64_t r = first + threadIdx.y < end ? first + threadIdx.y : end - 1;
    Chunk v{};
    if (op.dy) {
      const Held held = here ? load_held<T, kAccess>(op, r, column) : Held{};
      RowSums sums = {};
      for (int i = 0; i < kChunk; ++i) {
        sums += {held.scaled[i], held.scaled[i] * held.normal[i]};
        dgamma[i] += held.dy[i] * held.normal[i];
        dbeta[i] += held.dy[i];
      }
      sums = row_sum(sums, slots[turn]);
      v = input_gradient(held, {sums.gradient / size, sums.product / size}, op.rstd[r]);
    }
    const Chunk factor = dropout_factors(op.dropout, r, chunk);
    if (!here) continue;
    if (op.extra) add_to(v, load_chunk<kAccess>(op.extra[r], column, op.cols));
    store_chunk<kAccess>(op.dsum[r], column, op.cols, v);
    multiply(v, factor);
    if (op.dx) store_chunk<kAccess>(op.dx[r], column, op.cols, v);
    add_to(dbias, v);
  }
  const std::int64_t width = partial_width(op.cols);
  float* partial = op.partial + blockIdx.x * kSums * width + column;
  if (op.dy) {
    store_block_sums(partial + kGamma * width, dgamma, column < op.cols);
    store_block_sums(partial + kBeta * width, dbeta, column < op.cols);
  }
  if (op.wants_bias) store_block_sums(partial + kBias * width, dbias, column < op.cols);
}

template <class T>
Backward<T> arguments(const AddLayerNormBackward& op, float* partial, std::int64_t piece_rows) {
  return {.dsum = rows_of<T>(op.dsum),
          .dx = rows_of<T>(op.dx),
          .dy = rows_of<T>(op.dy),
          .extra = rows_of<T>(op.dsum_extra),
          .sum = rows_of<T>(op.sum),
          .mean = op.mean.data(),
          .rstd = op.rstd.data(),
          .gamma = op.gamma.data(),
          .partial = partial,
          .wants_bias = !op.dbias.empty(),
          .dropout = dropout_rows(op.dropout, op.grid),
          .rows = op.dsum.rows,
          .cols = op.dsum.cols,
          .piece_rows = piece_rows};
}

void run_rows(const Launch& launch, const AddLayerNormBackward& op, float* partial,
              const ColumnPieces& pieces) {
  const RowGroup group = row_group(op.dsum.cols);
  const bool whole = op.dsum.cols % kChunk == 0 &&
                     all_aligned(op.dsum, op.dx, op.dy, op.dsum_extra, op.sum) &&
                     is_aligned(op.gamma);
  const dim3 grid = blocks(pieces.count), block(group.threads, group.rows);
  const std::size_t shared_bytes =
      static_cast<std::size_t>((group.rows - 1) * group.threads * kChunk) * sizeof(float);
  with_element(op.dsum.dtype, [&]<class T>() {
    with_access<Access::whole>(whole, [&]<Access kAccess>() {
      cuda::launch(backward_kernel<T, kAccess>, grid, block, shared_bytes, launch.stream,
                   arguments<T>(op, partial, pieces.piece_rows));
    });
  });
}

}  // namespace

std::size_t add_layernorm_backward_workspace(std::int64_t rows, std::int64_t cols) {
  return partial_bytes(ColumnPieces(rows, kLayerNormPieces).count * kSums, cols);
}

void add_layernorm_backward(const Launch& launch, const AddLayerNormBackward& op) {
  const std::int64_t cols = op.dsum.cols;
  check_layernorm_columns(cols);
  const ColumnPieces pieces(op.dsum.rows, kLayerNormPieces);
  float* partial = launch.scratch<float>(pieces.count * kSums * partial_width(cols));
  if (pieces.count > 0) run_rows(launch, op, partial, pieces);
  PieceSums sums{.partial = partial, .pieces = pieces.count, .sums = kSums};
  if (op.dy) {
    sums.out[kGamma] = op.dgamma.data();
    sums.out[kBeta] = op.dbeta.data();
  }
  sums.out[kBias] = op.dbias.data();
  combine_pieces(launch, sums, cols, Combine::overwrite);
}

}  // namespace demist::cuda
