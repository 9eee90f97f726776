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

// The dropout stream of one activation row.
struct DropoutStream {
  std::uint64_t key, sample;
  std::uint32_t position;
  __device__ DropoutStream(const DropoutRows& dropout, std::int64_t row)
      : key(dropout.key),
        sample(dropout.sample[static_cast<std::uint32_t>(row) / dropout.cols]),
        position(static_cast<std::uint32_t>(row) % dropout.cols) {}
  __device__ Philox4 words(std::uint32_t counter) const {
    return draw(key, sample, position, counter);
  }
};

__device__ __forceinline__ std::uint32_t select_word(const Philox4& words, unsigned i) {
  const std::uint32_t low = i & 1 ? words.v[1] : words.v[0];
  const std::uint32_t high = i & 1 ? words.v[3] : words.v[2];
  return i & 2 ? high : low;
}

// Dropout's factors (0 or keep_scale) for chunk `chunk` of the stream's row. All lanes of the warp
// call it together, with chunk % 16 == lane % 16.
//
// Sixteen chunks are a group of 128 elements with 16 counters. Word w of counter c holds the draws
// of elements 32 w + 2 c and 32 w + 2 c + 1. So a chunk, i of its group, needs word i / 4 of the
// counters 4 (i % 4) + {0..3}: lane i runs counter i once, and four shuffles bring each lane its
// four words. (Every lane running all four counters it needs would cost 4 Philox calls a chunk,
// about the time of its memory traffic.)
__device__ __forceinline__ Chunk dropout_factors(const DropoutRows& dropout,
                                                 const DropoutStream& stream, std::int64_t chunk) {
  const unsigned place = static_cast<unsigned>(chunk % 16), wanted = place / 4,
                 base = place % 4 * 4;
  const Philox4 own = stream.words(static_cast<std::uint32_t>(chunk));  // group * 16 + place
  Chunk factors;
  for (unsigned turn = 0; turn < 4; ++turn) {
    // The source base + from gives word (from + turn) % 4, which is the wanted one.
    const unsigned from = (wanted - turn) % 4;
    const std::uint32_t pair = __shfl_sync(kFullWarp, select_word(own, (place + turn) % 4),
                                           static_cast<int>(base + from), 16);
    for (unsigned i = 0; i < 4; ++i)
      if (i == from) {
        factors[2 * i] = (pair & 0xffffu) < dropout.threshold ? 0.0f : dropout.keep_scale;
        factors[2 * i + 1] = pair >> 16 < dropout.threshold ? 0.0f : dropout.keep_scale;
      }
  }
  return factors;
}

}  // namespace demist::cuda
