// Dropout on the device: the draws of kernels/types.hpp, bit for bit.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/philox.hpp"
#include "kernels/cuda/chunk.hpp"
#include "kernels/types.hpp"

namespace demist::cuda {

// What a kernel needs to know about dropout over the rows of an activation.
struct DropoutRows {
  std::uint64_t key = 0;
  std::uint32_t threshold = 0;
  float keep_scale = 1;
  const std::uint64_t* sample = nullptr;  // [rows of the grid]; null: dropout is off
  std::uint32_t cols = 1;                 // of the grid
  __device__ bool active() const { return sample != nullptr; }
};

inline DropoutRows dropout_rows(const Dropout& dropout, const TokenGrid& grid) {
  if (!dropout.active()) return {};
  return {dropout.key, dropout.threshold(), dropout.keep_scale(), grid.sample.data(),
          static_cast<std::uint32_t>(grid.cols)};
}

// The words of one counter of an activation row's stream; the counters of 128 elements are 16.
__device__ __forceinline__ Philox4 counter_words(const DropoutRows& dropout, std::int64_t row,
                                                 std::uint32_t counter) {
  const auto r = static_cast<std::uint32_t>(row);
  return draw(dropout.key, dropout.sample[r / dropout.cols], r % dropout.cols, counter);
}

__device__ __forceinline__ std::uint32_t select_word(const Philox4& words, unsigned i) {
  const std::uint32_t low = i & 1 ? words.v[1] : words.v[0];
  const std::uint32_t high = i & 1 ? words.v[3] : words.v[2];
  return i & 2 ? high : low;
}

// Dropout's factors for chunk `chunk` of an activation row: 0 or keep_scale, 1 where dropout is
// off. All lanes of the warp call it together, with the same row and chunk % 16 == lane % 16.
//
// Sixteen chunks are a group of 128 elements with 16 counters. Word w of counter c holds the draws
// of elements 32 w + 2 c and 32 w + 2 c + 1. So a chunk, i of its group, needs word i / 4 of the
// counters 4 (i % 4) + {0..3}: lane i runs counter i once, and four shuffles bring each lane its
// four words. (Every lane running all four counters it needs would cost 4 Philox calls a chunk,
// about the time of its memory traffic.)
__device__ __forceinline__ Chunk dropout_factors(const DropoutRows& dropout, std::int64_t row,
                                                 std::int64_t chunk) {
  Chunk factors;
  unrolled<kChunk>([&](auto i) { factors[i] = 1; });
  if (!dropout.active()) return factors;
  const unsigned place = static_cast<unsigned>(chunk % 16), wanted = place / 4;
  const Philox4 own = counter_words(dropout, row, static_cast<std::uint32_t>(chunk));
  const auto factor_of = [&](std::uint32_t draw) {
    return draw < dropout.threshold ? 0.0f : dropout.keep_scale;
  };
  unrolled<4>([&](auto turn) {
    // The lane that runs counter `from` of the four gives its word (from + turn) % 4: the wanted.
    const unsigned from = (wanted - turn) % 4;
    const std::uint32_t offer = select_word(own, (place + turn) % 4);
    const auto lane = static_cast<int>(place % 4 * 4 + from);
    const std::uint32_t pair = __shfl_sync(kFullWarp, offer, lane, 16);
    unrolled<4>([&](auto i) {
      if (i != from) return;
      factors[2 * i] = factor_of(pair & 0xffffu);
      factors[2 * i + 1] = factor_of(pair >> 16);
    });
  });
  return factors;
}

}  // namespace demist::cuda
