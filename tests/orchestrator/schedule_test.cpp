// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>

#include "worker/config.hpp"

namespace demist {
namespace {

ScheduleConfig schedule(ScheduleKind kind) { return {kind, 1e-3, 0, 10, 110}; }

TEST(Schedule, WarmsUpLinearly) {
  for (const auto kind : {ScheduleKind::linear, ScheduleKind::cosine, ScheduleKind::constant,
                          ScheduleKind::inverse_sqrt}) {
    EXPECT_DOUBLE_EQ(lr_at(schedule(kind), 0), 1e-4);
    EXPECT_DOUBLE_EQ(lr_at(schedule(kind), 4), 5e-4);
    EXPECT_DOUBLE_EQ(lr_at(schedule(kind), 9), 1e-3);  // step 10 of 10
  }
}

TEST(Schedule, LinearEndsAtItsFinalFraction) {
  ScheduleConfig s = schedule(ScheduleKind::linear);
  EXPECT_DOUBLE_EQ(lr_at(s, 59), 5e-4);
  EXPECT_DOUBLE_EQ(lr_at(s, 109), 0);
  s.final_fraction = 0.1;
  EXPECT_DOUBLE_EQ(lr_at(s, 109), 1e-4);
  EXPECT_DOUBLE_EQ(lr_at(s, 500), 1e-4);  // beyond the end it stays
}

TEST(Schedule, CosineIsHalfWayInTheMiddle) {
  const ScheduleConfig s = schedule(ScheduleKind::cosine);
  EXPECT_NEAR(lr_at(s, 59), 5e-4, 1e-12);
  EXPECT_NEAR(lr_at(s, 109), 0, 1e-12);
}

TEST(Schedule, ConstantStaysAndInverseSqrtFalls) {
  EXPECT_DOUBLE_EQ(lr_at(schedule(ScheduleKind::constant), 109), 1e-3);
  EXPECT_DOUBLE_EQ(lr_at(schedule(ScheduleKind::inverse_sqrt), 39), 1e-3 * std::sqrt(10. / 40));
}

}  // namespace
}  // namespace demist
