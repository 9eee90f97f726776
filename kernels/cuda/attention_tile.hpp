// Building blocks of the fused attention kernels: swizzled shared-memory tiles, products of warp
// strips with tiles, the order of keys in a tile, and dropout's bits.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/attention_head.hpp"
#include "kernels/cuda/device.hpp"

namespace demist::cuda {
namespace {

// Rows (keys or queries) of one tile. A tile is what one step of a kernel's main loop multiplies.
constexpr int kTile = 64;
constexpr int kChunk = 16;  // rows of one k-step of the tensor cores: the unit of skipped keys
constexpr unsigned kAllChunks = 15;  // one bit a chunk

__device__ inline int lane_row() { return static_cast<int>(threadIdx.x) % 32 / 4; }
__device__ inline int lane_column() { return static_cast<int>(threadIdx.x) % 4; }

// Where 8 elements of a tile lie: 16-byte pieces, an odd number of them from row to row. So the
// same piece of 8 neighbouring rows, which is what ldmatrix reads at once, falls into 8 different
// groups of 4 banks, and so do the pieces that 8 threads of a copy write: no bank conflicts. (An
// exclusive-or swizzle would save the padding, 6 to 12 %, but its addresses are no sums: they cost
// a register or an instruction for each fragment, where these are offsets in the instruction.)
template <int kDim>
constexpr int kPitch = (kDim / 8 | 1) * 8;
template <int kDim>
constexpr int kTileElements = kTile* kPitch<kDim>;

template <int kDim>
__device__ constexpr int at(int row, int piece) {
  return row * kPitch<kDim> + piece * 8;
}

// Starts the copy of one tile: row r of it from row Order::item(r) of `from`, zeros from row
// `limit` on. Chunks of 16 rows without their bit in `live` are left as they are. Order is affine
// in steps of 8 rows, so that a thread's addresses are one base and constant multiples of ld.
template <int kDim, int kThreads, class Order>
__device__ inline void load_tile(bf16* tile, const Rows<const bf16>& from, int limit,
                                 unsigned live) {
  constexpr int kPieces = kDim / 8;
  const int thread = static_cast<int>(threadIdx.x);
  if constexpr (kThreads % (8 * kPieces) == 0) {  // a whole row for each kPieces threads
    constexpr int kStep = kThreads / kPieces;
    const int row = thread / kPieces, piece = thread % kPieces, item = Order::item(row);
    const bf16* const source = from.row(item) + piece * 8;
#pragma unroll
    for (int r = 0; r < kTile; r += kStep)
      if (live >> (r / kChunk) & 1)
        copy_async_16(tile + at<kDim>(row + r, piece),
                      source + std::int64_t{Order::item(r)} * from.ld,
                      item + Order::item(r) < limit);
  } else {  // two threads a row, so that each instruction fills whole 32-byte sectors
    static_assert(kThreads == 2 * kTile && kPieces % 2 == 0 && kPitch<kDim> / 8 % 8 == 3);
    // 8 threads write 2 pieces of every other row: groups 0, 6, 4, 2 and 1, 7, 5, 3. (Of 4
    // neighbouring rows two pieces would meet in one group.)
    const int row = thread / 16 * 8 + thread % 8 / 2 * 2 + thread / 8 % 2, piece = thread % 2;
    const int item = Order::item(row);
    const bf16* const source = from.row(item) + piece * 8;
    if (live >> (row / kChunk) & 1)
#pragma unroll
      for (int i = 0; i < kPieces; i += 2)
        copy_async_16(tile + at<kDim>(row, piece + i), source + i * 8, item < limit);
  }
}

// A strip is the 16 rows of one warp: an m16 fragment. A lane holds rows lane_row() and
// lane_row() + 8; they stand for neighbouring items (queries or keys), so that what a lane reads
// and writes for its two items is one word: row 8 k + l is item 2 l + k.
struct StripOrder {
  __device__ static constexpr int item(int row) {
    return row / 16 * 16 + row % 8 * 2 + row / 8 % 2;
  }
};

// A strip as left operand over kDim: its fragments kept in registers, or read again from shared
// memory for every tile where registers are short.
template <int kDim>
struct RegisterOperand {
  unsigned fragments[kDim / 16][4];

  __device__ void load(const bf16* strip) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int s = 0; s < kDim / 16; ++s)
      ldmatrix_x4(fragments[s], strip + at<kDim>(lane % 16, s * 2 + lane / 16));
  }
  __device__ void get(unsigned (&left)[4], int s) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) left[i] = fragments[s][i];
  }
};

template <int kDim>
struct SharedOperand {
  const bf16* strip;

  __device__ void load(const bf16* from) { strip = from; }
  __device__ void get(unsigned (&left)[4], int s) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    ldmatrix_x4(left, strip + at<kDim>(lane % 16, s * 2 + lane / 16));
  }
};

// Accumulators of a strip: element i of n-tile n is row lane_row() + i / 2 * 8, column
// n * 8 + lane_column() * 2 + i % 2.
using Scores = float[kTile / 8][4];
template <int kDim>
using Sums = float[kDim / 8][4];

// scores = strip tile^T: against the 64 rows of a tile. Scores of chunks that are not live are 0.
template <int kDim, bool kAll, class Operand>
__device__ inline void multiply_rows(Scores& scores, const Operand& strip, const bf16* tile,
                                     unsigned live = kAllChunks) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (auto& n_tile : scores)
#pragma unroll
    for (float& score : n_tile) score = 0.0f;
#pragma unroll
  for (int s = 0; s < kDim / 16; ++s) {
    unsigned left[4];
    strip.get(left, s);
#pragma unroll
    for (int c = 0; c < kTile / kChunk; ++c) {
      if (!kAll && !(live >> c & 1)) continue;
      unsigned right[4];
      ldmatrix_x4(right, tile + at<kDim>(c * 16 + lane / 16 * 8 + lane % 8, s * 2 + lane / 8 % 2));
      mma_m16n8k16_bf16(scores[2 * c], left, {right[0], right[1]}, scores[2 * c]);
      mma_m16n8k16_bf16(scores[2 * c + 1], left, {right[2], right[3]}, scores[2 * c + 1]);
    }
  }
}

// sums += weights tile: accumulators of multiply_rows, rounded to bf16, are already the left
// operand over the tile's rows.
template <int kDim, bool kAll>
__device__ inline void multiply_columns(Sums<kDim>& sums, const Scores& weights, const bf16* tile,
                                        unsigned live = kAllChunks) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int c = 0; c < kTile / kChunk; ++c) {
    if (!kAll && !(live >> c & 1)) continue;
    unsigned left[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const auto& w = weights[2 * c + i / 2];
      left[i] = pack_bf16(w[i % 2 * 2], w[i % 2 * 2 + 1]);
    }
#pragma unroll
    for (int n = 0; n < kDim / 16; ++n) {
      unsigned right[4];
      ldmatrix_x4_trans(right, tile + at<kDim>(c * 16 + lane % 16, n * 2 + lane / 16));
      mma_m16n8k16_bf16(sums[2 * n], left, {right[0], right[1]}, sums[2 * n]);
      mma_m16n8k16_bf16(sums[2 * n + 1], left, {right[2], right[3]}, sums[2 * n + 1]);
    }
  }
}

// Writes a strip's accumulators, item k of a lane times factor[k], through `strip` (shared memory
// of the warp alone) in 16-byte pieces. Item i of the strip is row first + i of `to`; rows from
// `limit` on do not exist.
template <int kDim>
__device__ inline void store_strip(bf16* strip, const Sums<kDim>& sums, const float (&factor)[2],
                                   const Rows<bf16>& to, int first, int limit) {
#pragma unroll
  for (int k = 0; k < 2; ++k)
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      const float* const pair = &sums[n][k * 2];
      // A select, not a product: a row without keys is 0 whatever its sums are.
      const unsigned bits =
          factor[k] == 0.0f ? 0u : pack_bf16(pair[0] * factor[k], pair[1] * factor[k]);
      store_word(strip + at<kDim>(k * 8 + lane_row(), n) + lane_column() * 2, bits);
    }
  __syncwarp();
  for (int i = static_cast<int>(threadIdx.x) % 32; i < 16 * (kDim / 8); i += 32) {
    const int row = i / (kDim / 8), piece = i % (kDim / 8);
    const int target = first + StripOrder::item(row);
    if (target < limit) store_16(to.row(target) + piece * 8, load_16(strip + at<kDim>(row, piece)));
  }
}

// Keys [begin, end) seen by some query of a block; [all_begin, all_end) by every query that sees
// any. Every warp finds the same.
struct VisibleKeys {
  int begin, end, all_begin, all_end;

  __device__ VisibleKeys(const HeadProblem& problem, int first, int queries)
      : begin(problem.cols), end(0), all_begin(0), all_end(problem.cols) {
    const int last = first + queries < problem.cols ? first + queries : problem.cols;
    for (int q = first + static_cast<int>(threadIdx.x) % 32; q < last; q += 32) {
      const int from = problem.begin[problem.first_token() + q];
      const int to = problem.end[problem.first_token() + q];
      if (from >= to) continue;
      begin = from < begin ? from : begin;
      end = to > end ? to : end;
      all_begin = from > all_begin ? from : all_begin;
      all_end = to < all_end ? to : all_end;
    }
    for (int bits = 1; bits < 32; bits *= 2) {
      begin = std::min(begin, __shfl_xor_sync(kFullWarp, begin, bits));
      end = std::max(end, __shfl_xor_sync(kFullWarp, end, bits));
      all_begin = std::max(all_begin, __shfl_xor_sync(kFullWarp, all_begin, bits));
      all_end = std::min(all_end, __shfl_xor_sync(kFullWarp, all_end, bits));
    }
  }
};

// A tile of 64 keys. Tile t is half h = t % 2 of key group t / 2: chunk w holds keys
// 32 w + 16 h + [0, 16) of the group. One random draw decides keys 32 w + 2 j + {0, 1} of all four
// w, so with this order a lane uses all 8 decisions of each draw: n-tile 2 w + i, columns 2 t + e
// of a fragment are decided by half e of word w of draw j = 8 h + 4 i + t.
struct KeyTile {
  int index;

  __device__ int first() const { return index / 2 * kGroup + index % 2 * kChunk; }
  __device__ int key(int row) const { return first() + item(row); }
  __device__ static constexpr int item(int row) { return row / kChunk * 32 + row % kChunk; }
  __device__ int group() const { return index / 2; }
  __device__ int draw(int i) const { return index % 2 * 8 + i * 4 + lane_column(); }

  // Chunks that some query sees.
  __device__ unsigned live(const VisibleKeys& visible) const {
    unsigned bits = 0;
    for (int c = 0; c < kTile / kChunk; ++c) {
      const int chunk = key(c * kChunk);
      if (chunk < visible.end && chunk + kChunk > visible.begin) bits |= 1u << c;
    }
    return bits;
  }
  // Every query that sees any key sees all of these: nothing to mask.
  __device__ bool plain(const VisibleKeys& visible) const {
    return first() >= visible.all_begin && key(kTile - 1) < visible.all_end;
  }
};

// The first tile from `index` on that some query sees; -1: there is none.
__device__ inline KeyTile next_key_tile(const VisibleKeys& visible, int index) {
  KeyTile tile{std::max(index, visible.begin / kGroup * 2)};
  for (; tile.group() * kGroup < visible.end; ++tile.index)
    if (tile.live(visible)) return tile;
  return {-1};
}

// Starts the copy of a key tile's rows of two tensors (keys and values), one tile after the other.
template <int kDim, int kThreads>
__device__ inline void load_key_tile(bf16* stage, const Rows<const bf16>& keys,
                                     const Rows<const bf16>& values, const KeyTile& tile,
                                     const VisibleKeys& visible, int cols) {
  const int limit = cols - tile.first();
  const unsigned live = tile.live(visible);
  load_tile<kDim, kThreads, KeyTile>(stage, keys.from(tile.first()), limit, live);
  load_tile<kDim, kThreads, KeyTile>(stage + kTileElements<kDim>, values.from(tile.first()), limit,
                                     live);
}

// Key ranges of a lane's two queries, the first of which is `first`. A query past the end of the
// sequence, whose results nobody reads, sees all.
struct LaneRanges {
  int begin[2], length[2];

  __device__ LaneRanges(const HeadProblem& problem, int first) {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const bool exists = first + k < problem.cols;
      const std::int64_t token = problem.first_token() + first + k;
      begin[k] = exists ? problem.begin[token] : 0;
      length[k] = (exists ? problem.end[token] : problem.cols) - begin[k];
    }
  }
  __device__ bool sees(int k, int key) const {
    return static_cast<unsigned>(key - begin[k]) < static_cast<unsigned>(length[k]);
  }
};

// Decisions for a lane's 32 elements of a key tile: bit decision_bit(n, i) is 1 where element i of
// n-tile n is kept. A draw has 8 of them: half e of word w is n-tile 2 w + i, column e.
__device__ constexpr int decision_bit(int n, int i) {
  return n % 2 * 16 + i / 2 * 8 + n / 2 * 2 + i % 2;
}

// For queries `query` and `query` + 1. Made before the products, when most registers are free; the
// four draws go through the rounds side by side, so that they share one pair of round keys (ten
// unrolled rounds would keep ten pairs in registers).
__device__ inline unsigned decide(const HeadProblem& problem, int query, const KeyTile& tile) {
  const std::uint64_t sample = problem.sample[blockIdx.z];
  Philox4 draws[2][2];  // [i][query]
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int k = 0; k < 2; ++k)
      draws[i][k] = {{static_cast<std::uint32_t>(tile.group() * 16 + tile.draw(i)),
                      problem.dropout_position(query + k), static_cast<std::uint32_t>(sample),
                      static_cast<std::uint32_t>(sample >> 32)}};
  auto k0 = static_cast<std::uint32_t>(problem.dropout_key);
  auto k1 = static_cast<std::uint32_t>(problem.dropout_key >> 32);
#pragma unroll 1
  for (int round = 0; round < kPhiloxRounds; ++round) {
#pragma unroll
    for (int d = 0; d < 4; ++d) philox_round(draws[d / 2][d % 2], k0, k1);
    philox_next_key(k0, k1);
  }
  const std::uint32_t limit = problem.threshold << 16;  // compares a half without moving it down
  unsigned kept = 0;
#pragma unroll
  for (int n = 0; n < kTile / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t word = draws[n % 2][i / 2].v[static_cast<unsigned>(n / 2)];
      const std::uint32_t half = i % 2 == 0 ? word << 16 : word;
      kept |= (half >= limit ? 1u : 0u) << decision_bit(n, i);
    }
  return opaque(kept);  // one register, not the 16 words of the draws
}

}  // namespace
}  // namespace demist::cuda
