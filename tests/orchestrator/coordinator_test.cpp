// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/coordinator.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/error.hpp"

namespace demist {
namespace {

std::string numbered(std::string letters, std::int64_t number) {
  return letters.append(std::to_string(number));  // not "+": GCC 12 warns wrongly (bug 105651)
}

// "s0" step 0, "v2" save after 2 steps, "e0" evaluate, "back2+5" to step 2 leaving out 5 steps'
// data, "." settle, "done", "stop2", "bad3".
struct Word {
  std::string operator()(const StepPlan& plan) const { return numbered("s", plan.step); }
  std::string operator()(const Save& save) const { return numbered("v", save.step); }
  std::string operator()(const Evaluate& evaluate) const { return numbered("e", evaluate.step); }
  std::string operator()(const Rollback& back) const {
    return numbered("back", back.step) + numbered("+", back.data_steps);
  }
  std::string operator()(const Settle&) const { return "."; }
  std::string operator()(const Stop& stop) const {
    if (stop.reason == Stop::Reason::done) return "done";
    return numbered(stop.reason == Stop::Reason::interrupted ? "stop" : "bad", stop.step);
  }
};
std::string word(const ControlMessage& message) { return std::visit(Word(), message); }

std::string all(Coordinator& coordinator) {
  std::string words;
  while (!coordinator.stopped()) words += word(coordinator.next()) + " ";
  return words;
}

CoordinatorConfig config(std::int64_t first, std::int64_t total) {
  CoordinatorConfig c;
  c.first_step = first;
  c.total_steps = total;
  c.micro_batches = 4;
  c.data_groups = 2;
  return c;
}

Report report(std::int64_t step) {
  Report r;
  r.step = step;
  return r;
}

TEST(Coordinator, PlansStepsAndSavesAtTheEnd) {
  Coordinator coordinator(config(0, 3));
  EXPECT_EQ(all(coordinator), "s0 s1 s2 v3 . done ");
}

TEST(Coordinator, SavesAndEvaluatesOnSchedule) {
  CoordinatorConfig c = config(0, 6);
  c.save_every = 2;
  c.evaluate = true;
  c.evaluate_every = 3;
  Coordinator coordinator(c);
  EXPECT_EQ(all(coordinator), "e0 s0 s1 v2 s2 e3 s3 v4 s4 s5 e6 v6 . done ");
}

TEST(Coordinator, ChecksEverySoManyStepsWhereverItBegan) {
  for (const std::int64_t first : {0, 4}) {
    CoordinatorConfig c = config(first, 9);
    c.check_every = 3;
    Coordinator coordinator(c);
    for (std::int64_t step = first; step < 9; ++step) {
      const ControlMessage message = coordinator.next();
      EXPECT_EQ(std::get<StepPlan>(message).check, step % 3 == 2) << step;
    }
  }
  Coordinator never(config(0, 2));
  EXPECT_FALSE(std::get<StepPlan>(never.next()).check);
}

TEST(Coordinator, ResumesWithoutMeasuringTheStart) {
  CoordinatorConfig c = config(4, 6);
  c.evaluate = true;
  Coordinator coordinator(c);
  EXPECT_EQ(all(coordinator), "s4 s5 e6 v6 . done ");
}

TEST(Coordinator, FinishedStageNeedsNoSave) {
  CoordinatorConfig c = config(6, 6);
  c.evaluate = true;
  Coordinator coordinator(c);
  EXPECT_EQ(all(coordinator), "e6 . done ");
}

TEST(Coordinator, StopRequestOfAnyRankSavesFirst) {
  Coordinator coordinator(config(0, 100));
  EXPECT_EQ(word(coordinator.next()), "s0");
  EXPECT_EQ(word(coordinator.next()), "s1");
  Report all_ranks = report(0), asked = report(0);
  asked.stop_requested = true;
  merge(all_ranks, asked);
  coordinator.receive(all_ranks);
  EXPECT_EQ(all(coordinator), "v2 . stop2 ");
}

TEST(Coordinator, StopRequestRightAfterASaveDoesNotSaveAgain) {
  CoordinatorConfig c = config(0, 100);
  c.save_every = 1;
  Coordinator coordinator(c);
  EXPECT_EQ(word(coordinator.next()), "s0");
  Report asked = report(0);
  asked.stop_requested = true;
  coordinator.receive(asked);
  EXPECT_EQ(all(coordinator), "v1 . stop1 ");
}

Report exhausted(std::int64_t step, std::int32_t rollbacks = 0) {
  Report r = report(step);
  r.exhausted = true;
  r.rollbacks = rollbacks;
  return r;
}

// Plans up to and with step `last`, whose report says that it was one bad step too many.
std::string after_exhaustion(CoordinatorConfig c, std::int64_t last, std::int32_t rollbacks = 0) {
  Coordinator coordinator(c);
  while (word(coordinator.next()) != numbered("s", last)) {
  }
  coordinator.receive(exhausted(last, rollbacks));
  std::string words = word(coordinator.next());
  if (coordinator.stopped()) return words;
  words += " ";
  words += word(coordinator.next());
  return words;
}

TEST(Coordinator, ExhaustionWithoutAWayBackStopsWithoutSaving) {
  CoordinatorConfig c = config(0, 100);
  EXPECT_EQ(after_exhaustion(c, 20), "bad20");
  c.rollbacks = 2;
  EXPECT_EQ(after_exhaustion(c, 20), "bad20");  // nothing is saved on the way
  c.save_every = 10;
  EXPECT_EQ(after_exhaustion(c, 20, 2), "bad20");  // twice is enough
  EXPECT_EQ(after_exhaustion(c, 9), "bad9");
  Coordinator coordinator(c);
  coordinator.receive(exhausted(0));
  EXPECT_EQ(word(coordinator.next()), "bad0");
  EXPECT_THROW(coordinator.next(), InternalError);
}

TEST(Coordinator, GoesBackBeforeTheStepBeforeTheFirstBadOne) {
  CoordinatorConfig c = config(0, 100);
  c.rollbacks = 2;
  c.save_every = 10;
  EXPECT_EQ(after_exhaustion(c, 11), "back10+2 s10");
  EXPECT_EQ(after_exhaustion(c, 20), "back10+11 s10");
  c.bad_in_a_row = 3;
  EXPECT_EQ(after_exhaustion(c, 24), "back20+5 s20");
  EXPECT_EQ(after_exhaustion(c, 22), "back10+13 s10");  // step 20 is the first bad one
  EXPECT_EQ(after_exhaustion(c, 24, 1), "back20+5 s20");
}

TEST(Coordinator, GoesBackToTheSameStepWhereverItWasResumed) {
  CoordinatorConfig c = config(27, 100);  // saved there because somebody stopped it
  c.rollbacks = 2;
  c.save_every = 10;
  EXPECT_EQ(after_exhaustion(c, 29), "back20+10 s20");
}

TEST(Coordinator, AfterGoingBackItSavesAsBefore) {
  CoordinatorConfig c = config(0, 6);
  c.rollbacks = 1;
  c.save_every = 2;
  Coordinator coordinator(c);
  while (word(coordinator.next()) != "s3") {
  }
  coordinator.receive(exhausted(3));
  EXPECT_EQ(all(coordinator), "back2+2 s2 s3 v4 s4 s5 v6 . done ");
}

TEST(Coordinator, TheLastStepMayBeBadToo) {
  CoordinatorConfig c = config(0, 6);
  c.rollbacks = 1;
  c.save_every = 4;
  Coordinator coordinator(c);
  while (word(coordinator.next()) != "v6") {  // two messages are under way when step 5 is reported
  }
  EXPECT_EQ(word(coordinator.next()), ".");
  coordinator.receive(exhausted(5));
  EXPECT_EQ(all(coordinator), "back4+2 s4 s5 v6 . done ");
}

TEST(Coordinator, OwnersAreContiguousAndBalanced) {
  for (std::int32_t batches = 1; batches <= 9; ++batches)
    for (int groups = 1; groups <= 5; ++groups) {
      const auto owner = balanced_owners(batches, groups);
      ASSERT_EQ(owner.size(), static_cast<std::size_t>(batches));
      std::vector<int> load(static_cast<std::size_t>(groups));
      for (std::size_t i = 0; i < owner.size(); ++i) {
        ASSERT_TRUE(i == 0 || owner[i] >= owner[i - 1]);
        ++load.at(static_cast<std::size_t>(owner[i]));
      }
      const auto [least, most] = std::minmax_element(load.begin(), load.end());
      EXPECT_LE(*most - *least, 1) << batches << " over " << groups;
    }
}

// Plans steps and hears after each of them, until it shares micro-batches out anew.
std::optional<Rebalance> rebalance_after(CoordinatorConfig c, const std::vector<float>& seconds) {
  Coordinator coordinator(c);
  Report all_ranks = report(0);
  for (std::size_t rank = 0; rank < seconds.size(); ++rank)
    all_ranks.speeds.push_back({static_cast<int>(rank), seconds[rank]});
  coordinator.next();
  coordinator.receive(all_ranks);
  const ControlMessage message = coordinator.next();
  const auto rebalance = coordinator.take_rebalance();
  EXPECT_FALSE(coordinator.take_rebalance());
  if (rebalance)
    EXPECT_EQ(std::get<StepPlan>(message).owner, owners_of(rebalance->shares));
  else
    EXPECT_EQ(std::get<StepPlan>(message).owner, balanced_owners(c.micro_batches, c.data_groups));
  return rebalance;
}

TEST(Coordinator, SharesMicroBatchesOutBySpeed) {
  CoordinatorConfig c = config(0, 100);
  c.micro_batches = 8;
  EXPECT_FALSE(rebalance_after(c, {1, 3}));  // FAST: results depend on who computes what
  c.balance = true;
  const auto rebalance = rebalance_after(c, {1, 3});
  ASSERT_TRUE(rebalance);
  EXPECT_EQ(rebalance->step, 1);
  EXPECT_EQ(rebalance->shares, (std::vector<std::int32_t>{6, 2}));
  EXPECT_EQ(rebalance->seconds, (std::vector<double>{1, 3}));
  EXPECT_FALSE(rebalance_after(c, {1, 1.05f}));
  EXPECT_FALSE(rebalance_after(c, {}));
  c.ranks_per_group = 2;
  EXPECT_TRUE(rebalance_after(c, {1, 1, 1, 3}));
  EXPECT_FALSE(rebalance_after(c, {3, 1, 1, 3}));  // both groups have a slow rank
}

TEST(Coordinator, SharesOutlastARollback) {
  CoordinatorConfig c = config(0, 100);
  c.micro_batches = 8;
  c.balance = true;
  c.rollbacks = 1;
  c.save_every = 2;
  Coordinator coordinator(c);
  Report slow = report(0);
  slow.speeds = {{0, 1}, {1, 3}};
  coordinator.receive(slow);
  while (word(coordinator.next()) != "s3") {
  }
  coordinator.receive(exhausted(3));
  EXPECT_EQ(word(coordinator.next()), "back2+2");
  const ControlMessage message = coordinator.next();
  EXPECT_EQ(word(message), "s2");
  EXPECT_EQ(std::get<StepPlan>(message).owner, (std::vector<std::int32_t>{0, 0, 0, 0, 0, 0, 1, 1}));
}

TEST(Coordinator, ReportsMergeInAnyOrder) {
  Report a = report(4), b = report(4), c = report(4);
  a.speeds = {{0, 1}};
  b.stop_requested = true;
  b.control_seconds = 0.5f;
  c.exhausted = true;
  c.rollbacks = 2;
  c.speeds = {{2, 3}};
  for (const auto& [first, second] : {std::pair{b, c}, std::pair{c, b}}) {
    Report all = a;
    merge(all, first);
    merge(all, second);
    EXPECT_TRUE(all.stop_requested && all.exhausted);
    EXPECT_EQ(all.rollbacks, 2);
    EXPECT_EQ(all.control_seconds, 0.5f);
    EXPECT_EQ(all.speeds.size(), 2u);
  }
  EXPECT_THROW(merge(a, report(5)), InternalError);
}

}  // namespace
}  // namespace demist
