// SPDX-License-Identifier: Apache-2.0
#include "worker/step_guard.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/error.hpp"

namespace demist {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

GuardConfig spikes() { return {3, 4, 1.5, 5}; }

StepVerdict step(StepGuard& guard, double loss, double norm) {
  const StepVerdict verdict = guard.judge(loss, norm);
  guard.record(verdict, loss, norm);
  return verdict;
}

TEST(StepGuard, NotFiniteIsBadFromTheFirstStepOn) {
  const StepGuard guard{GuardConfig{}};
  EXPECT_EQ(guard.judge(kNan, 1), StepVerdict::not_finite);
  EXPECT_EQ(guard.judge(1, kInfinity), StepVerdict::not_finite);
  EXPECT_EQ(guard.judge(1e30, 1e30), StepVerdict::good);
}

TEST(StepGuard, SpikesNeedAFullWindow) {
  StepGuard guard(spikes());
  for (const double loss : {1.0, 100.0, 1.0}) EXPECT_EQ(step(guard, loss, 1), StepVerdict::good);
  EXPECT_EQ(step(guard, 1, 1), StepVerdict::good);  // window: 1 100 1 1
  EXPECT_EQ(step(guard, 1.6, 1), StepVerdict::loss_spike);
  EXPECT_EQ(step(guard, 1.4, 5.1), StepVerdict::norm_spike);
  EXPECT_EQ(step(guard, 1.4, 4.9), StepVerdict::good);
}

TEST(StepGuard, BadStepsDoNotEnterTheWindow) {
  StepGuard guard({100, 2, 2, 0});
  step(guard, 1, 1);
  step(guard, 1, 1);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(step(guard, 3, 1), StepVerdict::loss_spike);
}

TEST(StepGuard, OldStepsLeaveTheWindow) {
  StepGuard guard({3, 3, 2, 0});
  for (const double loss : {1.0, 1.0, 1.0, 1.9, 1.9})
    EXPECT_EQ(step(guard, loss, 1), StepVerdict::good);
  EXPECT_EQ(step(guard, 3.7, 1), StepVerdict::good);  // against 1.9
}

TEST(StepGuard, OnlyBadStepsInARowExhaust) {
  StepGuard guard(spikes());
  step(guard, kNan, 1);
  step(guard, kNan, 1);
  step(guard, 1, 1);
  EXPECT_FALSE(guard.exhausted());
  step(guard, kNan, 1);
  step(guard, kNan, 1);
  EXPECT_FALSE(guard.exhausted());
  step(guard, kNan, 1);
  EXPECT_TRUE(guard.exhausted());
}

TEST(StepGuard, ItsStateIsAllThereIs) {
  StepGuard guard(spikes());
  for (const double loss : {1.0 / 3, 0.1, 1.0, 2.0}) step(guard, loss, loss);
  step(guard, kNan, 1);
  StepGuard again(spikes());
  again.set_state(guard.state());
  EXPECT_EQ(again.state(), guard.state());
  EXPECT_EQ(again.judge(1.6, 1), guard.judge(1.6, 1));
  step(again, kNan, 1);
  step(again, kNan, 1);
  EXPECT_TRUE(again.exhausted());
  EXPECT_THROW(again.set_state("{}"), CheckpointError);
  EXPECT_THROW(again.set_state("not json"), CheckpointError);
}

}  // namespace
}  // namespace demist
