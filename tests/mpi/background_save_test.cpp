// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/background_save.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "core/file.hpp"
#include "tests/support/checkpoint_state.hpp"
#include "tests/support/held_up.hpp"
#include "tests/support/mpi_main.hpp"
#include "tests/support/random_source.hpp"
#include "tests/support/shared_folder.hpp"
#include "tests/support/tiny_trainer.hpp"
#include "worker/checkpoint/catalog.hpp"
#include "worker/trainer.hpp"

namespace demist::checkpoint {
namespace {

using test::SavePhase;
using test::world;

bool is_last() { return world().rank() == world().size() - 1; }

// A state that changes with every step, saved from a copy as a trainer's is.
class BackgroundSaveRanks : public testing::Test {
 protected:
  void begin(std::int64_t step) {
    *state_.at(0, Kind::parameter, 0) = static_cast<float>(step);
    save_.begin([&](Snapshot& snapshot) {
      copy_ = state_;
      snapshot.tensors = copy_.tensors;
      snapshot.pieces = pieces_of(copy_, test::Split::flat, world().rank(), world().size());
      snapshot.meta = test::make_meta(step);
    });
    *state_.at(0, Kind::parameter, 0) = -1;  // training goes on
  }
  SaveReport saved(std::int64_t step) {
    begin(step);
    return *save_.finish();
  }
  float first_value(std::int64_t step) const {
    std::vector<float> value(1);
    Checkpoint(at(step)).read({0, Kind::parameter, 0, value});
    return value[0];
  }
  fs::path at(std::int64_t step) const { return folder_.path() / directory_name(step); }
  // Every rank has the same report.
  static void expect_common(const SaveReport& report) {
    EXPECT_EQ(report.outcome.message, world().broadcast(report.outcome.message, 0));
    EXPECT_EQ(world().all_reduce_max(static_cast<int>(report.outcome.code)),
              static_cast<int>(report.outcome.code));
  }
  void expect_only(const std::vector<std::int64_t>& steps) {
    world().barrier();
    std::vector<std::int64_t> found;
    for (const Entry& entry : list_entries(folder_.path())) {
      Checkpoint(entry.path).verify();
      found.push_back(entry.step);
    }
    EXPECT_EQ(found, steps);
    for (const auto& item : fs::directory_iterator(folder_.path()))
      EXPECT_FALSE(item.path().extension() == ".tmp") << item.path();
    world().barrier();
  }

  const test::SharedFolder folder_;
  test::State state_ = test::make_state(test::small_table()), copy_;
  test::SaveStage stage_;
  BackgroundSave save_{world(), folder_.path(), {.last = 2}, stage_.hook()};
};

TEST_F(BackgroundSaveRanks, WritesTheStateOfItsBeginning) {
  for (const std::int64_t step : {1, 2, 3}) {
    const SaveReport report = saved(step);
    EXPECT_EQ(report.outcome.code, ExitCode::done) << report.outcome.message;
    EXPECT_EQ(report.step, step);
    EXPECT_EQ(first_value(step), static_cast<float>(step));
    EXPECT_TRUE(world().rank() != 0 || report.bytes > 10000);
  }
  expect_only({3, 2});
  EXPECT_FALSE(save_.in_flight());
  EXPECT_FALSE(save_.poll().has_value());
  EXPECT_FALSE(save_.finish().has_value());
}

// One rank's disk stands still: nobody waits, nothing is published, until it goes on.
TEST_F(BackgroundSaveRanks, NobodyWaitsForADiskThatStandsStill) {
  saved(1);
  if (is_last()) stage_.close(SavePhase::write);
  begin(2);
  // Ranks stay in step, as in training; some steps more when the disk is reached.
  for (std::int64_t steps_more = 20; steps_more > 0;) {
    EXPECT_FALSE(save_.poll().has_value());
    EXPECT_TRUE(save_.in_flight());
    steps_more -= world().all_reduce_max(stage_.held() ? 1 : 0);
  }
  EXPECT_FALSE(fs::exists(at(2)));
  stage_.open();
  EXPECT_EQ(save_.finish()->outcome.code, ExitCode::done);
  EXPECT_EQ(first_value(2), 2.0f);
  expect_only({2, 1});
}

TEST_F(BackgroundSaveRanks, PollAloneEndsASave) {
  begin(1);
  std::optional<SaveReport> report;
  while (!report) {
    report = save_.poll();
    std::this_thread::yield();
  }
  EXPECT_EQ(report->outcome.code, ExitCode::done);
  expect_only({1});
}

TEST_F(BackgroundSaveRanks, ASecondSaveWaitsForTheFirst) {
  if (is_last()) stage_.close(SavePhase::write);
  begin(1);
  EXPECT_THROW(begin(2), InternalError);  // at most one in flight
  world().barrier();
  EXPECT_FALSE(fs::exists(at(1)));
  std::thread opens([&] { stage_.open(); });
  const SaveReport first = *save_.finish();
  opens.join();
  EXPECT_EQ(first.step, 1);
  EXPECT_TRUE(fs::exists(at(1)));
  EXPECT_EQ(saved(2).step, 2);
  expect_only({2, 1});
}

TEST_F(BackgroundSaveRanks, AFailureOfOneRankIsAllRanksFailure) {
  saved(1);
  if (is_last()) stage_.fail(SavePhase::write);
  const SaveReport report = saved(2);
  EXPECT_EQ(report.outcome.code, ExitCode::environment);
  EXPECT_NE(report.outcome.message.find("the disk says no"), std::string::npos);
  if (world().size() > 1) {
    EXPECT_NE(report.outcome.message.find("rank " + std::to_string(world().size() - 1)),
              std::string::npos);
  }
  expect_common(report);
  EXPECT_THROW(throw_if_failed(world(), report), Error);
  expect_only({1});
  stage_.repair();
  EXPECT_EQ(saved(2).outcome.code, ExitCode::done);
  expect_only({2, 1});
}

TEST_F(BackgroundSaveRanks, FailuresOfTheFirstRankToo) {
  saved(1);
  for (const SavePhase phase : {SavePhase::prepare, SavePhase::publish}) {
    if (world().rank() == 0) stage_.fail(phase);
    const SaveReport report = saved(2);
    EXPECT_EQ(report.outcome.code, ExitCode::environment);
    expect_common(report);
    expect_only({1});
    stage_.repair();
  }
  EXPECT_EQ(saved(2).outcome.code, ExitCode::done);
}

TEST_F(BackgroundSaveRanks, AFileInTheWayFailsOnAllRanks) {
  world().barrier();
  if (world().rank() == 0) atomic_write(folder_.path() / "root", "a file");
  world().barrier();
  BackgroundSave save(world(), folder_.path() / "root", {});
  save.begin([&](Snapshot& snapshot) { snapshot.meta = test::make_meta(1); });
  const SaveReport report = *save.finish();
  EXPECT_EQ(report.outcome.code, ExitCode::environment) << report.outcome.message;
  expect_common(report);
}

TEST_F(BackgroundSaveRanks, GivenUpItLeavesNoCheckpoint) {
  saved(1);
  {
    test::SaveStage stage;
    stage.close(SavePhase::write);
    BackgroundSave save(world(), folder_.path(), {.last = 2}, stage.hook());
    save.begin([&](Snapshot& snapshot) {
      snapshot.tensors = state_.tensors;
      snapshot.pieces = pieces_of(state_, test::Split::flat, world().rank(), world().size());
      snapshot.meta = test::make_meta(2);
    });
    while (!fs::exists(folder_.path() / "step-00000002.tmp")) save.poll();
    stage.open();
  }
  world().barrier();
  EXPECT_EQ(open_latest(folder_.path())->meta().step, 1);
  EXPECT_EQ(saved(3).outcome.code, ExitCode::done);  // and removes what was left
  expect_only({3, 1});
}

// The steps that run while the disk stands still are the steps of an undisturbed run.
TEST(BackgroundSaveTraining, GoesOnWhileTheDiskStandsStill) {
  const auto source = std::make_shared<test::RandomSource>(test::kTinyVocab, 2, false);
  const test::SharedFolder undisturbed_root, root;
  const auto advance = [&](Trainer& trainer, int steps) {
    for (int i = 0; i < steps; ++i) {
      trainer.announce({trainer.step(), {0, 1 % world().size()}});
      trainer.run_step();
    }
  };
  const auto hash_of = [&](const fs::path& folder, std::int64_t step) {
    return Checkpoint(folder / directory_name(step)).hash();
  };
  {
    Trainer trainer(world(), test::tiny_trainer(), source, make_cpu_device());
    trainer.initialize();
    advance(trainer, 2);
    trainer.save(undisturbed_root.path(), 0);
    advance(trainer, 4);
    trainer.save(undisturbed_root.path(), 0);
  }
  test::SaveStage stage;
  if (is_last()) stage.close(SavePhase::write);
  Trainer trainer(world(), test::tiny_trainer(), source, make_cpu_device());
  BackgroundSave save(world(), root.path(), {.last = 0}, stage.hook());
  trainer.initialize();
  advance(trainer, 2);
  trainer.begin_save(save, 5.25);
  while (world().all_reduce_max(stage.held() ? 1 : 0) == 0) EXPECT_FALSE(save.poll().has_value());
  for (int step = 0; step < 4; ++step) {
    EXPECT_FALSE(save.poll().has_value());
    advance(trainer, 1);
  }
  stage.open();
  EXPECT_EQ(save.finish()->outcome.code, ExitCode::done);
  trainer.begin_save(save, std::nullopt);
  EXPECT_EQ(save.finish()->outcome.code, ExitCode::done);
  for (const std::int64_t step : {2, 6})
    EXPECT_EQ(hash_of(root.path(), step), hash_of(undisturbed_root.path(), step)) << step;
  EXPECT_EQ(Checkpoint(root.path() / directory_name(2)).meta().held_out_loss, 5.25);
  EXPECT_FALSE(Checkpoint(root.path() / directory_name(6)).meta().held_out_loss.has_value());
}

}  // namespace
}  // namespace demist::checkpoint

int main(int argc, char** argv) { return demist::test::run_mpi_tests(argc, argv); }
