// A rank that computes wrong without a word is found, named, and leaves no trace.
// SPDX-License-Identifier: Apache-2.0
#include "worker/self_check.hpp"

#include <gtest/gtest.h>

#include <bit>

#include "tests/support/mpi_main.hpp"
#include "tests/support/random_source.hpp"
#include "tests/support/shared_folder.hpp"
#include "tests/support/tiny_trainer.hpp"

namespace demist {
namespace {

constexpr std::int32_t kMicroBatches = 5;  // groups get unequal shares
constexpr std::int64_t kSteps = 6, kFaulty = 3;

void flip_a_bit(std::span<float> gradient) {
  gradient[17] = std::bit_cast<float>(std::bit_cast<std::uint32_t>(gradient[17]) ^ 1u << 20);
}

struct Training {
  std::vector<StepReport> reports;
  std::string hash;
};

// Steps are checked from 1 on, every other one.
Training train(int tensor, bool check, const Trainer::Fault& fault = {}) {
  TrainerConfig config = test::tiny_trainer();
  config.tensor_parallel = tensor;
  const auto source = std::make_shared<test::RandomSource>(test::kTinyVocab, kMicroBatches, false);
  // Smaller gradients need other fixed-point scales: a repetition must start from the same ones.
  source->amplify(kFaulty, 1e-4f);
  Trainer trainer(test::world(), config, source, make_cpu_device());
  trainer.initialize();
  if (fault) trainer.inject(fault);
  Training run;
  const int groups = test::world().size() / tensor;
  for (std::int64_t s = 0; s < kSteps; ++s) {
    StepPlan plan{s, {}, check && s % 2 == 1};
    for (std::int32_t i = 0; i < kMicroBatches; ++i)
      plan.owner.push_back(i * groups / kMicroBatches);
    trainer.announce(plan);
    run.reports.push_back(trainer.run_step());
  }
  const test::SharedFolder root;
  trainer.save(root.path(), 1);
  run.hash = checkpoint::open_any(root.path()).hash();
  return run;
}

std::vector<int> tensor_sizes() {
  std::vector<int> sizes;
  for (const int size : {1, 2})
    if (test::world().size() % size == 0) sizes.push_back(size);
  return sizes;
}

// A rank that has micro-batches in turn 0, not the first one, and with `tensor` not the first of
// its group.
int faulty_rank() { return test::world().size() - 1; }

bool names_group_of(int rank, int tensor, const std::vector<int>& ranks) {
  std::vector<int> group;
  for (int t = 0; t < tensor; ++t) group.push_back(rank / tensor * tensor + t);
  return ranks == group;
}

TEST(SelfCheckedTraining, ASoundRunIsItselfBitForBit) {
  for (const int tensor : tensor_sizes()) {
    const Training plain = train(tensor, false), checked = train(tensor, true);
    EXPECT_EQ(checked.hash, plain.hash) << tensor;
    for (std::size_t s = 0; s < plain.reports.size(); ++s) {
      EXPECT_FALSE(checked.reports[s].corruption) << s;
      EXPECT_EQ(checked.reports[s].loss, plain.reports[s].loss) << s;
      EXPECT_EQ(checked.reports[s].grad_norm, plain.reports[s].grad_norm) << s;
    }
  }
}

// `passes` computations of the faulty step are right on the rank before its bit flips, once.
void expect_no_trace(int tensor, int passes) {
  const Training sound = train(tensor, false);
  int left = passes;
  const bool faulty = test::world().rank() == faulty_rank();
  const Training run = train(tensor, true, [&](std::int64_t step, std::span<float> gradient) {
    if (faulty && step == kFaulty && left-- == 0) flip_a_bit(gradient);
  });
  EXPECT_EQ(run.hash, sound.hash) << tensor;
  for (std::size_t s = 0; s < run.reports.size(); ++s) {
    const StepReport& report = run.reports[s];
    EXPECT_TRUE(report.applied()) << s;
    EXPECT_EQ(report.loss, sound.reports[s].loss) << s;
    ASSERT_EQ(report.corruption.has_value(), s == kFaulty) << s;
    if (!report.corruption) continue;
    EXPECT_TRUE(report.corruption->passing);
    EXPECT_TRUE(names_group_of(faulty_rank(), tensor, report.corruption->ranks))
        << report.corruption->where;
    EXPECT_EQ(report.corruption->where.find("the gradient of micro-batch "), 0u)
        << report.corruption->where;
  }
}

TEST(SelfCheckedTraining, AFlippedBitOfOneRankIsFoundAndLeavesNoTrace) {
  for (const int tensor : tensor_sizes()) expect_no_trace(tensor, 0);
}

// The check itself may be what is wrong.
TEST(SelfCheckedTraining, SoIsABitThatFlipsInTheSecondComputation) {
  const int groups = test::world().size();
  // The last group's share of turn 0; the flip then comes with its first micro-batch of turn 1.
  int share = 0;
  for (int i = 0; i < kMicroBatches; ++i) share += i * groups / kMicroBatches == groups - 1 ? 1 : 0;
  expect_no_trace(1, share);
}

TEST(SelfCheckedTraining, AFlippedBitIsNotFoundWithoutACheck) {
  const bool faulty = test::world().rank() == faulty_rank();
  const Training run = train(1, false, [&](std::int64_t step, std::span<float> gradient) {
    if (faulty && step == kFaulty) flip_a_bit(gradient);
  });
  for (const StepReport& report : run.reports) EXPECT_FALSE(report.corruption);
  EXPECT_NE(run.hash, train(1, false).hash);
}

// One that is always wrong cannot be outvoted by itself: one group notices nothing, of two either
// may be at fault, of more it is known. The step is not applied.
TEST(SelfCheckedTraining, ARankThatStaysWrongIsNamedAndItsStepRefused) {
  for (const int tensor : tensor_sizes()) {
    const int groups = test::world().size() / tensor;
    if (groups == 1) continue;
    const bool faulty = test::world().rank() == faulty_rank();
    const Training run = train(tensor, true, [&](std::int64_t step, std::span<float> gradient) {
      if (faulty && step == kFaulty) flip_a_bit(gradient);
    });
    const StepReport& report = run.reports[kFaulty];
    EXPECT_EQ(report.verdict, StepVerdict::corrupt);
    ASSERT_TRUE(report.corruption);
    EXPECT_FALSE(report.corruption->passing);
    if (groups > 2)
      EXPECT_TRUE(names_group_of(faulty_rank(), tensor, report.corruption->ranks));
    else
      EXPECT_EQ(report.corruption->ranks.size(), static_cast<std::size_t>(test::world().size()));
  }
}

}  // namespace
}  // namespace demist

int main(int argc, char** argv) { return demist::test::run_mpi_tests(argc, argv); }
