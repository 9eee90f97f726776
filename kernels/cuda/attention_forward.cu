// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/attention_fused.hpp"
#include "kernels/cuda/attention_tile.hpp"

namespace demist::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kQueries = kWarps * 16;

struct ForwardOperands {
  Rows<const bf16> qkv;
  Rows<bf16> out;
  float* lse;  // [heads][lse_ld]
  std::int64_t lse_ld;
};

// One warp's queries: 16 rows, online softmax over the key tiles (Milakov and Gimelshein
// 2018; Dao 2023, algorithm 1).
template <int kDim, bool kDropout>
class ForwardWarp {
 public:
  static constexpr int kRows = 2;  // queries of one lane, neighbours

  __device__ ForwardWarp(const HeadProblem& problem, int first)
      : problem_(problem),
        scale2_(problem.scale * kLog2E),
        first_(first),
        query_(first + lane_row() * kRows) {
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      top_[k] = -kInfinity;
      sum_[k] = 0.0f;
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) out_[n][k * 2] = out_[n][k * 2 + 1] = 0.0f;
    }
  }

  __device__ void load_queries(const bf16* strip) { queries_.load(strip); }

  template <bool kPlain>
  __device__ void step(const bf16* keys, const bf16* values, const KeyTile& tile, unsigned live) {
    const unsigned kept = kDropout ? decide(problem_, query_, tile) : 0u;
    Scores scores;
    multiply_rows<kDim, kPlain>(scores, queries_, keys, live);
    if (!kPlain) mask(scores, tile);
    softmax(scores);
    if (kDropout) drop(scores, kept);
    multiply_columns<kDim, kPlain>(out_, scores, values, live);
  }

  __device__ void store(bf16* strip, const Rows<bf16>& out, float* lse) {
    const LaneRanges ranges(problem_, query_);
    float factor[kRows];
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      for (int bits = 1; bits < 4; bits *= 2) sum_[k] += __shfl_xor_sync(kFullWarp, sum_[k], bits);
      const bool empty = ranges.length[k] <= 0;
      factor[k] = empty ? 0.0f : problem_.keep_scale / sum_[k];
      if (lane_column() == 0 && query_ + k < problem_.cols)
        lse[query_ + k] = empty ? 0.0f : top_[k] * problem_.scale + logf(sum_[k]);
    }
    store_strip<kDim>(strip, out_, factor, out, first_, problem_.cols);
  }

 private:
  __device__ void mask(Scores& scores, const KeyTile& tile) const {
    const LaneRanges ranges(problem_, query_);  // again: registers are dearer than this load
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int key = tile.key(n * 8 + lane_column() * 2 + e);
#pragma unroll
        for (int k = 0; k < kRows; ++k)
          if (!ranges.sees(k, key)) scores[n][k * 2 + e] = -kInfinity;
      }
  }

  // scores = e^(scale (score - top)); moves out and sum to the new maximum.
  __device__ void softmax(Scores& scores) {
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      float next = top_[k];
#pragma unroll
      for (int n = 0; n < kTile / 8; ++n)
        next = fmaxf(next, fmaxf(scores[n][k * 2], scores[n][k * 2 + 1]));
      for (int bits = 1; bits < 4; bits *= 2)
        next = fmaxf(next, __shfl_xor_sync(kFullWarp, next, bits));
      // No key so far: any finite base makes every term 0.
      const float base = next == -kInfinity ? 0.0f : next * scale2_;
      const float factor = fast_exp2(top_[k] * scale2_ - base);
      top_[k] = next;
      sum_[k] *= factor;
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) out_[n][k * 2 + e] *= factor;
#pragma unroll
      for (int n = 0; n < kTile / 8; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& score = scores[n][k * 2 + e];
          score = fast_exp2(score * scale2_ - base);
          sum_[k] += score;
        }
    }
  }

  __device__ static void drop(Scores& scores, unsigned kept) {
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (!(kept >> decision_bit(n, i) & 1)) scores[n][i] = 0.0f;
  }

  const HeadProblem& problem_;
  float scale2_;
  int first_, query_;
  RegisterOperand<kDim> queries_;
  Sums<kDim> out_;
  float top_[kRows], sum_[kRows];
};

// Reads q, k, v once from memory (k and v again from the L2 cache for every block of queries) and
// writes out and lse: 8 cols head_dim + 4 cols bytes and 4 cols^2 head_dim FLOP per head of a
// sequence. At the limits of an H100 (3.35 TB/s, 989 TFLOP/s) 64 x 512 tokens and 12 heads of 64
// cost 60 us of memory and 52 us of tensor cores. What binds is shared memory: four warps read the
// whole tiles of keys and values, 80 KiB with what the copies write, 640 clocks at 128 bytes a
// clock where the products take 256: 130 us. exp2 (16 a clock and SM) adds 54 us of another unit,
// dropout's integer work about as much again, both beside the products of the other warps.
// Registers a thread (sm_80, sm_90; nothing spills), with dropout: head_dim 64 204, 215,
// 80 216, 218, 128 250, 255; shared memory 36, 44, 68 KiB a block.
// Two blocks, 8 warps, a multiprocessor, which 255 registers and 68 KiB allow on both.
template <int kDim, bool kDropout>
__global__ void __launch_bounds__(kThreads, 2)
    attention_forward_kernel(HeadProblem problem, ForwardOperands operands) {
  constexpr int kStage = 2 * kTileElements<kDim>;
  bf16* const stages = dynamic_shared<bf16>();
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int first = static_cast<int>(blockIdx.x) * kQueries;
  bf16* const strip = stages + kStage + warp * 16 * kPitch<kDim>;
  const auto keys = operands.qkv.of(problem, 1, kDim), values = operands.qkv.of(problem, 2, kDim);

  load_tile<kDim, kThreads, StripOrder>(stages + kStage,
                                        operands.qkv.of(problem, 0, kDim).from(first),
                                        problem.cols - first, kAllChunks);
  copy_async_commit();
  const VisibleKeys visible(problem, first, kQueries);
  KeyTile tile = next_key_tile(visible, 0);
  if (tile.index >= 0)
    load_key_tile<kDim, kThreads>(stages, keys, values, tile, visible, problem.cols);
  copy_async_commit();
  ForwardWarp<kDim, kDropout> queries(problem, first + warp * 16);
  copy_async_wait<1>();
  __syncthreads();
  queries.load_queries(strip);

  // One barrier a tile: behind it tile i has arrived and nobody reads the other stage any more, so
  // that tile i + 1 may be fetched while i is computed.
  for (int stage = 0; tile.index >= 0; stage ^= 1) {
    copy_async_wait<0>();
    __syncthreads();
    const KeyTile next = next_key_tile(visible, tile.index + 1);
    if (next.index >= 0)
      load_key_tile<kDim, kThreads>(stages + (stage ^ 1) * kStage, keys, values, next, visible,
                                    problem.cols);
    copy_async_commit();
    const bf16* const k = stages + stage * kStage;
    if (tile.plain(visible))
      queries.template step<true>(k, k + kTileElements<kDim>, tile, kAllChunks);
    else
      queries.template step<false>(k, k + kTileElements<kDim>, tile, tile.live(visible));
    tile = next;
  }
  __syncthreads();  // the strips lie where the last tile may have been
  queries.store(strip, operands.out.of(problem, 0, kDim),
                operands.lse + blockIdx.y * operands.lse_ld + problem.first_token());
}

template <int kDim, bool kDropout>
void launch_forward(const HeadProblem& problem, const ForwardOperands& operands,
                    std::int64_t sequences, cudaStream_t stream) {
  constexpr std::size_t kBytes = 4 * kTileElements<kDim> * sizeof(bf16);
  const dim3 grid(static_cast<unsigned>((problem.cols + kQueries - 1) / kQueries),
                  static_cast<unsigned>(problem.heads), static_cast<unsigned>(sequences));
  launch(attention_forward_kernel<kDim, kDropout>, grid, kThreads, kBytes, stream, problem,
         operands);
}

template <int kDim>
void launch_forward(const AttentionForward& tensors, const Attention& op, cudaStream_t stream) {
  const ForwardOperands operands{rows_of<const bf16>(tensors.qkv), rows_of<bf16>(tensors.out),
                                 tensors.lse.as<float>(), tensors.lse.ld};
  const auto start =
      op.dropout.active() ? &launch_forward<kDim, true> : &launch_forward<kDim, false>;
  start(HeadProblem(op), operands, op.grid.rows, stream);
}

}  // namespace

void launch_attention_forward(const AttentionForward& tensors, const Attention& op,
                              cudaStream_t stream) {
  if (op.head_dim == 64) launch_forward<64>(tensors, op, stream);
  if (op.head_dim == 80) launch_forward<80>(tensors, op, stream);
  if (op.head_dim == 128) launch_forward<128>(tensors, op, stream);
}

}  // namespace demist::cuda
