// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <limits>
#include <set>

#include "orchestrator/control_channel.hpp"
#include "orchestrator/control_wire.hpp"
#include "tests/support/mpi_main.hpp"

namespace demist {
namespace {

// Of a chain, of a tree that is deep at four ranks, and what runs use.
class ControlChannels : public testing::TestWithParam<int> {
 protected:
  ControlChannel channel_{test::world(), GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Children, ControlChannels, testing::Values(1, 2, ControlTree::kChildren));

// The next message on every rank, that rank 0 posts.
ControlMessage exchange(ControlChannel& channel, const ControlMessage& message) {
  if (test::world().rank() == 0) channel.post(message);
  return channel.wait();
}

TEST_P(ControlChannels, EveryKindOfMessageArrives) {
  const std::vector<ControlMessage> script = {Evaluate{0},
                                              StepPlan{7, {0, 0, 1, 3}, true},
                                              Save{8},
                                              Rollback{6, 3},
                                              Settle{},
                                              StepPlan{6, {0, 0, 1, 3}, false},
                                              Stop{Stop::Reason::interrupted, 8}};
  for (const ControlMessage& message : script) {
    const ControlMessage arrived = exchange(channel_, message);
    EXPECT_EQ(encode(arrived), encode(message));
    const auto* plan = std::get_if<StepPlan>(&arrived);
    EXPECT_TRUE(plan == nullptr || plan->check == (plan->step == 7));
    EXPECT_TRUE(plan == nullptr || plan->owner.size() == 4);
  }
}

TEST_P(ControlChannels, LongMessages) {
  StepPlan plan;
  for (std::int32_t group = 0; group < 50000; ++group)
    plan.owner.insert(plan.owner.end(), static_cast<std::size_t>(group % 3), group);
  EXPECT_EQ(std::get<StepPlan>(exchange(channel_, plan)).owner, plan.owner);
}

TEST_P(ControlChannels, ManyMessagesMayBeUnderWay) {
  if (test::world().rank() == 0)
    for (std::int64_t step = 0; step < 100; ++step) channel_.post(Save{step});
  for (std::int64_t step = 0; step < 100; ++step)
    EXPECT_EQ(std::get<Save>(channel_.wait()).step, step);
}

Report report_of(int rank, std::int64_t step) {
  Report report;
  report.step = step;
  report.rollbacks = 1;
  report.stop_requested = rank == 2 && step == 1;
  report.control_seconds = static_cast<float>(rank);
  report.speeds = {{rank, 0.5f + static_cast<float>(rank)}};
  return report;
}

TEST_P(ControlChannels, ReportsArriveOneStepBehindAndMerged) {
  const mpi::Comm& world = test::world();
  EXPECT_FALSE(channel_.report(report_of(world.rank(), 0)));
  for (std::int64_t step = 1; step <= 3; ++step) {
    const auto report =
        step < 3 ? channel_.report(report_of(world.rank(), step)) : channel_.drain();
    ASSERT_EQ(report.has_value(), world.rank() == 0);
    if (!report) continue;
    EXPECT_EQ(report->step, step - 1);
    EXPECT_EQ(report->stop_requested, world.size() > 2 && step == 2);
    EXPECT_EQ(report->control_seconds, static_cast<float>(world.size() - 1));
    std::set<int> ranks;
    for (const Report::Speed& speed : report->speeds) {
      ranks.insert(speed.rank);
      EXPECT_EQ(speed.seconds, 0.5f + static_cast<float>(speed.rank));
    }
    EXPECT_EQ(ranks.size(), static_cast<std::size_t>(world.size()));
  }
  EXPECT_FALSE(channel_.drain());
}

// Well-formed, but nothing that this binary sends.
TEST(ControlChannel, UnknownValuesAreRefused) {
  for (const int reason : {-1, 3})
    EXPECT_THROW(decode_message(encode(Stop{static_cast<Stop::Reason>(reason), 8})),
                 EnvironmentError);
  for (const float seconds : {-1.0f, std::numeric_limits<float>::quiet_NaN()}) {
    Report report = report_of(0, 0);
    report.speeds = {{1, seconds}};
    EXPECT_THROW(decode_report(encode(report)), EnvironmentError);
  }
  Report report = report_of(0, 0);
  report.speeds = {{-1, 1.0f}};
  EXPECT_THROW(decode_report(encode(report)), EnvironmentError);
}

// The pipeline of docs/protocol.md with an empty step: all ranks see the same messages, and a stop
// asked for by one rank ends all of them after a save.
TEST_P(ControlChannels, DrivesAllRanksToTheSameEnd) {
  const mpi::Comm& world = test::world();
  CoordinatorConfig config;
  config.total_steps = 1000;
  config.micro_batches = 8;
  config.data_groups = world.size();
  Coordinator coordinator(config);
  const auto post = [&] {
    if (world.rank() == 0) channel_.post(coordinator.next());
  };
  std::int64_t steps = 0, saved = -1;
  post();
  ControlMessage current = channel_.wait();
  post();
  while (!std::holds_alternative<Stop>(current)) {
    ControlMessage ahead = channel_.wait();
    if (!std::holds_alternative<Stop>(ahead)) post();
    if (const auto* plan = std::get_if<StepPlan>(&current)) {
      EXPECT_EQ(plan->step, steps++);
      for (int layer = 0; layer < 3; ++layer) channel_.progress();
      Report report = report_of(world.rank(), plan->step);
      report.stop_requested = world.rank() == world.size() - 1 && plan->step == 20;
      world.barrier();  // as the sums of a step do
      if (const auto before = channel_.report(report)) coordinator.receive(*before);
    } else if (const auto* save = std::get_if<Save>(&current)) {
      saved = save->step;
    }
    current = std::move(ahead);
  }
  channel_.drain();
  EXPECT_EQ(std::get<Stop>(current).reason, Stop::Reason::interrupted);
  EXPECT_EQ(saved, steps);
  EXPECT_EQ(steps, 24);  // the messages under way when the request came
}

}  // namespace
}  // namespace demist

int main(int argc, char** argv) { return demist::test::run_mpi_tests(argc, argv); }
