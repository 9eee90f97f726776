// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "core/error.hpp"
#include "worker/checkpoint/layout.hpp"

namespace demist::checkpoint {
namespace {

TEST(CheckpointLayout, StripesSayTheSameRuns) {
  const std::vector<std::vector<std::pair<std::int64_t, std::int64_t>>> cases = {
      {},
      {{0, 5}},
      {{2, 3}, {12, 3}, {22, 3}},           // a column split
      {{8, 2}, {12, 3}, {22, 3}, {32, 1}},  // cut in the middle of rows
      {{0, 1}, {5, 1}, {7, 1}, {9, 1}, {30, 4}}};
  for (const auto& expected : cases) {
    std::vector<checkpoint::Run> runs, back;
    for (const auto& [start, count] : expected) runs.push_back({start, count});
    for (const Stripe& stripe : to_stripes(runs)) {
      EXPECT_TRUE(stripe.valid(40));
      append_runs(stripe, back);
    }
    ASSERT_EQ(back.size(), runs.size());
    for (std::size_t i = 0; i < runs.size(); ++i)
      EXPECT_TRUE(back[i].start == runs[i].start && back[i].count == runs[i].count);
  }
  EXPECT_EQ(to_stripes(std::vector<checkpoint::Run>{{2, 3}, {12, 3}, {22, 3}}).size(), 1u);
}

TEST(CheckpointLayout, TilingFindsGapsAndOverlaps) {
  const auto check = [](std::vector<checkpoint::Run> runs) -> std::string {
    try {
      check_tiling(runs, 10, "x");
    } catch (const CheckpointError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(check({{6, 4}, {0, 6}}), "");
  EXPECT_EQ(check({{0, 6}, {7, 3}}), "x: elements [6, 7) are missing");
  EXPECT_EQ(check({{0, 6}, {6, 3}}), "x: elements [9, 10) are missing");
  EXPECT_EQ(check({{0, 6}, {5, 5}}), "x: elements [5, 6) are stored twice");
  EXPECT_EQ(check({{0, 11}}), "x: elements [10, 11) are outside the tensor");
}

}  // namespace
}  // namespace demist::checkpoint
