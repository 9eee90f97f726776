// SPDX-License-Identifier: Apache-2.0
#include "core/philox.hpp"

#include <gtest/gtest.h>

namespace demist {
namespace {

// Known-answer vectors of the Random123 distribution (kat_vectors, philox4x32 10).
TEST(Philox, MatchesThePublishedVectors) {
  EXPECT_EQ(philox(0, 0, 0, 0, 0).v,
            (std::array<std::uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox(~0ull, ~0u, ~0u, ~0u, ~0u).v,
            (std::array<std::uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox(0x299f31d0a4093822ull, 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344).v,
            (std::array<std::uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, StreamsAndStepsDiffer) {
  EXPECT_NE(stream_key(1, "mask", 0), stream_key(1, "time", 0));
  EXPECT_NE(stream_key(1, "mask", 0), stream_key(1, "mask", 1));
  EXPECT_NE(stream_key(1, "mask", 0), stream_key(2, "mask", 0));
}

TEST(Philox, UniformHasTheRightMeanAndRange) {
  double sum = 0;
  std::array<int, 7> count{};
  for (std::uint32_t i = 0; i < 70000; ++i) {
    const Philox4 words = draw(stream_key(3, "test", 0), i, 5);
    const double u = uniform(words);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    ++count[uniform_int(words, 7)];
  }
  EXPECT_NEAR(sum / 70000, 0.5, 0.005);
  for (const int n : count) EXPECT_NEAR(n, 10000, 500);
}

}  // namespace
}  // namespace demist
