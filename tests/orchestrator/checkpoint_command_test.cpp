// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <fstream>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/h5.hpp"
#include "orchestrator/cli.hpp"
#include "orchestrator/config.hpp"
#include "tests/support/checkpoint_state.hpp"
#include "tests/support/temporary_folder.hpp"
#include "worker/checkpoint/catalog.hpp"

namespace demist {
namespace {

struct Ending {
  ExitCode code = ExitCode::done;
  std::string output, message;
};

Ending demist(cli::Arguments arguments) {
  arguments.insert(arguments.begin(), "checkpoint");
  Ending ending;
  testing::internal::CaptureStdout();
  try {
    ending.code =
        static_cast<ExitCode>(cli::run(cli::find_command(arguments), arguments, mpi::Comm()));
  } catch (const Error& error) {
    ending.code = error.code();
    ending.message = error.what();
  }
  ending.output = testing::internal::GetCapturedStdout();
  return ending;
}

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)
#define EXPECT_LACKS(text, part) EXPECT_EQ((text).find(part), std::string::npos) << (text)

// Five checkpoints of the stage "pretrain" of a run of configs/tiny.textproto, whose recipe keeps
// the last one and the best.
class CheckpointCommand : public testing::Test {
 protected:
  CheckpointCommand() {
    const fs::path tiny = fs::path(DEMIST_SOURCE_DIR) / "configs/tiny.textproto";
    const RunConfig run = load_recipe(
        tiny, {"run_dir=" + run_.string(), "checkpoint.keep_last=1", "checkpoint.keep_best=1",
               "checkpoint.every_steps=5", "stages.pretrain.evaluate.every_steps=5"});
    atomic_write(run_ / "recipe.textproto", run.resolved);
    for (const auto& [step, loss] :
         {std::pair{10, 3.5}, {20, 1.25}, {30, 2.0}, {40, 2.5}, {50, 2.75}}) {
      checkpoint::Meta meta = test::make_meta(step);
      meta.held_out_loss = loss;
      save(mpi::Comm(), folder_, state_.tensors, pieces_of(state_, test::Split::rows, 0, 1), meta,
           0);
    }
  }
  fs::path at(std::int64_t step) const { return folder_ / checkpoint::directory_name(step); }
  std::string steps() const {
    std::string text;
    for (const auto& entry : checkpoint::list_entries(folder_))
      text += std::to_string(entry.step) + " ";
    return text;
  }
  void damage(std::int64_t step, const std::string& dataset) const {
    const fs::path file = at(step) / "w0000.h5";
    const auto offset = h5::File::open(file).extent(dataset).offset;
    std::fstream bytes(file, std::ios::in | std::ios::out | std::ios::binary);
    bytes.seekp(static_cast<std::streamoff>(offset));
    bytes.put('\x55');
  }

  const test::TemporaryFolder temporary_;
  const fs::path run_ = temporary_.path(), folder_ = run_ / "pretrain/checkpoints";
  test::State state_ = test::make_state(test::small_table());
};

TEST_F(CheckpointCommand, ListSaysWhatThereIsAndWhyItStays) {
  for (const fs::path& path : {run_, run_ / "pretrain", folder_}) {
    const std::string output = demist({"list", path}).output;
    EXPECT_HAS(output, folder_.string());
    EXPECT_HAS(output, "1.25  best\n");
    EXPECT_HAS(output, "2.75  last\n");
    EXPECT_HAS(output, "3.5  superfluous\n");
    EXPECT_LT(output.find("2.75"), output.find("1.25"));  // newest first
    EXPECT_HAS(output, " kB  ");
  }
  fs::remove(at(30) / "MANIFEST.json");
  fs::remove(run_ / "recipe.textproto");  // and with it the rules
  const std::string output = demist({"list", folder_}).output;
  EXPECT_HAS(output, "30  bad: ");
  EXPECT_HAS(output, "never finished");
  EXPECT_LACKS(output, "superfluous");
  EXPECT_EQ(demist({"list", run_ / "absent"}).code, ExitCode::usage);
  fs::create_directories(run_ / "empty");
  EXPECT_EQ(demist({"list", run_ / "empty"}).code, ExitCode::usage);
}

TEST_F(CheckpointCommand, VerifyNamesFileAndTensorAndEndsWithFour) {
  Ending ending = demist({"verify", run_});
  EXPECT_EQ(ending.code, ExitCode::done) << ending.message;
  EXPECT_HAS(ending.output, at(30).string() + ": good\n");
  damage(30, "/t/tall/adam_m");
  fs::resize_file(at(20) / "w0000.h5", 100);
  ending = demist({"verify", run_});
  EXPECT_EQ(ending.code, ExitCode::checkpoint);
  EXPECT_HAS(ending.message, "2 of 5 checkpoints are bad");
  EXPECT_HAS(ending.output, "bad: " + (at(30) / "w0000.h5: tensor 'tall' (adam_m)").string());
  EXPECT_HAS(ending.output, "bad: " + (at(20) / "w0000.h5: has 100 bytes").string());
  EXPECT_HAS(ending.output, at(50).string() + ": good\n");
  EXPECT_EQ(demist({"verify", at(50)}).code, ExitCode::done);
  EXPECT_EQ(demist({"verify", at(30)}).code, ExitCode::checkpoint);
  fs::rename(at(50), at(60));
  EXPECT_HAS(demist({"verify", at(60)}).output, "holds step 50");
}

TEST_F(CheckpointCommand, PruneFollowsTheRecipeOrTheOptions) {
  Ending ending = demist({"prune", run_, "--dry-run"});
  EXPECT_EQ(ending.code, ExitCode::done) << ending.message;
  EXPECT_EQ(steps(), "50 40 30 20 10 ");
  EXPECT_HAS(ending.output, "would remove " + at(30).string() + "\n");
  EXPECT_LACKS(ending.output, at(20).string());
  ending = demist({"prune", folder_, "--keep-last", "2", "--keep-every", "30"});
  EXPECT_EQ(steps(), "50 40 30 ");
  EXPECT_HAS(ending.output, "removed " + at(20).string() + "\n");
  EXPECT_HAS(ending.output, " freed\n");
  demist({"prune", run_, "--keep-best", "1"});
  EXPECT_EQ(steps(), "50 30 ");
  demist({"prune", run_});
  EXPECT_EQ(steps(), "50 30 ");  // the last and the best that is left
  EXPECT_EQ(demist({"prune", run_, "--keep-last", "0"}).code, ExitCode::usage);
  fs::remove(run_ / "recipe.textproto");
  ending = demist({"prune", folder_});
  EXPECT_EQ(ending.code, ExitCode::usage);
  EXPECT_HAS(ending.message, "give --keep-last");
}

// After three bad steps that would be the one of step 40: `guard` of the recipe.
TEST_F(CheckpointCommand, PruneLeavesWhatTrainingMayGoBackTo) {
  save(mpi::Comm(), folder_, state_.tensors, pieces_of(state_, test::Split::rows, 0, 1),
       test::make_meta(45), 0);
  fs::remove_all(at(50));  // with it the stage would be done
  demist({"prune", run_, "--keep-last", "1"});
  EXPECT_EQ(steps(), "45 40 ");
  fs::remove(run_ / "recipe.textproto");
  demist({"prune", folder_, "--keep-last", "1"});
  EXPECT_EQ(steps(), "45 ");
}

TEST_F(CheckpointCommand, ASaveUnderWayIsLeftAlone) {
  fs::create_directories(folder_ / "step-00000060.tmp");
  demist({"prune", run_, "--keep-last", "1"});
  EXPECT_EQ(steps(), "50 ");
  EXPECT_TRUE(fs::exists(folder_ / "step-00000060.tmp"));
}

}  // namespace
}  // namespace demist
