// The promise of `reduction: EXACT`: parameters and moments after many steps have one hash,
// whatever the number of data-parallel groups, threads, and restarts.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "core/file.hpp"
#include "core/parallel_for.hpp"
#include "tests/support/mpi_main.hpp"
#include "tests/support/random_source.hpp"
#include "tests/support/shared_folder.hpp"
#include "tests/support/tiny_trainer.hpp"

namespace demist {
namespace {

constexpr std::int32_t kMicroBatches = 5;  // not a multiple of 2, 3 or 4: groups get unequal shares
constexpr std::int64_t kSteps = 50;

struct Case {
  DType compute;
  bool rdm;
};

TrainerConfig tiny(const Case& c) {
  TrainerConfig config = test::tiny_trainer();
  config.model.layers = 2;
  config.model.norm = c.rdm ? NormPlacement::pre : NormPlacement::post;
  config.optimizer.schedule = {ScheduleKind::linear, 3e-3, 0, 5, kSteps};
  config.compute = c.compute;
  return config;
}

// Contiguous shares, or dealt round robin with `deal`.
StepPlan plan_for(std::int64_t step, int groups, bool deal) {
  StepPlan plan;
  plan.step = step;
  for (std::int32_t i = 0; i < kMicroBatches; ++i)
    plan.owner.push_back(deal ? i % groups : i * groups / kMicroBatches);
  return plan;
}

class TinyRun {
 public:
  TinyRun(const mpi::Comm& comm, const Case& c)
      : comm_(comm),
        trainer_(comm, tiny(c),
                 std::make_shared<test::RandomSource>(test::kTinyVocab, kMicroBatches, c.rdm),
                 make_cpu_device()) {
    trainer_.initialize();
  }
  Trainer& trainer() { return trainer_; }

  // Steps [trainer.step(), until); returns the last loss as a fraction of the first.
  double advance(std::int64_t until, bool deal) {
    double first = 0, last = 0;
    for (std::int64_t s = trainer_.step(); s < until; ++s) {
      trainer_.announce(plan_for(s, comm_.size(), deal));
      last = trainer_.run_step().loss;
      if (first == 0) first = last;
    }
    return last / first;
  }
  std::string hash(const fs::path& root) {
    trainer_.save(root, 1);
    return checkpoint::open_any(root).hash();
  }

 private:
  mpi::Comm comm_;
  Trainer trainer_;
};

class Exact : public testing::TestWithParam<Case> {};

TEST_P(Exact, OneHashForAnyNumberOfGroupsAndThreads) {
  const mpi::Comm& world = test::world();
  std::string reference;
  for (int groups = 1; groups <= world.size(); ++groups) {
    const test::SharedFolder root;
    const mpi::Comm comm = world.split(world.rank() < groups ? 0 : 1, world.rank());
    if (world.rank() < groups) {
      use_threads(groups == 1 ? 2 : 1, 0, 4);
      TinyRun run(comm, GetParam());
      const double ratio = run.advance(kSteps, groups % 2 == 0);
      EXPECT_LT(ratio, 0.9) << "the model did not learn";
      const std::string hash = run.hash(root.path());
      if (reference.empty()) reference = hash;
      EXPECT_EQ(hash, reference) << groups << " groups";
    }
    world.barrier();
    reference = world.broadcast(reference, 0);
  }
}

TEST_P(Exact, ThreadsDoNotMatter) {
  if (test::world().size() > 1) GTEST_SKIP() << "nothing that one rank does not show";
  const mpi::Comm self = test::self();
  std::vector<std::string> hashes;
  for (const int threads : {1, 2, 3}) {
    use_threads(threads, 0, 4);
    TinyRun run(self, GetParam());
    run.advance(20, false);
    hashes.push_back(run.hash(test::TemporaryFolder().path()));
  }
  EXPECT_EQ(hashes[0], hashes[1]);
  EXPECT_EQ(hashes[0], hashes[2]);
}

// At these sizes oneDNN chooses other kernels than for the tiny model, and could split reductions.
TEST(ExactWide, ThreadsDoNotMatterForAWideModel) {
  if (test::world().size() > 1) GTEST_SKIP() << "nothing that one rank does not show";
  for (const DType compute : {DType::f32, DType::bf16}) {
    TrainerConfig config = tiny({compute, false});
    config.model.hidden = 384;
    config.model.ffn = 1536;
    config.model.heads = 6;
    config.model.vocab = 8002;
    config.model.positions = 130;
    const auto source = std::make_shared<test::RandomSource>(8002, 1, true, 16, 128);
    std::vector<std::string> hashes;
    for (const int threads : {1, 2, 3}) {
      use_threads(threads, 0, 4);
      Trainer trainer(test::self(), config, source, make_cpu_device());
      trainer.initialize();
      for (std::int64_t s = 0; s < 2; ++s) {
        trainer.announce({s, {0}});
        trainer.run_step();
      }
      const test::TemporaryFolder folder;
      trainer.save(folder.path(), 1);
      hashes.push_back(checkpoint::open_any(folder.path()).hash());
    }
    EXPECT_EQ(hashes[0], hashes[1]) << name_of(compute);
    EXPECT_EQ(hashes[0], hashes[2]) << name_of(compute);
  }
}

TEST_P(Exact, ResumeOnAnotherNumberOfRanksGivesTheSameBits) {
  const mpi::Comm& world = test::world();
  use_threads(1, world.rank(), world.size());
  const test::SharedFolder straight_root, broken_root;
  std::string straight;
  {
    TinyRun run(world, GetParam());
    run.advance(30, false);
    straight = run.hash(straight_root.path());
  }
  {
    TinyRun run(world, GetParam());
    run.advance(13, true);
    run.trainer().save(broken_root.path(), 2);
  }
  const int fewer = (world.size() + 1) / 2;
  const mpi::Comm comm = world.split(world.rank() < fewer ? 0 : 1, world.rank());
  if (world.rank() < fewer) {
    TinyRun run(comm, GetParam());
    run.trainer().resume(checkpoint::open_any(broken_root.path()));
    EXPECT_EQ(run.trainer().step(), 13);
    run.advance(30, false);
    EXPECT_EQ(run.hash(broken_root.path()), straight);
  }
  world.barrier();
}

INSTANTIATE_TEST_SUITE_P(Cases, Exact,
                         testing::Values(Case{DType::f32, false}, Case{DType::f32, true},
                                         Case{DType::bf16, false}, Case{DType::bf16, true}),
                         [](const auto& c) {
                           return std::string(name_of(c.param.compute)) +
                                  (c.param.rdm ? "_rdm_pre" : "_mlm_post");
                         });

}  // namespace
}  // namespace demist

int main(int argc, char** argv) { return demist::test::run_mpi_tests(argc, argv); }
