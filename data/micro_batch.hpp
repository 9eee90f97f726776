// The unit of work: a fixed set of sequences with their noise already applied.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace demist::data {

// Tokens brought together by equal values: kernels/types.hpp, Grouping.
struct TokenGroups {
  std::vector<std::int32_t> value, begin, order;
};
TokenGroups group_tokens(std::span<const std::int32_t> values);

// A pure function of (recipe, seed, step, index): who computes it never changes what it holds.
// Sequence r, column c is token r * cols + c. Right padding.
struct MicroBatch {
  std::int64_t step = 0;
  std::int32_t index = 0;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<std::int32_t> ids;  // [rows * cols], noised
  std::vector<std::int32_t>
      positions;  // [rows * cols], row of the position table (pads: padding row)
  std::vector<std::int32_t> key_begin;  // [rows * cols], attention range: see kernels KeyRanges
  std::vector<std::int32_t> key_end;
  std::vector<std::uint64_t> sample;     // [rows], name in the random streams (copies differ)
  std::vector<std::int32_t> target_row;  // [targets], token index, increasing
  std::vector<std::int32_t> target_id;   // [targets]
  std::vector<float> weight;             // [targets], multiplies the cross-entropy
  std::vector<float> smooth;  // [targets], multiplies the label-smoothing term; may be all 0
  // The step's loss is sum over micro-batches of the weighted sum / sum of normalizers.
  std::int64_t normalizer = 0;
  std::int64_t real_tokens = 0;  // not padding, for tokens/s
  // What the backward pass adds up: made by the Prefetcher, from ids and positions.
  TokenGroups id_groups, position_groups;
};

}  // namespace demist::data
