// SPDX-License-Identifier: Apache-2.0
#include "data/masking.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/error.hpp"
#include "core/philox.hpp"
#include "data/layout.hpp"

namespace demist::data {
namespace {

constexpr std::int32_t kVocab = 1000, kMask = 999;

// Row r, column c holds 4 + (r + c) % 900: never the mask.
MicroBatch clean_batch(std::int64_t rows, std::int64_t cols) {
  MicroBatch batch = blank_micro_batch(0, 0, rows, cols);
  for (std::int64_t r = 0; r < rows; ++r) {
    auto ids = row_ids(batch, r);
    for (std::size_t c = 0; c < ids.size(); ++c)
      ids[c] = 4 + static_cast<std::int32_t>((static_cast<std::size_t>(r) + c) % 900);
    ids[0] = 0;
    ids[ids.size() - 1] = 2;
  }
  std::iota(batch.sample.begin(), batch.sample.end(), 0);
  return batch;
}

MicroBatch corrupted(const MicroBatch& clean, std::uint64_t key, const MlmNoise& noise = {}) {
  MicroBatch batch = clean;
  MlmMasker(noise, kMask, kVocab).corrupt(batch, key);
  return batch;
}

TEST(Masking, SelectsExactlyIntOfFractionTimesLengthPlusU) {
  const MicroBatch clean = clean_batch(4000, 50);  // 0.15 n = 7.5: 7 or 8, each half of the time
  const MicroBatch batch = corrupted(clean, 1);
  std::vector<int> count(4000, 0);
  for (const std::int32_t token : batch.target_row) ++count[static_cast<std::size_t>(token / 50)];
  int eights = 0;
  for (std::size_t row = 0; row < count.size(); ++row) {
    const double u = uniform(draw(1, row, 0));
    ASSERT_EQ(count[row], static_cast<int>(7.5 + u));
    eights += count[row] == 8;
  }
  EXPECT_NEAR(eights, 2000, 130);  // sigma 32
  EXPECT_EQ(batch.normalizer, static_cast<std::int64_t>(batch.target_row.size()));
}

TEST(Masking, TargetsAreTheCleanIdsInOrderAndTheRestIsUntouched) {
  const MicroBatch clean = clean_batch(20, 128), batch = corrupted(clean, 2);
  EXPECT_TRUE(std::is_sorted(batch.target_row.begin(), batch.target_row.end(),
                             [](auto a, auto b) { return a <= b; }));
  std::vector<bool> selected(clean.ids.size(), false);
  for (std::size_t t = 0; t < batch.target_row.size(); ++t) {
    const auto token = static_cast<std::size_t>(batch.target_row[t]);
    selected[token] = true;
    EXPECT_EQ(batch.target_id[t], clean.ids[token]);
    EXPECT_EQ(batch.weight[t], 1.0f);
    EXPECT_EQ(batch.smooth[t], 0.0f);
  }
  for (std::size_t i = 0; i < clean.ids.size(); ++i)
    EXPECT_TRUE(selected[i] || batch.ids[i] == clean.ids[i]);
}

TEST(Masking, EightyTenTen) {
  const MicroBatch clean = clean_batch(2000, 100), batch = corrupted(clean, 3);
  int masked = 0, kept = 0, random = 0;
  std::int32_t least = kVocab, most = 0;
  for (std::size_t t = 0; t < batch.target_row.size(); ++t) {
    const std::int32_t now = batch.ids[static_cast<std::size_t>(batch.target_row[t])];
    if (now == kMask) {
      ++masked;
    } else if (now == batch.target_id[t]) {
      ++kept;
    } else {
      ++random;
      least = std::min(least, now);
      most = std::max(most, now);
    }
  }
  const double n = static_cast<double>(batch.target_row.size());  // 30,000
  EXPECT_EQ(batch.target_row.size(), 30000u);
  // 5 sigma; one random id in 996 is the mask or the clean id.
  EXPECT_NEAR(masked / n, 0.8, 0.012);
  EXPECT_NEAR(kept / n, 0.1, 0.009);
  EXPECT_NEAR(random / n, 0.1, 0.009);
  EXPECT_EQ(least, 4);  // 3,000 draws of 996 ids: the ends are met with probability 0.95
  EXPECT_GE(most, 990);
}

TEST(Masking, RandomIdsCoverOrdinaryIdsAndTheMask) {
  const MlmNoise noise{.mask_fraction = 1.0, .keep_fraction = 0, .random_fraction = 1};
  MicroBatch batch = clean_batch(100, 100);
  MlmMasker(noise, 7, 8).corrupt(batch, 4);  // ids 4, 5, 6 and <mask> = 7
  std::vector<int> count(8, 0);
  for (const std::int32_t id : batch.ids) ++count[static_cast<std::size_t>(id)];
  for (int id = 0; id < 4; ++id) EXPECT_EQ(count[static_cast<std::size_t>(id)], 0);
  for (int id = 4; id < 8; ++id) EXPECT_NEAR(count[static_cast<std::size_t>(id)], 2500, 220);
}

TEST(Masking, EveryPositionIsSelectedAsOften) {
  const MicroBatch batch = corrupted(clean_batch(20000, 20), 5);  // 3 of 20
  std::vector<int> count(20, 0);
  for (const std::int32_t token : batch.target_row) ++count[static_cast<std::size_t>(token % 20)];
  for (const int n : count) EXPECT_NEAR(n, 3000, 255);  // sigma 50; <s> and </s> included
}

TEST(Masking, DependsOnSampleNameNotOnTheRow) {
  const MicroBatch clean = clean_batch(1, 64);
  MicroBatch moved = blank_micro_batch(0, 0, 2, 64);
  std::copy(clean.ids.begin(), clean.ids.end(), row_ids(moved, 1).begin());
  moved.sample = {77, 0};
  const MicroBatch alone = corrupted(clean, 6), second = corrupted(moved, 6);
  EXPECT_TRUE(std::equal(alone.ids.begin(), alone.ids.end(), second.ids.begin() + 64));
  EXPECT_NE(corrupted(clean, 7).target_row, alone.target_row);
}

TEST(Masking, TargetsNeverExceedTheBound) {
  for (const double fraction : {0.001, 0.15, 0.5, 1.0})
    for (const std::int64_t cols : {2, 3, 7, 20, 128}) {
      const MlmNoise noise{.mask_fraction = fraction};
      const MicroBatch batch = corrupted(clean_batch(50, cols), 8, noise);
      const std::int64_t bound = MlmMasker(noise, kMask, kVocab).max_targets(cols);
      std::vector<std::int64_t> count(50, 0);
      for (const auto token : batch.target_row) ++count[static_cast<std::size_t>(token / cols)];
      EXPECT_LE(*std::max_element(count.begin(), count.end()), bound);
      EXPECT_LE(bound, cols);
    }
}

TEST(Masking, RefusesImpossibleSettings) {
  EXPECT_THROW(MlmMasker({.mask_fraction = 0}, kMask, kVocab), ConfigError);
  EXPECT_THROW(MlmMasker({.mask_fraction = 1.5}, kMask, kVocab), ConfigError);
  EXPECT_THROW(MlmMasker({.keep_fraction = 0.6, .random_fraction = 0.5}, kMask, kVocab),
               ConfigError);
  EXPECT_THROW(MlmMasker({}, 3, 4), ConfigError);
}

}  // namespace
}  // namespace demist::data
