// The training step's own promises: scales that grow, steps that are refused, resumes that are not
// what they claim.
// SPDX-License-Identifier: Apache-2.0
#include "worker/trainer.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <thread>

#include "core/file.hpp"
#include "tests/support/mpi_main.hpp"
#include "tests/support/random_source.hpp"
#include "tests/support/shared_folder.hpp"
#include "tests/support/tiny_trainer.hpp"

namespace demist {
namespace {

TrainerConfig tiny() { return test::tiny_trainer(); }

StepReport one_step(Trainer& trainer, int groups) {
  trainer.announce({trainer.step(), {0, 1 % groups}});
  return trainer.run_step();
}

std::string saved_hash(Trainer& trainer) {
  const test::SharedFolder root;
  trainer.save(root.path(), 1);
  return checkpoint::open_any(root.path()).hash();
}

TEST(Trainer, OverflowRedoesTheStepAndStaysExact) {
  const auto source = std::make_shared<test::RandomSource>(test::kTinyVocab, 2, false);
  source->amplify(3, 1e12f);
  const auto run = [&](const mpi::Comm& comm) {
    Trainer trainer(comm, tiny(), source, make_cpu_device());
    trainer.initialize();
    std::int32_t rescaled = 0;
    for (int s = 0; s < 6; ++s) {
      const StepReport report = one_step(trainer, comm.size());
      EXPECT_TRUE(report.applied());
      EXPECT_TRUE(s >= 3 || report.rescaled == 0);
      rescaled += report.rescaled;
    }
    EXPECT_EQ(rescaled, 1);  // only where the gradients jump
    return trainer.held_out_loss(*source, 2);
  };
  const double together = run(test::world());
  const double alone = run(test::self());
  EXPECT_EQ(together, alone);
}

TEST(Trainer, StepsThatStayNotFiniteAreCountedAndNotApplied) {
  const auto source = std::make_shared<test::RandomSource>(test::kTinyVocab, 2, false);
  source->amplify(2, std::numeric_limits<float>::infinity());
  for (const Reduction reduction : {Reduction::exact, Reduction::fast}) {
    TrainerConfig config = tiny();
    config.reduction = reduction;
    config.guard.bad_in_a_row = 2;
    Trainer trainer(test::world(), config, source, make_cpu_device());
    trainer.initialize();
    one_step(trainer, test::world().size());
    one_step(trainer, test::world().size());
    const double before = trainer.held_out_loss(*source, 1);
    for (const bool too_many : {false, true}) {
      const StepReport report = one_step(trainer, test::world().size());
      EXPECT_EQ(report.verdict, StepVerdict::not_finite);
      EXPECT_TRUE(report.recomputed);
      EXPECT_EQ(report.exhausted, too_many);
      EXPECT_EQ(trainer.held_out_loss(*source, 1), before);
    }
    EXPECT_EQ(trainer.step(), 4);
  }
}

// A NaN in one micro-batch's gradient of one rank, once: the step is computed again, and the bits
// are those of a run without the fault.
TEST(Trainer, APassingFaultOfOneRankLeavesNoTrace) {
  const auto source = std::make_shared<test::RandomSource>(test::kTinyVocab, 2, false);
  const auto run = [&](bool faulty) {
    Trainer trainer(test::world(), tiny(), source, make_cpu_device());
    trainer.initialize();
    if (faulty && test::world().rank() == std::min(1, test::world().size() - 1))
      trainer.inject([done = false](std::int64_t step, std::span<float> gradient) mutable {
        if (step != 3 || done) return;
        done = true;
        gradient[17] = std::numeric_limits<float>::quiet_NaN();
      });
    for (int s = 0; s < 6; ++s) {
      const StepReport report = one_step(trainer, test::world().size());
      EXPECT_TRUE(report.applied());
      EXPECT_EQ(report.recomputed, faulty && s == 3);
    }
    return saved_hash(trainer);
  };
  EXPECT_EQ(run(true), run(false));
}

// A resumed run skips what the run it goes on from would have skipped, and goes back to where that
// one would have gone.
TEST(Trainer, WhatWasSkippedIsPartOfTheState) {
  const auto source = std::make_shared<test::RandomSource>(test::kTinyVocab, 2, false);
  TrainerConfig config = tiny();
  config.guard.window = 3;
  config.guard.norm_spike = 10;
  source->amplify(4, 100.0f);
  const test::SharedFolder root;
  std::string expected;
  {
    Trainer trainer(test::world(), config, source, make_cpu_device());
    trainer.initialize();
    for (int s = 0; s < 4; ++s) one_step(trainer, test::world().size());
    trainer.save(root.path(), 0);
    EXPECT_EQ(one_step(trainer, test::world().size()).verdict, StepVerdict::norm_spike);
    trainer.skip_data(0);
    trainer.roll_back(checkpoint::open_any(root.path()));
    EXPECT_EQ(trainer.step(), 4);
    trainer.skip_data(2);
    one_step(trainer, test::world().size());
    trainer.save(root.path(), 0);
    const StepReport last = one_step(trainer, test::world().size());
    EXPECT_EQ(last.rollbacks, 1);
    expected = saved_hash(trainer);
  }
  Trainer trainer(test::world(), config, source, make_cpu_device());
  trainer.resume(checkpoint::open_any(root.path()));
  EXPECT_EQ(one_step(trainer, test::world().size()).rollbacks, 1);
  EXPECT_EQ(saved_hash(trainer), expected);
}

TEST(Trainer, DataThatIsLeftOutIsNeverSeen) {
  const auto source = std::make_shared<test::RandomSource>(test::kTinyVocab, 2, false);
  std::vector<std::int64_t> seen;
  Trainer trainer(test::self(), tiny(), source, make_cpu_device());
  trainer.initialize();
  trainer.inject([&](std::int64_t step, std::span<float>) { seen.push_back(step); });
  one_step(trainer, 1);
  trainer.announce({1, {0, 0}});
  trainer.announce({2, {0, 0}});
  trainer.skip_data(3);
  one_step(trainer, 1);
  one_step(trainer, 1);
  EXPECT_EQ(seen, (std::vector<std::int64_t>{0, 0, 4, 4, 5, 5}));
}

// Makes the micro-batches of one rank's prefetcher wait, and tells when one is made.
class SlowSource final : public data::Source {
 public:
  explicit SlowSource(std::chrono::milliseconds pause) : pause_(pause) {}
  std::int32_t micro_batches() const override { return from_.micro_batches(); }
  std::int64_t max_tokens() const override { return from_.max_tokens(); }
  std::int64_t max_rows() const override { return from_.max_rows(); }
  std::int64_t max_targets() const override { return from_.max_targets(); }
  std::int64_t whole_columns() const override { return from_.whole_columns(); }
  data::MicroBatch make(std::int64_t step, std::int32_t index) const override {
    std::this_thread::sleep_for(pause_);
    return from_.make(step, index);
  }

 private:
  const test::RandomSource from_{test::kTinyVocab, 2, false};
  const std::chrono::milliseconds pause_;
};

// What slow data costs is told on every rank, and a rank that comes late for another reason is not
// taken for slow data. The bounds leave a busy machine more than a second.
TEST(Trainer, TellsWaitsForDataFromWaitsForRanks) {
  using std::chrono::milliseconds;
  const mpi::Comm& world = test::world();
  const int groups = world.size(), last = world.size() - 1;
  const milliseconds pause(1500), late(3000);
  {
    const auto source =
        std::make_shared<SlowSource>(world.rank() == std::min(1, last) ? pause : milliseconds(0));
    Trainer trainer(world, tiny(), source, make_cpu_device());
    trainer.initialize();
    EXPECT_GE(one_step(trainer, groups).load_seconds, 0.1);
  }
  if (last == 0) return;
  Trainer trainer(world, tiny(), std::make_shared<SlowSource>(milliseconds(0)), make_cpu_device());
  trainer.initialize();
  trainer.announce({0, {0, 1 % groups}});
  if (world.rank() == last) std::this_thread::sleep_for(late);
  EXPECT_LT(trainer.run_step().load_seconds, 1.5);
}

TEST(Trainer, FastAgreesWithExactToRounding) {
  std::array<double, 2> losses{};
  for (const Reduction reduction : {Reduction::exact, Reduction::fast}) {
    TrainerConfig config = tiny();
    config.reduction = reduction;
    const auto source = std::make_shared<test::RandomSource>(test::kTinyVocab, 2, false);
    Trainer trainer(test::world(), config, source, make_cpu_device());
    trainer.initialize();
    for (int s = 0; s < 10; ++s) one_step(trainer, test::world().size());
    losses[static_cast<std::size_t>(reduction)] = trainer.held_out_loss(*source, 2);
  }
  EXPECT_NEAR(losses[0], losses[1], 1e-4 * losses[0]);
}

TEST(Trainer, HeldOutMicroBatchesMayBeTheLargerOnes) {
  const auto source = std::make_shared<test::RandomSource>(test::kTinyVocab, 2, false, 1, 8);
  const test::RandomSource held_out(test::kTinyVocab, 2, false, 6, 24);
  Trainer trainer(test::world(), tiny(), source, make_cpu_device(), &held_out);
  trainer.initialize();
  EXPECT_TRUE(std::isfinite(trainer.held_out_loss(held_out, 2)));
  EXPECT_TRUE(one_step(trainer, test::world().size()).applied());
}

TEST(Trainer, ResumeRefusesWhatItWasNotSavedFrom) {
  const auto source = std::make_shared<test::RandomSource>(test::kTinyVocab, 2, false);
  const test::SharedFolder root;
  {
    Trainer trainer(test::world(), tiny(), source, make_cpu_device());
    trainer.initialize();
    one_step(trainer, test::world().size());
    trainer.save(root.path(), 1);
  }
  const auto saved = checkpoint::open_any(root.path());
  const auto refused = [&](auto change, const char* word) {
    TrainerConfig config = tiny();
    change(config);
    Trainer trainer(test::world(), config, source, make_cpu_device());
    try {
      trainer.resume(saved);
      ADD_FAILURE() << "resumed with another " << word;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::checkpoint);
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
    }
  };
  refused([](TrainerConfig& c) { c.recipe_hash = "other"; }, "recipe");
  refused([](TrainerConfig& c) { c.data_hash = "other"; }, "corpus");
  refused([](TrainerConfig& c) { c.tokenizer_hash = "other"; }, "tokenizer");
  refused([](TrainerConfig& c) { c.noise_json = "{\"T\":9}"; }, "noise");
  refused([](TrainerConfig& c) { c.model.layers = 2; }, "model");
  Trainer trainer(test::world(), tiny(), source, make_cpu_device());
  trainer.resume(saved);
  EXPECT_EQ(trainer.step(), 1);
}

TEST(Trainer, ANewStageTakesParametersAndNothingElse) {
  const auto source = std::make_shared<test::RandomSource>(test::kTinyVocab, 2, false);
  const test::SharedFolder root;
  double trained = 0;
  {
    Trainer trainer(test::world(), tiny(), source, make_cpu_device());
    trainer.initialize();
    for (int s = 0; s < 5; ++s) one_step(trainer, test::world().size());
    trained = trainer.held_out_loss(*source, 2);
    trainer.save(root.path(), 1);
  }
  TrainerConfig next = tiny();
  next.stage = "next";
  Trainer trainer(test::world(), next, source, make_cpu_device());
  trainer.load_model(checkpoint::open_any(root.path()));
  EXPECT_EQ(trainer.step(), 0);
  EXPECT_EQ(trainer.held_out_loss(*source, 2), trained);
  EXPECT_GT(trainer.planned_bytes(), 100000u);
}

}  // namespace
}  // namespace demist

int main(int argc, char** argv) { return demist::test::run_mpi_tests(argc, argv); }
