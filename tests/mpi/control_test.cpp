// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <numeric>

#include "orchestrator/control_channel.hpp"
#include "tests/support/mpi_main.hpp"

namespace demist {
namespace {

TEST(ControlChannel, EveryKindOfMessageArrives) {
  const mpi::Comm& world = test::world();
  ControlChannel channel(world);
  const std::vector<ControlMessage> script = {Evaluate{0}, StepPlan{7, {0, 0, 1, 2}, true},
                                              Save{8},     Rollback{6, 3},
                                              Settle{},    Stop{Stop::Reason::interrupted, 8}};
  for (const ControlMessage& message : script) {
    if (world.rank() == 0)
      channel.post(message);
    else
      channel.post();
    const ControlMessage arrived = channel.wait();
    EXPECT_EQ(encode(arrived), encode(message));
    const auto* plan = std::get_if<StepPlan>(&arrived);
    EXPECT_TRUE(plan == nullptr || plan->check);
  }
}

TEST(ControlChannel, MessagesLongerThanAFrame) {
  const mpi::Comm& world = test::world();
  ControlChannel channel(world);
  StepPlan plan{1, std::vector<std::int32_t>(50000)};
  std::iota(plan.owner.begin(), plan.owner.end(), 0);
  if (world.rank() == 0)
    channel.post(plan);
  else
    channel.post();
  const ControlMessage message = channel.wait();
  EXPECT_EQ(std::get<StepPlan>(message).owner, plan.owner);
}

RankReport report_of(int rank, std::int64_t step) {
  RankReport report;
  report.step.step = step;
  report.step.loss = 0.5 + rank;
  report.step.grad_norm = 1e300;
  report.step.lr = 3e-4;
  report.step.tokens = std::int64_t{1} << 40;
  report.step.rescaled = 2;
  report.step.compute_seconds = 0.25;
  report.step.verdict = StepVerdict::norm_spike;
  report.step.exhausted = true;
  report.step.rollbacks = 1;
  report.stop_requested = false;
  return report;
}

TEST(ControlChannel, ReportsArriveOneStepBehindInRankOrder) {
  const mpi::Comm& world = test::world();
  ControlChannel channel(world);
  EXPECT_TRUE(channel.report(report_of(world.rank(), 0)).empty());
  for (std::int64_t step = 1; step <= 3; ++step) {
    const auto reports = step < 3 ? channel.report(report_of(world.rank(), step)) : channel.drain();
    ASSERT_EQ(reports.size(), world.rank() == 0 ? static_cast<std::size_t>(world.size()) : 0u);
    for (std::size_t r = 0; r < reports.size(); ++r)
      EXPECT_EQ(encode(reports[r]), encode(report_of(static_cast<int>(r), step - 1)));
  }
  EXPECT_TRUE(channel.drain().empty());
}

TEST(ControlChannel, DamagedBytesAreRefused) {
  EXPECT_THROW(decode_message("\xff\xff\xff"), EnvironmentError);
  EXPECT_THROW(decode_message(""), EnvironmentError);
  EXPECT_THROW(decode_report("\xff"), EnvironmentError);
}

// Well-formed, but nothing that this binary sends.
TEST(ControlChannel, UnknownValuesAreRefused) {
  for (const int reason : {-1, 3})
    EXPECT_THROW(decode_message(encode(Stop{static_cast<Stop::Reason>(reason), 8})),
                 EnvironmentError);
  EXPECT_THROW(decode_message(encode(StepPlan{7, {0, -1}, false})), EnvironmentError);
  RankReport report;
  report.step.verdict = static_cast<StepVerdict>(5);
  EXPECT_THROW(decode_report(encode(report)), EnvironmentError);
}

// The pipeline of docs/protocol.md with an empty step: all ranks see the same messages, and a stop
// asked for by one rank ends all of them after a save.
TEST(ControlChannel, DrivesAllRanksToTheSameEnd) {
  const mpi::Comm& world = test::world();
  ControlChannel channel(world);
  CoordinatorConfig config;
  config.total_steps = 1000;
  config.micro_batches = 8;
  config.data_groups = world.size();
  Coordinator coordinator(config);
  const auto post = [&] {
    if (world.rank() == 0)
      channel.post(coordinator.next());
    else
      channel.post();
  };
  std::int64_t steps = 0, saved = -1;
  post();
  ControlMessage current = channel.wait();
  post();
  while (!std::holds_alternative<Stop>(current)) {
    ControlMessage ahead = channel.wait();
    if (!std::holds_alternative<Stop>(ahead)) post();
    if (const auto* plan = std::get_if<StepPlan>(&current)) {
      EXPECT_EQ(plan->step, steps++);
      RankReport report = report_of(world.rank(), plan->step);
      report.step.exhausted = false;
      report.stop_requested = world.rank() == world.size() - 1 && plan->step == 20;
      const auto reports = channel.report(report);
      if (world.rank() == 0) coordinator.receive(reports);
    } else if (const auto* save = std::get_if<Save>(&current)) {
      saved = save->step;
    }
    current = std::move(ahead);
  }
  channel.drain();
  EXPECT_EQ(std::get<Stop>(current).reason, Stop::Reason::interrupted);
  EXPECT_EQ(saved, steps);
  EXPECT_GT(steps, 20);
  EXPECT_LE(steps, 26);  // the messages under way when the request came
}

}  // namespace
}  // namespace demist

int main(int argc, char** argv) { return demist::test::run_mpi_tests(argc, argv); }
