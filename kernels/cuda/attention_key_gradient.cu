// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/attention_fused.hpp"
#include "kernels/cuda/attention_tile.hpp"

namespace demist::cuda {
namespace {

struct KeyOperands {
  Rows<const bf16> qkv, dout;
  Rows<bf16> dqkv;
  BackwardWorkspace workspace;
};

// How a head dimension is cut. Up to 80 the strips of keys and values stay in registers; 128 has no
// room for them there, and takes 8 warps to share each tile of queries instead.
template <int kDim>
struct KeyShape {
  static constexpr bool kShared = kDim > 80;
  static constexpr int kWarps = kShared ? 8 : 4;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kKeys = kWarps * 16;
  static constexpr int kBlocks = kShared ? 1 : 2;  // a multiprocessor
  // Elements of one stage: queries, dout, and 64 QueryRows.
  static constexpr int kRowsAt = 2 * kTileElements<kDim>;
  static constexpr int kStage = kRowsAt + kTile * static_cast<int>(sizeof(QueryRow) / sizeof(bf16));
  // Keys and values come first; without kShared they pass through the second stage.
  static constexpr int kStages = kShared ? 2 * kKeys * kPitch<kDim> : 0;
  static constexpr int kKeysAt = kShared ? 0 : kStage;
  static constexpr std::size_t kBytes = (kStages + 2 * kStage) * sizeof(bf16);
};

// A tile of 64 queries. Fragments hold it in an order that makes the 16 queries of a lane
// neighbours, so that their dropout bytes are one 16-byte word: row 8 n + 2 t + e is query
// 16 t + 2 n + e.
struct QueryTile {
  int index;
  bool live;   // some query sees some of the block's keys
  bool plain;  // every query that sees any key at all sees all of them

  __device__ static constexpr int item(int row) { return row / 2 % 4 * 16 + row / 8 * 2 + row % 2; }
};

// The first tile from `index` on that sees any of keys [first, last). Every warp finds the same.
__device__ inline QueryTile next_query_tile(const HeadProblem& problem, int index, int first,
                                            int last) {
  QueryTile tile{index, false, false};
  for (; tile.index * kTile < problem.cols; ++tile.index) {
    bool some = false, all = true;
    for (int i = 0; i < 2; ++i) {
      const int query = tile.index * kTile + i * 32 + static_cast<int>(threadIdx.x) % 32;
      if (query >= problem.cols) continue;
      const int begin = problem.begin[problem.first_token() + query];
      const int end = problem.end[problem.first_token() + query];
      if (begin >= end) continue;
      some = some || (begin < last && end > first);
      all = all && begin <= first && end >= last;
    }
    tile.live = __any_sync(kFullWarp, some);
    tile.plain = !__any_sync(kFullWarp, !all);
    if (tile.live) break;
  }
  return tile;
}

// One warp's 16 keys: dK = scale dS^T Q and dV = keep_scale dropout(P)^T dO over the query tiles.
template <int kDim, bool kDropout>
class KeyGradientWarp {
 public:
  using Shape = KeyShape<kDim>;

  __device__ KeyGradientWarp(const HeadProblem& problem, const BackwardWorkspace& workspace,
                             int first)
      : problem_(problem),
        scale2_(problem.scale * kLog2E),
        first_(first),
        key_(first + lane_row() * 2),
        shift_(first % kGroup / 32 * 2),
        kept_(workspace.kept +
              ((problem.head_row() * workspace.groups + first / kGroup) * 16 + first % 32 / 2 +
               lane_row()) *
                  workspace.padded_cols +
              lane_column() * 16) {
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) dkeys_[n][i] = dvalues_[n][i] = 0.0f;
  }

  __device__ void load(const bf16* keys, const bf16* values) {
    keys_.load(keys);
    values_.load(values);
  }

  template <bool kPlain>
  __device__ void step(const bf16* stage, int tile) {
    const bf16* const dout = stage + kTileElements<kDim>;
    const auto* const rows = reinterpret_cast<const QueryRow*>(stage + Shape::kRowsAt);
    Vec16<unsigned> kept{};
    if (kDropout) kept = load_words(kept_ + tile * kTile);
    Scores p, dp;
    multiply_rows<kDim, true>(p, keys_, stage);
    multiply_rows<kDim, true>(dp, values_, dout);
#pragma unroll
    for (unsigned& word : kept.item) word >>= shift_;
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e)
        gradient<kPlain>(p[n], dp[n], e, rows[n * 8 + lane_column() * 2 + e],
                         kept[n / 2] >> (n % 2 * 16 + e * 8));
    multiply_columns<kDim, true>(dvalues_, p, dout);
    multiply_columns<kDim, true>(dkeys_, dp, stage);
  }

  __device__ void store(bf16* strip, const Rows<bf16>& dkeys, const Rows<bf16>& dvalues) {
    const float scale[2] = {problem_.scale, problem_.scale};
    const float keep[2] = {problem_.keep_scale, problem_.keep_scale};
    store_strip<kDim>(strip, dkeys_, scale, dkeys, first_, problem_.cols);
    __syncwarp();
    store_strip<kDim>(strip, dvalues_, keep, dvalues, first_, problem_.cols);
  }

 private:
  // Turns the scores and dP of one query (column e of an n-tile) into dropout(P) and dS.
  template <bool kPlain>
  __device__ void gradient(float (&p)[4], float (&dp)[4], int e, const QueryRow& row,
                           unsigned kept) const {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      float weight = fast_exp2(p[2 * k + e] * scale2_ - row.lse2);
      if (!kPlain && (key_ + k < row.begin || key_ + k >= row.end)) weight = 0.0f;
      const bool drop = kDropout && !(kept >> k & 1);
      const float gradient = drop ? 0.0f : dp[2 * k + e] * problem_.keep_scale;
      p[2 * k + e] = drop ? 0.0f : weight;
      dp[2 * k + e] = weight * (gradient - row.delta);
    }
  }

  const HeadProblem& problem_;
  float scale2_;
  int first_, key_, shift_;
  const std::uint8_t* kept_;
  using Operand = std::conditional_t<Shape::kShared, SharedOperand<kDim>, RegisterOperand<kDim>>;
  Operand keys_, values_;
  Sums<kDim> dkeys_, dvalues_;
};

template <int kDim>
__device__ inline void load_query_tile(bf16* stage, const HeadProblem& problem,
                                       const KeyOperands& operands, int tile) {
  using Shape = KeyShape<kDim>;
  const int first = tile * kTile, limit = problem.cols - first;
  load_tile<kDim, Shape::kThreads, QueryTile>(stage, operands.qkv.of(problem, 0, kDim).from(first),
                                              limit, kAllChunks);
  load_tile<kDim, Shape::kThreads, QueryTile>(stage + kTileElements<kDim>,
                                              operands.dout.of(problem, 0, kDim).from(first), limit,
                                              kAllChunks);
  const int r = static_cast<int>(threadIdx.x);
  const QueryRow* const rows =
      operands.workspace.rows + problem.head_row() * operands.workspace.padded_cols + first;
  if (r < kTile)
    copy_async_16(stage + Shape::kRowsAt + r * static_cast<int>(sizeof(QueryRow) / sizeof(bf16)),
                  rows + QueryTile::item(r));
}

// Reads q, k, v and dout once from memory, writes dk and dv: 12 cols head_dim bytes plus
// cols^2 / 8 with dropout, and 8 cols^2 head_dim FLOP per head of a sequence. For 64 x 512 tokens
// and 12 heads of 64 an H100 takes at least 98 us for the memory, 104 us on its tensor cores, and
// 243 us for shared memory, from which each warp reads the whole tiles.
// Registers a thread (sm_80, sm_90; nothing spills), with dropout: head_dim 64 237, 241,
// 80 250, 242, 128 255, 255; shared memory 38, 46, 138 KiB a block.
// 8 warps a multiprocessor: two blocks of 4, one of 8 for 128.
template <int kDim, bool kDropout>
__global__ void __launch_bounds__(KeyShape<kDim>::kThreads, KeyShape<kDim>::kBlocks)
    key_gradient_kernel(HeadProblem problem, KeyOperands operands) {
  using Shape = KeyShape<kDim>;
  bf16* const memory = dynamic_shared<bf16>();
  bf16* const stages = memory + Shape::kStages;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int first = static_cast<int>(blockIdx.x) * Shape::kKeys;
  const int last = std::min(first + Shape::kKeys, problem.cols);
  bf16* const strip = memory + Shape::kKeysAt + warp * 16 * kPitch<kDim>;

  for (int i = 0; i < Shape::kKeys; i += kTile)
    for (int part = 1; part < 3; ++part)
      load_tile<kDim, Shape::kThreads, StripOrder>(
          memory + Shape::kKeysAt + ((part - 1) * Shape::kKeys + i) * kPitch<kDim>,
          operands.qkv.of(problem, part, kDim).from(first + i), problem.cols - first - i,
          kAllChunks);
  copy_async_commit();
  QueryTile tile = next_query_tile(problem, 0, first, last);
  if (tile.live) load_query_tile<kDim>(stages, problem, operands, tile.index);
  copy_async_commit();
  KeyGradientWarp<kDim, kDropout> keys(problem, operands.workspace, first + warp * 16);
  copy_async_wait<1>();
  __syncthreads();
  keys.load(strip, strip + Shape::kKeys * kPitch<kDim>);

  for (int stage = 0; tile.live; stage ^= 1) {  // one barrier a tile, as in the forward kernel
    const QueryTile next = next_query_tile(problem, tile.index + 1, first, last);
    copy_async_wait<0>();
    __syncthreads();
    if (next.live)
      load_query_tile<kDim>(stages + (stage ^ 1) * Shape::kStage, problem, operands, next.index);
    copy_async_commit();
    if (tile.plain)
      keys.template step<true>(stages + stage * Shape::kStage, tile.index);
    else
      keys.template step<false>(stages + stage * Shape::kStage, tile.index);
    tile = next;
  }
  __syncthreads();
  keys.store(strip, operands.dqkv.of(problem, 1, kDim), operands.dqkv.of(problem, 2, kDim));
}

template <int kDim, bool kDropout>
void launch_kernel(const HeadProblem& problem, const KeyOperands& operands, std::int64_t sequences,
                   cudaStream_t stream) {
  using Shape = KeyShape<kDim>;
  const dim3 grid(static_cast<unsigned>((problem.cols + Shape::kKeys - 1) / Shape::kKeys),
                  static_cast<unsigned>(problem.heads), static_cast<unsigned>(sequences));
  launch(key_gradient_kernel<kDim, kDropout>, grid, Shape::kThreads, Shape::kBytes, stream, problem,
         operands);
}

template <int kDim>
void launch_dim(const AttentionBackward& tensors, const Attention& op,
                const BackwardWorkspace& workspace, cudaStream_t stream) {
  const KeyOperands operands{rows_of<const bf16>(tensors.qkv), rows_of<const bf16>(tensors.dout),
                             rows_of<bf16>(tensors.dqkv), workspace};
  const auto start = op.dropout.active() ? &launch_kernel<kDim, true> : &launch_kernel<kDim, false>;
  start(HeadProblem(op), operands, op.grid.rows, stream);
}

}  // namespace

void launch_key_gradient(const AttentionBackward& tensors, const Attention& op,
                         const BackwardWorkspace& workspace, cudaStream_t stream) {
  if (op.head_dim == 64) launch_dim<64>(tensors, op, workspace, stream);
  if (op.head_dim == 80) launch_dim<80>(tensors, op, workspace, stream);
  if (op.head_dim == 128) launch_dim<128>(tensors, op, workspace, stream);
}

}  // namespace demist::cuda
