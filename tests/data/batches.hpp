// Comparing micro-batches whole.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include "data/micro_batch.hpp"

namespace demist::data {

inline void expect_equal(const MicroBatch& a, const MicroBatch& b) {
  EXPECT_EQ(a.step, b.step);
  EXPECT_EQ(a.index, b.index);
  EXPECT_EQ(a.rows, b.rows);
  EXPECT_EQ(a.cols, b.cols);
  EXPECT_EQ(a.ids, b.ids);
  EXPECT_EQ(a.positions, b.positions);
  EXPECT_EQ(a.key_begin, b.key_begin);
  EXPECT_EQ(a.key_end, b.key_end);
  EXPECT_EQ(a.sample, b.sample);
  EXPECT_EQ(a.target_row, b.target_row);
  EXPECT_EQ(a.target_id, b.target_id);
  EXPECT_EQ(a.weight, b.weight);
  EXPECT_EQ(a.smooth, b.smooth);
  EXPECT_EQ(a.normalizer, b.normalizer);
  EXPECT_EQ(a.real_tokens, b.real_tokens);
}

// The ids before noise: targets put back.
inline std::vector<std::int32_t> clean_ids(const MicroBatch& batch) {
  std::vector<std::int32_t> ids = batch.ids;
  for (std::size_t t = 0; t < batch.target_row.size(); ++t)
    ids[static_cast<std::size_t>(batch.target_row[t])] = batch.target_id[t];
  return ids;
}

}  // namespace demist::data
