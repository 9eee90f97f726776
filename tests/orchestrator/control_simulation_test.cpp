// SPDX-License-Identifier: Apache-2.0
#include "tests/orchestrator/control_simulation.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cstdio>
#include <set>

namespace demist {
namespace {

using test::SimulatedResult;
using test::SimulatedRun;

// A stage with everything in it: held-out losses, saves, a slow rank, a rollback, a stop request.
SimulatedRun stage(int ranks, int most_children) {
  SimulatedRun run;
  run.ranks = ranks;
  run.most_children = most_children;
  run.config.total_steps = 100;
  // Tensor-parallel groups of up to eight ranks, four micro-batches each.
  for (int of = 1; of <= 8 && of < ranks; ++of)
    if (ranks % of == 0) run.config.ranks_per_group = of;
  run.config.data_groups = ranks / run.config.ranks_per_group;
  run.config.micro_batches = 4 * run.config.data_groups;
  run.config.balance = true;
  run.config.evaluate = true;
  run.config.evaluate_every = 9;
  run.config.save_every = 5;
  run.config.rollbacks = 1;
  run.slow_rank = std::min(1, ranks - 1);  // with others below it
  run.slow_from = 7;
  run.slow_to = 100;
  run.exhausted_step = 18;
  run.stopping_rank = ranks - 1;
  run.stop_step = 24;
  return run;
}

struct Load {  // of rank 0, in a step: typically, and at most
  int bytes, most_bytes, most_letters;
  double most_cpu, behind;
};
Load load_of(const SimulatedResult& result) {
  std::vector<double> bytes, behind;
  Load load{};
  for (const SimulatedResult::Step& step : result.steps) {
    bytes.push_back(step.bytes);
    behind.push_back(step.behind);
    load.most_bytes = std::max(load.most_bytes, step.bytes);
    load.most_letters = std::max(load.most_letters, step.letters);
    load.most_cpu = std::max(load.most_cpu, step.cpu);
  }
  load.bytes = static_cast<int>(median(bytes));
  load.behind = median(behind);
  return load;
}

// Of all plans.
std::set<std::vector<std::int32_t>> owners(const SimulatedResult& result) {
  std::set<std::vector<std::int32_t>> owners;
  for (const std::string& bytes : result.decisions) {
    const ControlMessage message = decode_message(bytes);
    if (const auto* plan = std::get_if<StepPlan>(&message)) owners.insert(plan->owner);
  }
  return owners;
}

TEST(ControlSimulation, CostsALogarithmOfTheRanksAndDecidesTheSame) {
  std::printf(
      "| ranks | letters in a row | letters | bytes | most bytes | CPU us | flat: letters | bytes "
      "| CPU "
      "us |\n");
  for (const int ranks :
       {1, 2, 3, 4, 8, 16, 32, 64, 100, 128, 256, 512, 1000, 1024, 2048, 4095, 4096}) {
    const SimulatedResult tree = test::Simulation(stage(ranks, ControlTree::kChildren)).run();
    const SimulatedResult flat = test::Simulation(stage(ranks, std::max(1, ranks - 1))).run();
    const Load t = load_of(tree), f = load_of(flat);
    std::printf("| %d | %d | %d | %d | %d | %.0f | %d | %d | %.0f |\n", ranks, tree.path,
                t.most_letters, t.bytes, t.most_bytes, t.most_cpu * 1e6, f.most_letters, f.bytes,
                f.most_cpu * 1e6);
    EXPECT_EQ(tree.decisions, flat.decisions) << ranks;
    EXPECT_GT(tree.decisions.size(), 30u);
    EXPECT_EQ(owners(tree).size() > 1, ranks > 1);  // the slow rank was noticed
    const int levels =
        std::max(1, static_cast<int>(std::bit_width(static_cast<unsigned>(ranks - 1))));
    EXPECT_LE(tree.path, levels);
    EXPECT_LE(t.bytes, 20 * levels) << ranks;
    EXPECT_LE(t.most_letters, 5 * ControlTree::kChildren) << ranks;
    EXPECT_EQ(tree.waited, 0) << ranks;
    EXPECT_LE(t.behind, 0.05) << ranks;  // of a step that is no shorter
  }
}

// Rank 1, with others below it, is so slow that it has no micro-batch in most steps. Then it passes
// letters on between steps only.
TEST(ControlSimulation, ARankThatRestsHoldsNobodyUp) {
  SimulatedRun run = stage(73, ControlTree::kChildren);
  run.times = 10;
  const SimulatedResult tree = test::Simulation(run).run();
  run.most_children = run.ranks - 1;
  const SimulatedResult flat = test::Simulation(run).run();
  EXPECT_EQ(tree.decisions, flat.decisions);
  std::printf("waited %.0f us in %zu steps\n", tree.waited * 1e6, tree.steps.size());
  EXPECT_LE(tree.waited, 1e-3);  // of some ten steps of 0.25 s
  bool rested = false;
  for (const std::vector<std::int32_t>& owner : owners(tree))
    rested = rested || std::ranges::count(owner, 1) == 0;
  EXPECT_TRUE(rested);
}

}  // namespace
}  // namespace demist
