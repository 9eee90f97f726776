// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/attention_fused.hpp"
#include "kernels/cuda/attention_tile.hpp"

namespace demist::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kQueries = kWarps * 16;

struct QueryOperands {
  Rows<const bf16> qkv, dout, out;
  Rows<bf16> dqkv;
  const float* lse;  // [heads][lse_ld]
  std::int64_t lse_ld;
  BackwardWorkspace workspace;
};

// Two operands, a sum and two tiles of scores: only a head_dim of 64 leaves registers for all.
template <int kDim>
constexpr bool kInShared = kDim > 64;

// Where the block's queries and dout lie: behind the two stages, or, on their way to registers, in
// the second one.
template <int kDim>
constexpr int kOwnAt = (kInShared<kDim> ? 4 : 2) * kTileElements<kDim>;

// One warp's 16 queries: dQ = scale dS K over the key tiles.
template <int kDim, bool kDropout>
class QueryGradientWarp {
 public:
  static constexpr int kRows = 2;  // queries of one lane, neighbours

  __device__ QueryGradientWarp(const HeadProblem& problem, const QueryOperands& operands, int first)
      : problem_(problem),
        operands_(operands),
        scale2_(problem.scale * kLog2E),
        first_(first),
        query_(first + lane_row() * kRows) {
    const LaneRanges ranges(problem, query_);
    const auto dout = operands.dout.of(problem, 0, kDim), out = operands.out.of(problem, 0, kDim);
    const float* const lse = operands.lse + blockIdx.y * operands.lse_ld + problem.first_token();
    QueryRow* const rows =
        operands.workspace.rows + problem.head_row() * operands.workspace.padded_cols;
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      const int query = query_ + k;
      const bool empty = query >= problem.cols || ranges.length[k] <= 0;
      delta_[k] = empty ? 0.0f : row_delta(dout.row(query), out.row(query));
      for (int bits = 1; bits < 4; bits *= 2)
        delta_[k] += __shfl_xor_sync(kFullWarp, delta_[k], bits);
      lse2_[k] = empty ? kInfinity : lse[query] * kLog2E;
      const QueryRow row{lse2_[k], delta_[k], empty ? 0 : ranges.begin[k],
                         empty ? 0 : ranges.begin[k] + ranges.length[k]};
      if (lane_column() == 0) rows[query] = row;
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) dqueries_[n][2 * k] = dqueries_[n][2 * k + 1] = 0.0f;
    }
  }

  __device__ void load(const bf16* queries, const bf16* dout) {
    queries_.load(queries);
    dout_.load(dout);
  }

  template <bool kPlain>
  __device__ void step(const bf16* keys, const bf16* values, const KeyTile& tile, unsigned live) {
    const unsigned kept = kDropout ? decide(problem_, query_, tile) : 0u;
    if (kDropout) leave(kept, tile);
    Scores p, dp;
    multiply_rows<kDim, kPlain>(dp, dout_, values, live);
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool drop = kDropout && !(kept >> decision_bit(n, i) & 1);
        dp[n][i] = (drop ? 0.0f : dp[n][i] * problem_.keep_scale) - delta_[i / 2];
      }
    multiply_rows<kDim, kPlain>(p, queries_, keys, live);
    const LaneRanges ranges(problem_, query_);  // again: registers are dearer than this load
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = tile.key(n * 8 + lane_column() * 2 + i % 2);
        const bool seen = kPlain || ranges.sees(i / 2, key);
        dp[n][i] *= seen ? fast_exp2(p[n][i] * scale2_ - lse2_[i / 2]) : 0.0f;
      }
    multiply_columns<kDim, kPlain>(dqueries_, dp, keys, live);
  }

  __device__ void store(bf16* strip, const Rows<bf16>& dqueries) {
    const float factor[kRows] = {problem_.scale, problem_.scale};
    store_strip<kDim>(strip, dqueries_, factor, dqueries, first_, problem_.cols);
  }

 private:
  // This lane's part of the row's sum.
  __device__ static float row_delta(const bf16* dout, const bf16* out) {
    float sum = 0.0f;
#pragma unroll
    for (int piece = lane_column(); piece < kDim / 8; piece += 4) {
      const Vec16<unsigned> left = load_words(dout + piece * 8),
                            right = load_words(out + piece * 8);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sum += __uint_as_float(left[i] << 16) * __uint_as_float(right[i] << 16);
        sum += __uint_as_float(left[i] & 0xffff0000u) * __uint_as_float(right[i] & 0xffff0000u);
      }
    }
    return sum;
  }

  // Stores the decisions of the lane's two queries for the key kernel, one byte a draw.
  __device__ void leave(unsigned kept, const KeyTile& tile) const {
    const BackwardWorkspace& to = operands_.workspace;
    const std::int64_t draws = (problem_.head_row() * to.groups + tile.group()) * 16;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const auto two = static_cast<std::uint16_t>(kept >> (i * 16));
      store_word(to.kept + (draws + tile.draw(i)) * to.padded_cols + query_, two);
    }
  }

  const HeadProblem& problem_;
  const QueryOperands& operands_;
  float scale2_;
  int first_, query_;
  using Operand = std::conditional_t<kInShared<kDim>, SharedOperand<kDim>, RegisterOperand<kDim>>;
  Operand queries_, dout_;
  Sums<kDim> dqueries_;
  float lse2_[kRows], delta_[kRows];
};

// Reads q, k, v, dout and out once from memory, writes dq and the workspace: 12 cols head_dim bytes
// plus cols^2 / 8 with dropout, and 6 cols^2 head_dim FLOP per head of a sequence. For 64 x 512
// tokens and 12 heads of 64 an H100 takes at least 98 us for the memory, 78 us on its tensor cores,
// and 182 us for shared memory, from which each warp reads the whole tiles.
// Registers a thread (sm_80, sm_90; nothing spills), with dropout: head_dim 64 255, 255,
// 80 251, 255, 128 255, 255; shared memory 36, 66, 102 KiB a block.
// Two blocks a multiprocessor; one for 128 on an A100, whose shared memory is 164 KiB.
template <int kDim, bool kDropout>
__global__ void __launch_bounds__(kThreads, 2)
    query_gradient_kernel(HeadProblem problem, QueryOperands operands) {
  constexpr int kStage = 2 * kTileElements<kDim>;
  bf16* const stages = dynamic_shared<bf16>();
  bf16* const own = stages + kOwnAt<kDim>;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int first = static_cast<int>(blockIdx.x) * kQueries;
  bf16* const strip = own + warp * 16 * kPitch<kDim>;
  const auto keys = operands.qkv.of(problem, 1, kDim), values = operands.qkv.of(problem, 2, kDim);

  const auto queries_of = operands.qkv.of(problem, 0, kDim).from(first);
  load_tile<kDim, kThreads, StripOrder>(own, queries_of, problem.cols - first, kAllChunks);
  load_tile<kDim, kThreads, StripOrder>(own + kTileElements<kDim>,
                                        operands.dout.of(problem, 0, kDim).from(first),
                                        problem.cols - first, kAllChunks);
  copy_async_commit();
  const VisibleKeys visible(problem, first, kQueries);
  KeyTile tile = next_key_tile(visible, 0);
  if (tile.index >= 0)
    load_key_tile<kDim, kThreads>(stages, keys, values, tile, visible, problem.cols);
  copy_async_commit();
  QueryGradientWarp<kDim, kDropout> queries(problem, operands, first + warp * 16);
  copy_async_wait<1>();
  __syncthreads();
  queries.load(strip, strip + kTileElements<kDim>);

  for (int stage = 0; tile.index >= 0;
       stage ^= 1) {  // one barrier a tile, as in the forward kernel
    copy_async_wait<0>();
    __syncthreads();
    const KeyTile next = next_key_tile(visible, tile.index + 1);
    if (next.index >= 0)
      load_key_tile<kDim, kThreads>(stages + (stage ^ 1) * kStage, keys, values, next, visible,
                                    problem.cols);
    copy_async_commit();
    const bf16* const k = stages + stage * kStage;
    // For 128 the second body would cost spilled registers, and masks are little beside its
    // products.
    if (kDim < 128 && tile.plain(visible))
      queries.template step<true>(k, k + kTileElements<kDim>, tile, kAllChunks);
    else
      queries.template step<false>(k, k + kTileElements<kDim>, tile, tile.live(visible));
    tile = next;
  }
  __syncthreads();
  queries.store(strip, operands.dqkv.of(problem, 0, kDim));
}

template <int kDim, bool kDropout>
void launch_kernel(const HeadProblem& problem, const QueryOperands& operands,
                   std::int64_t sequences, cudaStream_t stream) {
  constexpr std::size_t kBytes = (kOwnAt<kDim> + 2 * kTileElements<kDim>)*sizeof(bf16);
  const dim3 grid(static_cast<unsigned>((problem.cols + kQueries - 1) / kQueries),
                  static_cast<unsigned>(problem.heads), static_cast<unsigned>(sequences));
  launch(query_gradient_kernel<kDim, kDropout>, grid, kThreads, kBytes, stream, problem, operands);
}

template <int kDim>
void launch_dim(const AttentionBackward& tensors, const Attention& op,
                const BackwardWorkspace& workspace, cudaStream_t stream) {
  const QueryOperands operands{rows_of<const bf16>(tensors.qkv),
                               rows_of<const bf16>(tensors.dout),
                               rows_of<const bf16>(tensors.out),
                               rows_of<bf16>(tensors.dqkv),
                               tensors.lse.as<float>(),
                               tensors.lse.ld,
                               workspace};
  const auto start = op.dropout.active() ? &launch_kernel<kDim, true> : &launch_kernel<kDim, false>;
  start(HeadProblem(op), operands, op.grid.rows, stream);
}

}  // namespace

void launch_query_gradient(const AttentionBackward& tensors, const Attention& op,
                           const BackwardWorkspace& workspace, cudaStream_t stream) {
  if (op.head_dim == 64) launch_dim<64>(tensors, op, workspace, stream);
  if (op.head_dim == 80) launch_dim<80>(tensors, op, workspace, stream);
  if (op.head_dim == 128) launch_dim<128>(tensors, op, workspace, stream);
}

}  // namespace demist::cuda
