// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/run_plan.hpp"

#include <gtest/gtest.h>

#include "core/error.hpp"
#include "core/file.hpp"
#include "tests/support/temporary_folder.hpp"

namespace demist {
namespace {

// text -> mlm -> rdm -> score, all of it done.
class RunPlanTest : public testing::Test {
 protected:
  RunPlanTest() {
    run_.run_dir = folder_;
    TrainingStage mlm, rdm;
    mlm.steps = rdm.steps = 4;
    mlm.corpus = "c";
    rdm.start_from = "mlm";
    rdm.tasks = {"t"};
    ScoreStage score;
    score.start_from = "rdm";
    score.task = "t";
    run_.stages = {
        {"text", PrepareStage{{"true"}, folder_ / "raw.txt"}, folder_ / "text", "h1", {}},
        {"mlm", mlm, folder_ / "mlm", "h2", {"text"}},
        {"rdm", rdm, folder_ / "rdm", "h3", {"text", "mlm"}},
        {"score", score, folder_ / "score", "h4", {"text", "mlm", "rdm"}}};
    atomic_write(folder_ / "raw.txt", "text");
    for (const char* name : {"mlm", "rdm"}) {
      fs::create_directories(end_of(name));
      atomic_write(end_of(name) / "MANIFEST.json", "");
    }
    for (const StageConfig& stage : run_.stages) finish(stage);
    atomic_write(folder_ / "score/samples.jsonl", "");
  }
  fs::path end_of(const std::string& stage) const {
    return run_.stage(stage).checkpoints() / "step-00000004";
  }
  void finish(const StageConfig& stage) const {
    StageState state;
    state.key = state.output = stage_key(run_, stage);
    write_done(stage, state);
  }
  ExitCode check(bool redo = false) const {
    try {
      check_stages(run_, redo);
    } catch (const Error& error) {
      return error.code();
    }
    return ExitCode::done;
  }

  const test::TemporaryFolder temporary_;
  const fs::path folder_ = temporary_.path();
  RunConfig run_;
};

TEST_F(RunPlanTest, WhatIsDoneIsPassedOver) {
  EXPECT_EQ(check(), ExitCode::done);
  for (const StageConfig& stage : run_.stages)
    EXPECT_EQ(make_ready(run_, stage, false), StageStatus::done) << stage.name;
}

// Only what a stage with work to do reads, and no stage that has work to do may make.
TEST_F(RunPlanTest, AFileThatIsMissingIsNamedBeforehand) {
  TaskConfig task;
  task.name = "t";
  task.file.path = folder_ / "pairs.tsv";
  run_.tasks = {task};
  run_.corpora.resize(1);
  run_.corpora[0].build.name = "c";
  run_.corpora[0].built = true;
  run_.tokenizer.trained = true;
  EXPECT_NO_THROW(require_inputs(run_, ""));  // all is done
  fs::remove(folder_ / "score/done.json");
  try {
    require_inputs(run_, "");
    FAIL() << "nothing is missed";
  } catch (const DataError& error) {
    EXPECT_EQ(std::string(error.what()).find("tasks.t.file: " + task.file.path.string()), 0u)
        << error.what();
  }
  EXPECT_NO_THROW(require_inputs(run_, "mlm"));
  atomic_write(task.file.path, "a\tb\n");
  EXPECT_NO_THROW(require_inputs(run_, ""));
  run_.tokenizer.trained = false;
  run_.tokenizer.model = folder_ / "no.model";
  EXPECT_THROW(require_inputs(run_, ""), DataError);
  fs::remove(folder_ / "text/done.json");  // it may make all of that
  EXPECT_NO_THROW(require_inputs(run_, ""));
}

TEST_F(RunPlanTest, ATaskWithoutItsColumnOrSplitIsNamedBeforehand) {
  TaskConfig task;
  task.name = "t";
  task.file.path = folder_ / "pairs.tsv";
  task.train_split = "train";
  task.test_split = "test";
  run_.corpora.resize(1);
  run_.corpora[0].build.name = "c";
  run_.corpora[0].built = true;
  run_.tokenizer.trained = true;
  const auto refusal = [&](const std::string& split_field, const std::string& content) {
    task.file.split_field = split_field;
    run_.tasks = {task};
    atomic_write(task.file.path, content);
    try {
      require_inputs(run_, "");
    } catch (const DataError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const std::string file = "tasks.t: " + task.file.path.string();
  EXPECT_EQ(refusal("7", "a\tb\ttrain\n"), "");  // all is done
  fs::remove(folder_ / "rdm/done.json");
  EXPECT_TRUE(refusal("7", "a\tb\ttrain\n")
                  .starts_with(file + ":1: it has 3 columns, column 7 (from 0) is wanted as its "
                                      "split_field; "));
  EXPECT_TRUE(refusal("1", "a\tb\ttrain\n")
                  .starts_with(file + ": no row with 'train' in split_field '1'; "));
  EXPECT_EQ(refusal("2", "a\tb\ttrain\n"), "");
  EXPECT_EQ(refusal("", "a\tb\n"), "");
  EXPECT_TRUE(refusal("", "").starts_with(file + ": no row; "));
  fs::remove(folder_ / "score/done.json");
  EXPECT_TRUE(refusal("2", "a\tb\ttrain\n")
                  .starts_with(file + ": no row with 'test' in split_field '2'; "));
  EXPECT_EQ(refusal("2", "a\tb\ttrain\na\tb\ttest\n"), "");
}

TEST_F(RunPlanTest, AnInputWrittenSinceIsNamed) {
  TaskConfig task;
  task.name = "t";
  task.file.path = folder_ / "pairs.tsv";
  run_.tasks = {task};
  run_.tokenizer.trained = true;
  std::get<ScoreStage>(run_.stages[3].work).task = "t";
  atomic_write(task.file.path, "a\tb\n");
  const auto done = fs::last_write_time(run_.stages[3].folder / "done.json");
  fs::last_write_time(task.file.path, done - std::chrono::seconds(5));
  EXPECT_FALSE(newer_input(run_, run_.stages[3]));
  fs::last_write_time(task.file.path, done + std::chrono::seconds(5));
  EXPECT_EQ(newer_input(run_, run_.stages[3]), task.file.path);
  fs::remove(run_.stages[3].folder / "done.json");
  EXPECT_FALSE(newer_input(run_, run_.stages[3]));
}

TEST_F(RunPlanTest, OtherSettingsAreRefusedOrForgotten) {
  run_.stages[2].hash = "another";
  EXPECT_EQ(check(), ExitCode::usage);
  EXPECT_EQ(check(/*redo=*/true), ExitCode::done);
  EXPECT_TRUE(fs::exists(end_of("rdm")));  // checking changes nothing
  EXPECT_THROW(require_sound(run_, run_.stages[2]), ConfigError);
  EXPECT_EQ(make_ready(run_, run_.stages[2], true), StageStatus::absent);
  EXPECT_FALSE(fs::exists(run_.stages[2].folder));
}

TEST_F(RunPlanTest, AResultThatIsReadOnlyByWhatIsDoneMayGo) {
  fs::remove_all(end_of("mlm"));
  fs::remove(folder_ / "raw.txt");
  EXPECT_EQ(check(), ExitCode::done);
  EXPECT_EQ(require_sound(run_, run_.stages[1]), StageStatus::done);
  fs::remove(run_.stages[3].folder / "done.json");  // scoring reads rdm, not mlm
  EXPECT_EQ(check(), ExitCode::data);               // but it reads the text
  atomic_write(folder_ / "raw.txt", "text");
  EXPECT_EQ(check(), ExitCode::done);
  fs::remove(run_.stages[2].folder / "done.json");
  EXPECT_EQ(check(), ExitCode::checkpoint);
}

TEST_F(RunPlanTest, ALostResultIsMadeAgainOnDemand) {
  fs::remove(end_of("rdm") / "MANIFEST.json");
  fs::remove(run_.stages[3].folder / "done.json");
  EXPECT_EQ(check(), ExitCode::checkpoint);
  EXPECT_THROW(make_ready(run_, run_.stages[2], false), CheckpointError);
  EXPECT_EQ(check(/*redo=*/true), ExitCode::done);
  EXPECT_EQ(make_ready(run_, run_.stages[2], true), StageStatus::started);
  EXPECT_TRUE(fs::exists(end_of("rdm")));  // it goes on from what is left
}

TEST_F(RunPlanTest, TheLastResultIsWantedByTheUser) {
  fs::remove(folder_ / "score/samples.jsonl");
  EXPECT_EQ(check(), ExitCode::data);
  EXPECT_EQ(make_ready(run_, run_.stages[3], true), StageStatus::started);
}

TEST_F(RunPlanTest, WhatDependsOnUnfinishedWorkIsJudgedLater) {
  fs::remove(run_.stages[1].folder / "done.json");
  run_.stages[2].hash = "another";
  EXPECT_EQ(check(), ExitCode::done);
  finish(run_.stages[1]);
  EXPECT_EQ(check(), ExitCode::usage);
}

}  // namespace
}  // namespace demist
