// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <bit>

#include "core/error.hpp"
#include "tests/support/checkpoint_state.hpp"
#include "tests/support/temporary_folder.hpp"
#include "worker/checkpoint/compare.hpp"

namespace demist::checkpoint {
namespace {

using test::Split;

// A state that one rank saved by rows, and what each of two ranks holds of it by columns.
class Compare : public testing::Test {
 protected:
  Compare() {
    save(mpi::Comm(), folder_.path(), state_.tensors, pieces_of(state_, Split::rows, 0, 1),
         test::make_meta(3), 1);
  }
  Difference compare_rank(int rank) {
    Snapshot mine;
    mine.tensors = state_.tensors;
    mine.pieces = pieces_of(state_, Split::columns, rank, 2);
    mine.meta = meta_;
    return compare(mine, open_step(folder_.path(), 3));
  }

  const test::TemporaryFolder folder_;
  test::State state_ = test::make_state(test::small_table());
  Meta meta_ = test::make_meta(3);
};

TEST_F(Compare, TheSameBitsInAnyLayoutAreEqual) {
  for (const int rank : {0, 1}) EXPECT_FALSE(compare_rank(rank).any());
}

TEST_F(Compare, OneBitIsFoundByTheRankThatHoldsIt) {
  float* value = state_.at(0, Kind::adam_v, 3 * 12 + 7);  // row 3, column 7 of 12
  *value = std::bit_cast<float>(std::bit_cast<std::uint32_t>(*value) ^ 1u);
  EXPECT_FALSE(compare_rank(0).any());
  const Difference found = compare_rank(1);
  EXPECT_EQ(found.values, 1);
  EXPECT_EQ(found.where, "embed.weight, adam_v, element 43");
}

TEST_F(Compare, SignsOfZeroAreBits) {
  *state_.at(3, Kind::parameter, 0) = 0.0f;
  save(mpi::Comm(), folder_.path(), state_.tensors, pieces_of(state_, Split::rows, 0, 1),
       test::make_meta(3), 1);
  *state_.at(3, Kind::parameter, 0) = -0.0f;
  EXPECT_EQ(compare_rank(0).values + compare_rank(1).values, 1);
}

TEST_F(Compare, WhatIsKeptBesideTheTensorsCounts) {
  meta_.state_json = R"({"scale":[1,3]})";
  const Difference found = compare_rank(0);
  EXPECT_EQ(found.values, 0);
  EXPECT_TRUE(found.any());
}

TEST_F(Compare, AnotherModelIsRefused) {
  state_.tensors[0].name = "other.weight";
  EXPECT_THROW(compare_rank(0), CheckpointError);
}

}  // namespace
}  // namespace demist::checkpoint
