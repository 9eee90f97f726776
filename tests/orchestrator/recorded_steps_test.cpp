// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/recorded_steps.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>

namespace demist {
namespace {

StepReport report_of(std::int64_t step, double loss, std::int32_t rollbacks = 0) {
  StepReport report;
  report.step = step;
  report.loss = loss;
  report.grad_norm = 2.5;
  report.lr = 1e-4;
  report.rollbacks = rollbacks;
  return report;
}

std::string line(const StepReport& report, const std::string& stage = "mlm") {
  return step_line(stage, report, 0.5, 0) + "\n";
}

std::string start(std::int64_t step, int ranks) {
  return event_line("mlm", "start", step, {ranks, 2, "cpu"}, 0.5) + "\n";
}

TEST(RecordedSteps, TheLaterOfTwoLinesStandsUnlessARollbackLiesBetween) {
  const RecordedSteps record(line(report_of(3, 1)) + line(report_of(4, 2)) + line(report_of(3, 3)) +
                                 line(report_of(3, 4, 1)) + line(report_of(9, 5), "other") +
                                 "{\"event\":\"st",
                             "mlm");
  ASSERT_NE(record.last(3), nullptr);
  EXPECT_EQ(record.last(3)->loss, 4);
  EXPECT_EQ(record.last(3)->rollbacks, 1);
  EXPECT_EQ(record.find(3, 0)->loss, 3);
  EXPECT_EQ(record.last(4)->loss, 2);
  EXPECT_EQ(record.find(4, 1), nullptr);
  EXPECT_EQ(record.last(9), nullptr);
  EXPECT_EQ(record.end(), 5);
}

TEST(RecordedSteps, AStageThatBeginsAnewHasLeftNothing) {
  const RecordedSteps record(start(0, 4) + line(report_of(0, 1)) + line(report_of(1, 2)) +
                                 start(0, 3) + line(report_of(0, 3)) + start(1, 2) +
                                 line(report_of(1, 4)),
                             "mlm");
  EXPECT_EQ(record.last(0)->loss, 3);
  EXPECT_EQ(record.last(0)->crewing.ranks, 3);
  EXPECT_EQ(record.last(1)->crewing.ranks, 2);
  EXPECT_EQ(record.last(1)->crewing.tensor, 2);
  EXPECT_EQ(record.last(1)->crewing.device, "cpu");
  EXPECT_EQ(RecordedSteps(start(0, 4) + line(report_of(0, 1)) + start(0, 4), "mlm").end(), 0);
}

TEST(RecordedSteps, ALineOfAnotherKindIsPassedOver) {
  for (const char* bad :
       {R"({"event":"step","stage":7,"step":9})", R"({"event":[],"stage":"mlm","step":9})",
        R"({"event":"step","stage":"mlm","step":"9"})",
        R"({"event":"step","stage":"mlm","step":1e300})",
        R"({"event":"step","stage":"mlm","step":-9223372036854775808})",
        R"({"event":"step","stage":"mlm","step":9,"skipped":1})"}) {
    const RecordedSteps record(bad + ("\n" + line(report_of(3, 1))), "mlm");
    EXPECT_EQ(record.end(), 4) << bad;
  }
}

TEST(RecordedSteps, EveryNumberIsReadBackAsItWas) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 20000; ++i) {
    const auto value = std::bit_cast<double>(random());
    StepReport report = report_of(0, value);
    report.grad_norm = std::bit_cast<double>(random());
    report.lr = std::bit_cast<double>(random() >> 12);  // below the smallest normal number
    const RecordedSteps record(line(report), "mlm");
    EXPECT_EQ(differences(report, *record.last(0)), "") << value;
  }
}

TEST(RecordedSteps, TheLastDigitCounts) {
  const StepReport report = report_of(0, 1.25);
  const auto changed = [&](auto change) {
    StepReport other = report;
    change(other);
    const RecordedSteps record(line(other), "mlm");
    return differences(report, *record.last(0));
  };
  EXPECT_EQ(changed([](StepReport&) {}), "");
  EXPECT_EQ(changed([](StepReport& r) { r.loss = std::nextafter(r.loss, 2); }),
            "loss 1.25 was 1.2500000000000002");
  EXPECT_NE(changed([](StepReport& r) { r.grad_norm = std::nextafter(r.grad_norm, 0); }), "");
  EXPECT_NE(changed([](StepReport& r) { r.lr = 2e-4; }), "");
  EXPECT_EQ(changed([](StepReport& r) { r.verdict = StepVerdict::norm_spike; }),
            "verdict good was norm_spike");
}

TEST(RecordedSteps, WhatIsNotFiniteIsAlike) {
  StepReport report = report_of(0, std::numeric_limits<double>::quiet_NaN());
  const RecordedSteps record(line(report), "mlm");
  report.loss = std::numeric_limits<double>::infinity();
  EXPECT_EQ(differences(report, *record.last(0)), "");
  report.loss = 1;
  EXPECT_EQ(differences(report, *record.last(0)), "loss 1 was nan");
}

}  // namespace
}  // namespace demist
