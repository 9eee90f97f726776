// SPDX-License-Identifier: Apache-2.0
#include "worker/self_check.hpp"

#include <gtest/gtest.h>

namespace demist {
namespace {

// The digests of all ranks of computations in these turns, of micro-batches that `owner` names.
class Computations {
 public:
  Computations(ParallelLayout layout, std::vector<std::int32_t> owner, std::vector<int> turns)
      : layout_(layout), owner_(std::move(owner)) {
    all_.resize(static_cast<std::size_t>(layout.data_size * layout.tensor_size));
    for (std::size_t r = 0; r < all_.size(); ++r)
      for (const int turn : turns) all_[r].push_back(right(static_cast<int>(r), turn));
  }
  // What rank `rank` made of its micro-batches in the computations [from, to).
  void spoil(std::size_t rank, std::size_t from, std::size_t to) {
    for (std::size_t k = from; k < to; ++k)
      for (StepDigest::Part& part : all_[rank][k].parts) part.gradient ^= 1;
  }
  void spoil_sum(std::size_t rank, std::size_t k) { all_[rank][k].shard ^= 1; }
  Corruption fault() const { return find_fault(layout_, owner_, all_); }

 private:
  StepDigest right(int rank, int turn) const {
    StepDigest digest{turn, 100u + static_cast<unsigned>(rank), 7, {}};
    for (std::size_t i = 0; i < owner_.size(); ++i)
      if (group_of_turn(owner_[i], turn, layout_.data_size) == rank / layout_.tensor_size)
        digest.parts.push_back({static_cast<std::int32_t>(i),
                                1000 * i + static_cast<unsigned>(rank % layout_.tensor_size)});
    return digest;
  }

  ParallelLayout layout_;
  std::vector<std::int32_t> owner_;
  std::vector<std::vector<StepDigest>> all_;
};

TEST(SelfCheck, APassingFaultIsItsRanks) {
  Computations of_first({.data_size = 4}, {0, 1, 2, 3}, {0, 1, 2, 0});
  of_first.spoil(2, 0, 1);
  EXPECT_EQ(of_first.fault().ranks, std::vector<int>{2});
  EXPECT_EQ(of_first.fault().where, "the gradient of micro-batch 2");

  Computations of_two({.data_size = 2}, {0, 0, 1, 1}, {0, 1, 2, 1});
  of_two.spoil(0, 1, 2);  // computed what is group 1's
  EXPECT_EQ(of_two.fault().ranks, std::vector<int>{0});
  EXPECT_EQ(of_two.fault().where, "the gradients of micro-batches 2, 3");
}

TEST(SelfCheck, OfThreeGroupsOneThatIsAlwaysWrongIsKnown) {
  Computations c({.data_size = 3}, {0, 1, 2}, {0, 1, 2});
  c.spoil(1, 0, 3);
  EXPECT_EQ(c.fault().ranks, std::vector<int>{1});
  EXPECT_EQ(c.fault().where, "the gradients of micro-batches 0, 1, 2");
}

TEST(SelfCheck, OfTwoGroupsThatNeverAgreeEitherMayBeAtFault) {
  Computations c({.tensor_size = 2, .data_size = 2}, {0, 1}, {0, 1, 2, 1});
  c.spoil(2, 0, 4);
  EXPECT_EQ(c.fault().ranks, (std::vector<int>{0, 1, 2, 3}));
}

TEST(SelfCheck, ATensorGroupIsAtFaultAsAWhole) {
  Computations c({.tensor_size = 2, .data_size = 2}, {0, 1}, {0, 1, 2, 0});
  c.spoil(3, 0, 1);
  EXPECT_EQ(c.fault().ranks, (std::vector<int>{2, 3}));
}

TEST(SelfCheck, GradientsThatAreAlikeAndSumsThatAreNot) {
  Computations c({.data_size = 4}, {0, 1, 2, 3}, {0, 1, 2, 1});
  c.spoil_sum(1, 1);
  EXPECT_EQ(c.fault().ranks, std::vector<int>{1});
  EXPECT_EQ(c.fault().where, "the sum of the gradients");
}

// One rank without MPI; `results` of its computations, one after another.
std::optional<Corruption> check(std::vector<std::uint64_t> results, std::vector<int>& turns) {
  std::size_t next = 0;
  return self_check(mpi::Comm(), {}, std::vector<std::int32_t>{0}, [&](int turn) {
    turns.push_back(turn);
    const std::uint64_t result = results.at(next++);
    return StepDigest{turn, result, 7, {{0, result}}};
  });
}

TEST(SelfCheck, AsksUntilItKnows) {
  struct Case {
    std::vector<std::uint64_t> results;
    std::vector<int> turns;
    bool found, passing;
  };
  const std::vector<Case> cases = {
      {{5, 5}, {0, 1}, false, false},           {{9, 5, 5, 5}, {0, 1, 2, 0}, true, true},
      {{5, 9, 5, 5}, {0, 1, 2, 1}, true, true}, {{5, 9, 5, 9}, {0, 1, 2, 1}, true, false},
      {{1, 2, 3}, {0, 1, 2}, true, false},
  };
  for (const Case& c : cases) {
    std::vector<int> turns;
    const auto found = check(c.results, turns);
    EXPECT_EQ(turns, c.turns);
    EXPECT_EQ(found.has_value(), c.found);
    if (!found) continue;
    EXPECT_EQ(found->passing, c.passing);
    EXPECT_EQ(found->ranks, std::vector<int>{0});
  }
}

}  // namespace
}  // namespace demist
