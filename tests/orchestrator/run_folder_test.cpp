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

// A recipe with relative paths, which count in its hashes as they stand there.
class RecordTest : public testing::Test {
 protected:
  RecordTest() {
    atomic_write(root_ / "r.textproto",
                 R"(name: "r" stages { name: "a" kind: PREPARE command: "true" product: "b" })"
                 R"( stages { name: "c.d" kind: PREPARE command: "x/y" "z" product: "{run}/e" })");
    run_ = load_recipe(root_ / "r.textproto", {"run_dir=" + folder_.string(), "seed=3"});
    fs::create_directories(folder_);
    write_record(run_);
  }
  static void expect_same(const RunConfig& run, const RunConfig& other) {
    EXPECT_EQ(run.hash, other.hash);
    ASSERT_EQ(run.stages.size(), other.stages.size());
    for (std::size_t i = 0; i < run.stages.size(); ++i)
      EXPECT_EQ(run.stages[i].hash, other.stages[i].hash) << run.stages[i].name;
  }

  const test::TemporaryFolder temporary_;
  const fs::path root_ = temporary_.path(), folder_ = root_ / "run";
  RunConfig run_;
};

TEST_F(RecordTest, ARunIsReadBackAsItWasStarted) {
  atomic_write(root_ / "r.textproto", "edited since");
  const RunConfig again = load_record(folder_, RanksOf::recipe, record_hash(run_));
  expect_same(again, run_);
  EXPECT_EQ(again.resolved, run_.resolved);
  EXPECT_EQ(again.seed, 3u);
  EXPECT_EQ(again.record, record_hash(run_));
  EXPECT_EQ(std::get<PrepareStage>(again.stages[0].work).product, root_ / "b");
  EXPECT_EQ(std::get<PrepareStage>(again.stages[1].work).product, folder_ / "e");
}

TEST_F(RecordTest, ACopiedRecordIsOfTheFolderItLiesIn) {
  const fs::path copy = root_ / "copy";
  fs::copy(folder_, copy);
  const RunConfig again = load_record(copy);
  expect_same(again, run_);
  EXPECT_EQ(again.run_dir, copy);
  EXPECT_EQ(again.stages[0].folder, copy / "a");
}

TEST_F(RecordTest, AnEditedRecordIsARecipeOfItsOwn) {
  const fs::path file = folder_ / "recipe.textproto";
  EXPECT_TRUE(is_record(file));
  const std::string text = read_file(file);
  atomic_write(file, text + "# a word of its author's\n");
  EXPECT_FALSE(is_record(file));
  std::string other = text;
  other.replace(other.find("seed: 3"), 7, "seed: 4");
  atomic_write(file, other);
  const RunConfig edited = load_recipe(file);
  EXPECT_EQ(edited.seed, 4u);
  EXPECT_NE(edited.hash, run_.hash);
  EXPECT_NE(edited.stages[0].hash, run_.stages[0].hash);
  EXPECT_FALSE(has_whole_record(folder_));
  EXPECT_THROW(load_record(folder_), ConfigError);
  EXPECT_THROW(load_record(folder_, RanksOf::recipe, record_hash(run_)), ConfigError);
  atomic_write(file, text.substr(0, text.find('\n')));  // no more than the first line
  EXPECT_THROW(load_record(folder_), ConfigError);
  atomic_write(file, run_.resolved);  // as versions before wrote it
  EXPECT_TRUE(is_record(file));
  EXPECT_FALSE(has_whole_record(folder_));
  EXPECT_THROW(load_record(folder_), ConfigError);
  atomic_write(file, text);
  EXPECT_TRUE(has_whole_record(folder_));
}

TEST_F(RecordTest, ARunThatWasStartedAnewIsNotWhatAnAttemptBeganWith) {
  const std::string began_with = record_hash(run_);
  write_record(load_recipe(root_ / "r.textproto",
                           {"run_dir=" + folder_.string(), "seed=3", "recovery.attempts=7"}));
  EXPECT_THROW(load_record(folder_, RanksOf::recipe, began_with), ConfigError);
  expect_same(load_record(folder_), run_);
}

TEST_F(RecordTest, WhatCannotBeReadIsTheMachinesTrouble) {
  fs::remove(folder_ / "recipe.textproto");
  EXPECT_THROW(load_record(folder_), UnreadError) << "it was there";
  fs::create_symlink("/proc/self/mem", folder_ / "recipe.textproto");  // EIO
  EXPECT_THROW(load_record(folder_), UnreadError);
}

}  // namespace
}  // namespace demist
