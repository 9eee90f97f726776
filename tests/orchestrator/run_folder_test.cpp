// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/run_folder.hpp"

#include <gtest/gtest.h>

#include "core/error.hpp"
#include "core/file.hpp"
#include "orchestrator/config.hpp"
#include "orchestrator/stage_state.hpp"
#include "tests/support/temporary_folder.hpp"

namespace demist {
namespace {

// The folders of configs/tiny.textproto's run, with empty files in the places of real ones.
class RunFolderTest : public testing::Test {
 protected:
  RunFolderTest() {
    const fs::path tiny = fs::path(DEMIST_SOURCE_DIR) / "configs/tiny.textproto";
    run_ = load_recipe(tiny, {"run_dir=" + folder_.string()});
    atomic_write(folder_ / "recipe.textproto", run_.resolved);
  }
  fs::path add_checkpoint(const std::string& stage) const {
    const fs::path made = run_.stage(stage).checkpoints() / "step-00000050";
    fs::create_directories(made);
    atomic_write(made / "MANIFEST.json", "");
    return made;
  }
  void finish(const std::string& stage) const {
    write_done(run_.stage(stage), StageState{"k", "o", 61, 0, {}, {}, {}});
  }
  std::string error_of(const fs::path& given) const {
    try {
      return find_model(given).string();
    } catch (const ConfigError& error) {
      return error.what();
    }
  }

  const test::TemporaryFolder temporary_;
  const fs::path folder_ = temporary_.path();
  RunConfig run_;
};

TEST_F(RunFolderTest, ACheckpointIsFoundFromEveryPlaceAroundIt) {
  const fs::path made = add_checkpoint("pretrain");
  for (const fs::path& given : {made, made.parent_path()}) EXPECT_EQ(find_model(given), given);
  EXPECT_EQ(find_model(made / "MANIFEST.json"), made);
  EXPECT_EQ(find_model(folder_ / "pretrain"), made.parent_path());
}

TEST_F(RunFolderTest, ARunStandsForItsLastFinishedModel) {
  EXPECT_NE(error_of(folder_).find("no checkpoint yet"), std::string::npos);
  add_checkpoint("pretrain");
  EXPECT_NE(error_of(folder_).find("name " + (folder_ / "pretrain").string()), std::string::npos);
  finish("pretrain");
  add_checkpoint("adapt");  // under way
  EXPECT_EQ(find_model(folder_), run_.stage("pretrain").checkpoints());
  finish("adapt");
  EXPECT_EQ(find_model(folder_), run_.stage("adapt").checkpoints());
}

TEST_F(RunFolderTest, TwoResultsMustBeChosenFrom) {
  std::string record = run_.resolved;
  const std::string from = "start_from: \"pretrain\"";
  record.replace(record.find(from), from.size(), "start_from: \"scratch\"");
  atomic_write(folder_ / "recipe.textproto", record);
  for (const char* stage : {"pretrain", "adapt"}) {
    add_checkpoint(stage);
    finish(stage);
  }
  const std::string error = error_of(folder_);
  EXPECT_NE(error.find("several models"), std::string::npos) << error;
  EXPECT_NE(error.find((folder_ / "adapt").string()), std::string::npos) << error;
}

TEST_F(RunFolderTest, WhatIsNoModelIsRefusedWithARemedy) {
  EXPECT_NE(error_of(folder_ / "absent").find("does not exist; name"), std::string::npos);
  EXPECT_NE(error_of(folder_ / "recipe.textproto").find("is a file"), std::string::npos);
  fs::create_directories(folder_ / "corpora");
  EXPECT_NE(error_of(folder_ / "corpora").find("holds no checkpoint; name"), std::string::npos);
}

TEST_F(RunFolderTest, IsDescribedStageByStage) {
  finish("tokenizer");
  write_started(run_.stage("corpus"), StageState{});
  const std::string text = describe_run(folder_);
  EXPECT_NE(text.find("tokenizer              1:01"), std::string::npos) << text;
  EXPECT_NE(text.find("unfinished  corpus\n"), std::string::npos) << text;
  EXPECT_NE(text.find("not begun   pretrain, adapt, score\n"), std::string::npos) << text;
}

}  // namespace
}  // namespace demist
