// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>

#include "worker/config.hpp"

namespace demist {
namespace {

ScheduleConfig schedule(ScheduleKind kind) {
  return {
      .kind = kind, .peak = 2e-4, .final_fraction = 0.1, .warmup_steps = 10, .total_steps = 110};
}

TEST(Schedule, WarmsUpLinearlyToThePeak) {
  for (const ScheduleKind kind : {ScheduleKind::linear, ScheduleKind::cosine,
                                  ScheduleKind::constant, ScheduleKind::inverse_sqrt}) {
    const ScheduleConfig s = schedule(kind);
    EXPECT_DOUBLE_EQ(lr_at(s, 0), 2e-5);  // the first update is not wasted on a rate of zero
    EXPECT_DOUBLE_EQ(lr_at(s, 4), 1e-4);
    EXPECT_DOUBLE_EQ(lr_at(s, 9), 2e-4);
  }
}

TEST(Schedule, EndsAtItsFinalFraction) {
  EXPECT_DOUBLE_EQ(lr_at(schedule(ScheduleKind::linear), 59), 2e-4 * 0.55);
  EXPECT_DOUBLE_EQ(lr_at(schedule(ScheduleKind::cosine), 59), 2e-4 * 0.55);
  EXPECT_DOUBLE_EQ(lr_at(schedule(ScheduleKind::cosine), 34),
                   2e-4 * (0.1 + 0.9 * 0.5 * (1 + std::sqrt(0.5))));
  for (const std::int64_t step : {109, 110, 5000}) {
    EXPECT_DOUBLE_EQ(lr_at(schedule(ScheduleKind::linear), step), 2e-5);
    EXPECT_DOUBLE_EQ(lr_at(schedule(ScheduleKind::cosine), step), 2e-5);
    EXPECT_DOUBLE_EQ(lr_at(schedule(ScheduleKind::constant), step), 2e-4);
  }
  EXPECT_DOUBLE_EQ(lr_at(schedule(ScheduleKind::inverse_sqrt), 39), 1e-4);
}

TEST(Schedule, WorksWithoutWarmupAndWithOneStep) {
  ScheduleConfig s = schedule(ScheduleKind::linear);
  s.warmup_steps = 0;
  s.total_steps = 1;
  EXPECT_DOUBLE_EQ(lr_at(s, 0), 2e-5);
  s.total_steps = 100;
  EXPECT_DOUBLE_EQ(lr_at(s, 49), 2e-4 * 0.55);
  s.kind = ScheduleKind::inverse_sqrt;
  EXPECT_TRUE(std::isfinite(lr_at(s, 0)));
}

TEST(Schedule, NeverRisesAfterWarmup) {
  for (const ScheduleKind kind :
       {ScheduleKind::linear, ScheduleKind::cosine, ScheduleKind::inverse_sqrt})
    for (std::int64_t step = 10; step < 120; ++step)
      EXPECT_LE(lr_at(schedule(kind), step), lr_at(schedule(kind), step - 1));
}

}  // namespace
}  // namespace demist
