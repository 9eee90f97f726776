// SPDX-License-Identifier: Apache-2.0
#include "core/exact_sum.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <random>
#include <vector>

namespace demist {
namespace {

TEST(ExactSum, DoesNotDependOnOrderOrGrouping) {
  std::mt19937_64 random(1);
  std::vector<double> terms(1000);
  for (double& x : terms)
    x = std::ldexp(static_cast<double>(random()) - 9e18, static_cast<int>(random() % 600) - 300);
  ExactSum forward, a, b;
  for (const double x : terms) forward.add(x);
  std::shuffle(terms.begin(), terms.end(), random);
  for (std::size_t i = 0; i < terms.size(); ++i) (i % 3 == 0 ? a : b).add(terms[i]);
  a.add(b);
  EXPECT_EQ(forward.value(), a.value());
}

TEST(ExactSum, OfOneTermIsTheTerm) {
  std::mt19937_64 random(2);
  for (int i = 0; i < 100000; ++i) {
    const std::uint64_t bits = i % 10 == 0 ? random() & 0x800fffffffffffffu : random();
    const auto x = std::bit_cast<double>(bits);  // one in ten is subnormal
    if (!std::isfinite(x)) continue;
    ExactSum sum;
    sum.add(x);
    EXPECT_EQ(sum.value(), x);
  }
}

TEST(ExactSum, KeepsWhatFloatingPointLoses) {
  ExactSum sum;
  for (const double x : {1e300, 1.0, -1e300, 1e-300}) sum.add(x);
  EXPECT_EQ(sum.value(), 1.0);
  sum.add(-1.0);
  EXPECT_DOUBLE_EQ(sum.value(), 1e-300);
  sum.add(-2e-300);
  EXPECT_DOUBLE_EQ(sum.value(), -1e-300);
}

TEST(ExactSum, ExtremesAndNonFinite) {
  ExactSum sum;
  sum.add(std::numeric_limits<double>::denorm_min());
  EXPECT_EQ(sum.value(), std::numeric_limits<double>::denorm_min());
  sum.add(std::numeric_limits<double>::max());
  EXPECT_EQ(sum.value(), std::numeric_limits<double>::max());
  sum.add(std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(sum.value()));
}

}  // namespace
}  // namespace demist
