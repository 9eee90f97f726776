// SPDX-License-Identifier: Apache-2.0
#include "data/interleave.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/error.hpp"

namespace demist::data {
namespace {

TEST(Interleave, DealsEveryItemOnceInOrderAndEvenly) {
  const std::vector<std::uint64_t> counts{70, 0, 1, 300, 13, 29, 2};
  const Interleave deal(counts);
  std::vector<std::uint64_t> next(counts.size(), 0);
  const std::uint64_t periods = 3;
  for (std::uint64_t slot = 0; slot < periods * deal.total(); ++slot) {
    const auto [part, item] = deal(slot);
    ASSERT_EQ(item, next[part]++) << "slot " << slot;
    for (std::size_t p = 0; p < counts.size(); ++p) {
      const double share = static_cast<double>(counts[p]) / static_cast<double>(deal.total());
      // Half an item of rounding at each of at most three levels of the tree.
      ASSERT_NEAR(static_cast<double>(next[p]), share * static_cast<double>(slot + 1), 1.5);
    }
  }
  for (std::size_t p = 0; p < counts.size(); ++p) EXPECT_EQ(next[p], periods * counts[p]);
}

TEST(Interleave, OnePartIsTheIdentity) {
  const Interleave deal({5});
  for (std::uint64_t slot = 0; slot < 20; ++slot) EXPECT_EQ(deal(slot).item, slot);
}

TEST(Interleave, HugeCountsDoNotOverflow) {
  const Interleave deal({1ull << 40, 1ull << 41});
  const auto last = deal(deal.total() - 1);
  EXPECT_EQ(last.item, deal.count(last.part) - 1);
}

TEST(Interleave, NothingToDealIsAnError) { EXPECT_THROW(Interleave({0, 0}), InternalError); }

}  // namespace
}  // namespace demist::data
