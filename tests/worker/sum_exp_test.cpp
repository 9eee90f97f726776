// The vector exponential sum of decoding against the standard library's exp.
// SPDX-License-Identifier: Apache-2.0
#include "worker/generate/sum_exp.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/philox.hpp"

namespace demist::generate {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(SumExp, EqualsTheStandardExponential) {
  for (std::uint64_t i = 0; i < 20000; ++i) {
    const auto x = static_cast<float>(-690 * uniform(draw(1, i, 0)));
    const std::vector<float> one = {x};
    EXPECT_NEAR(sum_exp(one, 0) / std::exp(static_cast<double>(x)), 1, 1e-14) << x;
  }
}

TEST(SumExp, SumsAnyLengthAtAnyTemperature) {
  for (const std::size_t size : {0, 1, 7, 8, 9, 64, 1003})
    for (const double temperature : {0.3, 1.0, 2.5}) {
      std::vector<float> logits;
      double expected = 0;
      for (std::size_t v = 0; v < size; ++v) {
        logits.push_back(static_cast<float>(20 * uniform(draw(2, v, 0)) - 15));
        expected += std::exp((static_cast<double>(logits[v]) - 5) / temperature);
      }
      EXPECT_NEAR(sum_exp(logits, 5, temperature), expected, 1e-13 * expected + 1e-300);
    }
}

TEST(SumExp, EdgesAreExact) {
  const std::vector<float> edges = {0, -kInfinity, -1e30f, -701};
  EXPECT_EQ(sum_exp(edges, 0), 1);
  for (std::size_t lane = 0; lane < 11; ++lane) {
    std::vector<float> logits(11, 0.0f);
    logits[lane] = std::nanf("");
    EXPECT_TRUE(std::isnan(sum_exp(logits, 0)));
  }
  const std::vector<float> infinite = {kInfinity, 0};
  EXPECT_TRUE(std::isnan(sum_exp(infinite, kInfinity)));
  const std::vector<float> banned = {-kInfinity};
  EXPECT_TRUE(std::isnan(sum_exp(banned, -kInfinity)));
}

}  // namespace
}  // namespace demist::generate
