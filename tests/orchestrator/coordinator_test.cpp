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

// "s0" step 0, "v2" save after 2 steps, "e0" evaluate, "done", "stop2", "bad3".
struct Word {
  std::string operator()(const StepPlan& plan) const { return numbered("s", plan.step); }
  std::string operator()(const Save& save) const { return numbered("v", save.step); }
  std::string operator()(const Evaluate& evaluate) const { return numbered("e", evaluate.step); }
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

RankReport report(std::int64_t step) {
  RankReport r;
  r.step.step = step;
  return r;
}

TEST(Coordinator, PlansStepsAndSavesAtTheEnd) {
  Coordinator coordinator(config(0, 3));
  EXPECT_EQ(all(coordinator), "s0 s1 s2 v3 done ");
}

TEST(Coordinator, SavesAndEvaluatesOnSchedule) {
  CoordinatorConfig c = config(0, 6);
  c.save_every = 2;
  c.evaluate = true;
  c.evaluate_every = 3;
  Coordinator coordinator(c);
  EXPECT_EQ(all(coordinator), "e0 s0 s1 v2 s2 e3 s3 v4 s4 s5 e6 v6 done ");
}

TEST(Coordinator, ResumesWithoutMeasuringTheStart) {
  CoordinatorConfig c = config(4, 6);
  c.evaluate = true;
  Coordinator coordinator(c);
  EXPECT_EQ(all(coordinator), "s4 s5 e6 v6 done ");
}

TEST(Coordinator, FinishedStageNeedsNoSave) {
  CoordinatorConfig c = config(6, 6);
  c.evaluate = true;
  Coordinator coordinator(c);
  EXPECT_EQ(all(coordinator), "e6 done ");
}

TEST(Coordinator, StopRequestOfAnyRankSavesFirst) {
  Coordinator coordinator(config(0, 100));
  EXPECT_EQ(word(coordinator.next()), "s0");
  EXPECT_EQ(word(coordinator.next()), "s1");
  std::vector<RankReport> reports{report(0), report(0)};
  reports[1].stop_requested = true;
  coordinator.receive(reports);
  EXPECT_EQ(all(coordinator), "v2 stop2 ");
}

TEST(Coordinator, StopRequestRightAfterASaveDoesNotSaveAgain) {
  CoordinatorConfig c = config(0, 100);
  c.save_every = 1;
  Coordinator coordinator(c);
  EXPECT_EQ(word(coordinator.next()), "s0");
  RankReport asked = report(0);
  asked.stop_requested = true;
  coordinator.receive({&asked, 1});
  EXPECT_EQ(all(coordinator), "v1 stop1 ");
}

TEST(Coordinator, NonFiniteStepStopsWithoutSaving) {
  CoordinatorConfig c = config(0, 100);
  c.save_every = 1;
  Coordinator coordinator(c);
  coordinator.next();
  RankReport bad = report(0);
  bad.step.finite = false;
  coordinator.receive({&bad, 1});
  EXPECT_EQ(all(coordinator), "bad0 ");
  EXPECT_THROW(coordinator.next(), InternalError);
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

}  // namespace
}  // namespace demist
