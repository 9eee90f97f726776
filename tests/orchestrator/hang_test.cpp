// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/hang.hpp"

#include <gtest/gtest.h>

#include <limits>

namespace demist {
namespace {

// Some ranks of one machine and a clock, both moved by hand.
class Machine {
 public:
  explicit Machine(std::size_t ranks, const Patience& patience = {}) : detector_(patience) {
    pulses_.resize(ranks);
    for (std::size_t i = 0; i < ranks; ++i) {
      pulses_[i].host = "node7";
      pulses_[i].rank = static_cast<int>(i);
      pulses_[i].process = 100 + static_cast<int>(i);
      pulses_[i].phase = Phase::forward;
      pulses_[i].slowest_step = 1;
      pulses_[i].ticks = 1;
    }
    still_.resize(ranks);
  }
  Pulse& operator[](std::size_t rank) { return pulses_[rank]; }
  void stop_work(std::size_t rank) { still_[rank] = 1; }
  void stop_process(std::size_t rank) { still_[rank] = 2; }

  // Looks ten times a second until something is found; at most `seconds`.
  std::optional<Finding> run(double seconds, double interval = 0.1) {
    for (const double end = now_ + seconds; now_ < end; now_ += interval) {
      for (std::size_t i = 0; i < pulses_.size(); ++i) {
        if (still_[i] < 1) ++pulses_[i].beats;
        if (still_[i] < 2) ++pulses_[i].ticks;
      }
      if (const auto finding = detector_.look(pulses_, now_)) return finding;
    }
    return std::nullopt;
  }
  double now() const { return now_; }

 private:
  HangDetector detector_;
  std::vector<Pulse> pulses_;
  std::vector<int> still_;  // 1: no beats; 2: no ticks either
  double now_ = 1000;
};

constexpr auto kProcess = Finding::Kind::process_stands_still;
constexpr auto kWork = Finding::Kind::work_stands_still;

TEST(Hang, NothingIsFoundWhileAllWork) { EXPECT_FALSE(Machine(4).run(3600)); }

TEST(Hang, AStoppedProcessIsNamedWithinThreeSlowestSteps) {
  for (const double step : {1.0, 4.0, 60.0}) {
    Machine machine(3);
    for (std::size_t i = 0; i < 3; ++i) machine[i].slowest_step = step;
    ASSERT_FALSE(machine.run(10));
    machine.stop_process(1);
    machine[1].step = 41;
    machine[1].call = "reduce_scatter";
    for (const std::size_t other : {0u, 2u}) {  // they wait for it
      machine.stop_work(other);
      machine[other].call = "reduce_scatter";
    }
    const double begin = machine.now();
    const auto finding = machine.run(1000);
    ASSERT_TRUE(finding);
    EXPECT_EQ(finding->kind, kProcess);
    EXPECT_EQ(finding->pulse.rank, 1);
    EXPECT_LE(machine.now() - begin, 3 * step);
    EXPECT_EQ(describe(*finding).substr(0, 81),
              "rank 1 (process 101 on node7) stands still: forward of step 41, in reduce_scatter");
  }
}

// Letters are lost and sent again.
TEST(Hang, AProcessElsewhereHasMoreTime) {
  for (const bool elsewhere : {false, true}) {
    Machine machine(2);
    for (std::size_t i = 0; i < 2; ++i) machine[i].slowest_step = 0.1;
    machine[1].elsewhere = elsewhere;
    ASSERT_FALSE(machine.run(10));
    machine.stop_process(1);
    const double begin = machine.now();
    const auto finding = machine.run(1000);
    ASSERT_TRUE(finding);
    EXPECT_EQ(finding->pulse.rank, 1);
    EXPECT_NEAR(machine.now() - begin, elsewhere ? 5 : 2, 0.3);
  }
}

TEST(Hang, ShortStepsDoNotMakeItNervous) {
  Machine machine(2);
  machine[0].slowest_step = machine[1].slowest_step = 0.01;
  ASSERT_FALSE(machine.run(1));
  machine.stop_process(1);
  EXPECT_FALSE(machine.run(1.8));
  EXPECT_TRUE(machine.run(1));
}

TEST(Hang, ARankThatWaitsForNobodyIsToBlame) {
  Machine machine(3);
  ASSERT_FALSE(machine.run(5));
  for (std::size_t i = 0; i < 3; ++i) machine.stop_work(i);
  machine[0].call = machine[2].call = "all_reduce";
  const auto finding = machine.run(1000);
  ASSERT_TRUE(finding);
  EXPECT_EQ(finding->kind, kWork);
  EXPECT_EQ(finding->pulse.rank, 1);
  EXPECT_LE(finding->seconds, 61);
}

TEST(Hang, WhenAllWaitTheOtherMachineSpeaksFirst) {
  Machine machine(2);
  ASSERT_FALSE(machine.run(5));
  for (std::size_t i = 0; i < 2; ++i) {
    machine.stop_work(i);
    machine[i].call = "all_reduce";
  }
  EXPECT_FALSE(machine.run(89));
  EXPECT_TRUE(machine.run(3));
}

TEST(Hang, SavesAndEvaluationsHaveTheirOwnLimits) {
  for (const Phase phase : {Phase::save, Phase::evaluate}) {
    Machine machine(1);
    ASSERT_FALSE(machine.run(5));
    machine[0].phase = phase;
    machine.stop_work(0);
    EXPECT_FALSE(machine.run(1000)) << "nothing is known of its length";
    machine[0].slowest[static_cast<std::size_t>(phase)] = 300;
    EXPECT_FALSE(machine.run(150));
    EXPECT_TRUE(machine.run(100)) << "four times the slowest, since it began";
  }
}

TEST(Hang, BeforeTheFirstStepItIsPatient) {
  Patience patience;
  patience.unknown_work = std::numeric_limits<double>::infinity();
  Machine machine(1, patience);
  machine[0].slowest_step = 0;
  machine.stop_work(0);
  EXPECT_FALSE(machine.run(100000));
  machine.stop_process(0);
  EXPECT_FALSE(machine.run(29));
  EXPECT_TRUE(machine.run(3));
}

// As one sees them who comes late: a launcher ends all for the first.
TEST(Hang, OfSeveralDeadTheFirstIsNamed) {
  Machine machine(4);
  ASSERT_FALSE(machine.run(1));
  for (const std::size_t rank : {0u, 2u, 3u}) machine[rank].alive = false;
  machine[0].last_tick = 51;
  machine[2].last_tick = 50;
  machine[3].last_tick = 50.1;  // within the time between two ticks
  EXPECT_EQ(machine.run(1)->pulse.rank, 2);
  machine[2].last_tick = machine[3].last_tick = 50.9;  // nobody knows
  EXPECT_EQ(machine.run(1)->pulse.rank, 0);
  machine[2].last_tick = 0;  // it had none
  EXPECT_EQ(machine.run(1)->pulse.rank, 0);
}

// Stopped between its heartbeat's beginning and its watchdog's first tick.
TEST(Hang, AProcessThatNeverTickedIsFoundToo) {
  Machine machine(2);
  for (std::size_t i = 0; i < 2; ++i) machine[i].slowest_step = 0;
  machine[1].ticks = 0;
  machine.stop_process(1);
  EXPECT_FALSE(machine.run(29));
  const auto finding = machine.run(3);
  ASSERT_TRUE(finding);
  EXPECT_EQ(finding->kind, kProcess);
  EXPECT_EQ(finding->pulse.rank, 1);
}

TEST(Hang, TheDeadAreNamedAtOnceButNotThoseWhoEnded) {
  Machine machine(3);
  ASSERT_FALSE(machine.run(1));
  machine[0].ended = true;
  machine[0].alive = false;
  EXPECT_FALSE(machine.run(100));
  machine[2].alive = false;
  const auto finding = machine.run(0.15);
  ASSERT_TRUE(finding);
  EXPECT_EQ(finding->kind, Finding::Kind::died);
  EXPECT_EQ(finding->pulse.rank, 2);
}

TEST(Hang, WhoIsDeadWhenFirstSeenDied) {
  Machine machine(1);
  machine[0].alive = false;
  const auto finding = machine.run(0.15);
  ASSERT_TRUE(finding);
  EXPECT_EQ(finding->kind, Finding::Kind::died);
}

// Ctrl-Z, a suspended laptop, a virtual machine that is moved: the watcher stood still as well.
TEST(Hang, TimeInWhichNobodyLookedDoesNotCount) {
  Machine machine(1);
  ASSERT_FALSE(machine.run(1));
  machine.stop_process(0);
  EXPECT_FALSE(machine.run(300, 100));
}

TEST(Hang, MayBeSwitchedOff) {
  Patience patience;
  patience.factor = 0;
  Machine machine(1, patience);
  ASSERT_FALSE(machine.run(1));
  machine.stop_process(0);
  EXPECT_FALSE(machine.run(10000));
  machine[0].alive = false;
  EXPECT_TRUE(machine.run(1)) << "the dead are still found";
}

TEST(Hang, SignalsAreToldInWords) {
  EXPECT_EQ(describe_signal(9, "forward of step 41"),
            "was killed by signal 9 (Killed) in forward of step 41, for want of memory perhaps");
  EXPECT_EQ(describe_signal(11), "was killed by signal 11 (Segmentation fault)");
}

}  // namespace
}  // namespace demist
