// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/control_wire.hpp"

#include <gtest/gtest.h>

#include "core/error.hpp"

namespace demist {
namespace {

std::vector<std::int32_t> owner_of(const std::string& bytes,
                                   std::span<const std::int32_t> before = {}) {
  return std::get<StepPlan>(decode_message(bytes, before)).owner;
}

TEST(ControlWire, PlansSurvive) {
  using Shares = std::vector<std::int32_t>;
  for (const Shares& shares :
       {Shares{1}, Shares{3, 3, 2, 2}, Shares{0, 2, 0, 0, 1}, Shares{5, 0, 5}}) {
    const StepPlan plan{4, owners_of(shares), true};
    const ControlMessage back = decode_message(encode(plan));
    EXPECT_EQ(std::get<StepPlan>(back).owner, plan.owner);
    EXPECT_EQ(std::get<StepPlan>(back).step, 4);
    EXPECT_TRUE(std::get<StepPlan>(back).check);
  }
}

TEST(ControlWire, ThePlanOfThousandsOfGroupsIsShort) {
  const StepPlan equal{1, balanced_owners(16384, 4096)};
  EXPECT_LE(encode(equal).size(), 16u);
  std::vector<double> seconds(4096, 1);
  seconds[1234] = 3;
  const StepPlan one_is_slow{2, owners_of(share_out(seconds, 16384))};
  EXPECT_LE(encode(one_is_slow).size(), 32u);
}

TEST(ControlWire, TheSameOwnersAreNotSentAgain) {
  const StepPlan plan{9, owners_of(std::vector<std::int32_t>{3, 1, 4, 1, 5, 9, 2, 6})};
  const std::string again = encode(plan, plan.owner);
  EXPECT_LE(again.size(), 6u);
  EXPECT_EQ(owner_of(again, plan.owner), plan.owner);
  EXPECT_EQ(owner_of(encode(plan, balanced_owners(31, 8)), balanced_owners(31, 8)), plan.owner);
}

TEST(ControlWire, OwnersOutOfOrderAreABug) {
  EXPECT_THROW(encode(StepPlan{0, {1, 0}}), InternalError);
}

TEST(ControlWire, ReportsSurvive) {
  Report report;
  report.step = 12;
  report.exhausted = report.stop_requested = true;
  report.rollbacks = 2;
  report.control_seconds = 0.25f;
  report.speeds = {{0, 0.5f}, {4095, 1e-3f}};
  const Report back = decode_report(encode(report));
  EXPECT_EQ(back.step, 12);
  EXPECT_TRUE(back.exhausted && back.stop_requested);
  EXPECT_EQ(back.rollbacks, 2);
  EXPECT_EQ(back.control_seconds, 0.25f);
  ASSERT_EQ(back.speeds.size(), 2u);
  EXPECT_EQ(back.speeds[1].rank, 4095);
  EXPECT_EQ(back.speeds[1].seconds, 1e-3f);
  Report usual;
  usual.step = 1 << 20;
  usual.control_seconds = 1e-4f;
  EXPECT_LE(encode(usual).size(), 12u);
}

TEST(ControlWire, DamagedBytesAreRefused) {
  EXPECT_THROW(decode_message("\xff\xff\xff"), EnvironmentError);
  EXPECT_THROW(decode_message(""), EnvironmentError);
  EXPECT_THROW(decode_report("\xff"), EnvironmentError);
  EXPECT_THROW(decode_report(std::string("\x32\x01\x05", 3)), EnvironmentError);  // no seconds
  // A plan whose runs are not pairs, and one of a negative number of groups.
  EXPECT_THROW(decode_message(std::string("\x0a\x03\x12\x01\x05", 5)), EnvironmentError);
  EXPECT_THROW(decode_message(std::string("\x0a\x04\x12\x02\x05\x00", 6)), EnvironmentError);
}

}  // namespace
}  // namespace demist
