// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/peak.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>

namespace demist::cpu {
namespace {

// Any machine that can run this does more than the speed of one scalar addition a microsecond, and
// none does an exaflop: that the unit is FLOP/s, not GFLOP/s.
TEST(Peak, IsAPlausibleRateInBothTypes) {
  for (const DType compute : {DType::f32, DType::bf16}) {
    const double peak = measure_peak(compute, 0.005);
    EXPECT_GT(peak, 1e6) << name_of(compute);
    EXPECT_LT(peak, 1e18) << name_of(compute);
  }
}

TEST(Peak, LeavesTheThreadsAsTheyWere) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(3);
  EXPECT_TRUE(std::isfinite(measure_peak(DType::f32, 0)));
  EXPECT_EQ(omp_get_max_threads(), 3);
  omp_set_num_threads(before);
}

}  // namespace
}  // namespace demist::cpu
