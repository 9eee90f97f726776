// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/stage_state.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/file.hpp"
#include "orchestrator/summary.hpp"
#include "tests/support/temporary_folder.hpp"

namespace demist {
namespace {

class StageStateTest : public testing::Test {
 protected:
  StageStateTest() {
    run_.name = "r";
    run_.run_dir = folder_;
    run_.stages = {{"tok", TokenizerStage{}, folder_ / "tok", "h1", {}},
                   {"mlm", TrainingStage{}, folder_ / "mlm", "h2", {"tok"}}};
  }

  const test::TemporaryFolder temporary_;
  const fs::path folder_ = temporary_.path();
  RunConfig run_;
};

StageState full_state() {
  StageState state;
  state.key = "k";
  state.output = "o";
  state.seconds = 12.5;
  state.held_out_before = 8.1;
  state.held_out_after = 3.2;
  state.score = Score{"rouge_l", 31.5, 12.25, "lead", 100, 59, 40};
  return state;
}

TEST_F(StageStateTest, RoundTrips) {
  const StageState again = stage_state_from_json(to_json(full_state()));
  EXPECT_EQ(to_json(again), to_json(full_state()));
  EXPECT_EQ(*again.held_out_after, 3.2);
  EXPECT_FALSE(stage_state_from_json(R"({"key":"k","output":"o","seconds":1})").score);
  EXPECT_THROW(stage_state_from_json("{"), DataError);
  EXPECT_THROW(stage_state_from_json("{}"), DataError);
}

TEST_F(StageStateTest, KilledAttemptsCount) {
  const StageConfig& tok = run_.stages[0];
  StageState state = full_state();
  EXPECT_EQ(seconds_spent(tok, state), 12.5);  // never begun
  state.began = unix_seconds() - 100;
  write_started(tok, state);
  const fs::path file = tok.folder / "started.json";
  using namespace std::chrono_literals;
  fs::last_write_time(file, fs::file_time_type::clock::now() - 60s);
  EXPECT_NEAR(seconds_spent(tok, *read_started(tok)), 12.5 + 40, 5);
  fs::last_write_time(file, fs::file_time_type::clock::now() - 200s);  // clocks disagree
  EXPECT_EQ(seconds_spent(tok, *read_started(tok)), 12.5);
}

TEST_F(StageStateTest, AClockRunsWhileAnAttemptLives) {
  const StageConfig& tok = run_.stages[0];
  write_started(tok, full_state());
  const fs::path file = tok.folder / "started.json";
  const fs::file_time_type long_ago = fs::file_time_type::clock::now() - std::chrono::hours(1);
  fs::last_write_time(file, long_ago);
  {
    const StageClock clock(tok, 0.001);
    for (int i = 0; i < 2000 && fs::last_write_time(file) == long_ago; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_GT(fs::last_write_time(file), long_ago);
}

TEST_F(StageStateTest, StatusFollowsTheFolder) {
  const StageConfig& tok = run_.stages[0];
  EXPECT_EQ(status_of(run_, tok, "k"), StageStatus::absent);
  write_started(tok, full_state());
  EXPECT_EQ(status_of(run_, tok, "k"), StageStatus::started);
  EXPECT_EQ(status_of(run_, tok, "other"), StageStatus::absent);  // it has made nothing yet
  write_done(tok, full_state());
  EXPECT_EQ(status_of(run_, tok, "k"), StageStatus::done);
  EXPECT_EQ(status_of(run_, tok, "other"), StageStatus::changed);
  forget(run_, tok);
  EXPECT_EQ(status_of(run_, tok, "k"), StageStatus::absent);
}

TEST_F(StageStateTest, OnlyWorkStandsInTheWayOfOtherSettings) {
  const StageConfig& mlm = run_.stages[1];
  write_started(mlm, full_state());
  EXPECT_EQ(status_of(run_, mlm, "other"), StageStatus::absent);
  fs::create_directories(mlm.checkpoints() / "step-00000010");
  EXPECT_EQ(status_of(run_, mlm, "other"), StageStatus::changed);

  const StageConfig text{
      "text", PrepareStage{{"true"}, folder_ / "raw/a.txt"}, folder_ / "text", "h", {}};
  write_started(text, full_state());
  EXPECT_EQ(status_of(run_, text, "other"), StageStatus::absent);
  fs::create_directories(folder_ / "raw");
  atomic_write(folder_ / "raw/a.txt", "made by another command");
  EXPECT_EQ(status_of(run_, text, "other"), StageStatus::changed);

  const StageConfig corpus{"corpus", CorpusStage{}, folder_ / "corpus", "h", {}};
  run_.corpora.resize(1);
  run_.corpora[0].build.output = folder_ / "corpora/a";
  run_.corpora[0].built = true;
  write_started(corpus, full_state());
  fs::create_directories(folder_ / "corpora/a/.build");
  EXPECT_EQ(status_of(run_, corpus, "other"), StageStatus::absent);
  atomic_write(folder_ / "corpora/a/corpus.json", "{}");
  EXPECT_EQ(status_of(run_, corpus, "other"), StageStatus::changed);
}

TEST_F(StageStateTest, AReopenedStageKeepsWhatItMeasured) {
  const StageConfig& mlm = run_.stages[1];
  write_done(mlm, full_state());
  reopen(mlm);
  EXPECT_EQ(status_of(run_, mlm, "k"), StageStatus::started);
  EXPECT_EQ(read_started(mlm)->seconds, 12.5);
  EXPECT_EQ(*read_started(mlm)->held_out_before, 8.1);
}

TEST_F(StageStateTest, KeyIsBoundToTheOutputsBefore) {
  EXPECT_THROW(stage_key(run_, run_.stages[1]), ConfigError);  // tok is not done
  write_done(run_.stages[0], full_state());
  const std::string key = stage_key(run_, run_.stages[1]);
  StageState other = full_state();
  other.output = "another vocabulary";
  write_done(run_.stages[0], other);
  EXPECT_NE(stage_key(run_, run_.stages[1]), key);
}

TEST_F(StageStateTest, DamagedFileIsNamed) {
  fs::create_directories(folder_ / "tok");
  atomic_write(folder_ / "tok" / "done.json", "not json");
  try {
    read_done(run_.stages[0]);
    FAIL();
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("done.json"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("delete this file and nothing else"),
              std::string::npos)
        << "the stage's folder holds its checkpoints";
  }
}

TEST_F(StageStateTest, AFileThatTheSystemDoesNotReadIsNotDamaged) {
  fs::create_directories(folder_ / "tok");
  for (const char* name : {"started.json", "done.json"})
    fs::create_symlink("/proc/self/mem", folder_ / "tok" / name);  // EIO
  for (const auto read : {read_started, read_done}) {
    const mpi::Outcome outcome = mpi::attempt([&] { read(run_.stages[0]); });
    EXPECT_EQ(outcome.code, ExitCode::environment);
    EXPECT_FALSE(outcome.machine.empty());
    EXPECT_EQ(outcome.message.find("delete"), std::string::npos) << outcome.message;
  }
}

TEST_F(StageStateTest, SummaryHoldsScoresLossesAndSeconds) {
  StageState plain = full_state();
  plain.score.reset();
  write_done(run_.stages[0], full_state());
  write_done(run_.stages[1], plain);
  const RunSummary summary = summarize(run_);
  const auto json = nlohmann::json::parse(to_json(summary));
  EXPECT_EQ(json.at("metric"), "rouge_l");
  EXPECT_EQ(json.at("score"), 31.5);
  EXPECT_EQ(json.at("score_baseline"), 12.25);
  EXPECT_EQ(json.at("held_out").at("mlm").at("before"), 8.1);
  EXPECT_EQ(json.at("seconds").at("tok"), 12.5);
  const std::string table = format_table(summary);
  EXPECT_NE(table.find("8.1000"), std::string::npos) << table;
  EXPECT_NE(table.find("rouge_l 31.50 against 12.25"), std::string::npos) << table;
  EXPECT_NE(table.find("100 examples; 59 left out (malformed, or over 40 tokens)"),
            std::string::npos)
      << table;
  EXPECT_EQ(json.at("scores").at("tok").at("left_out"), 59);
  EXPECT_EQ(json.at("scores").at("tok").at("max_length"), 40);
}

TEST(Samples, AreShortenedAtCharacters) {
  const test::TemporaryFolder folder;
  const fs::path file = folder.path() / "samples.jsonl";
  const std::string long_prompt(299, 'x');
  const nlohmann::json sample{
      {"prompt", long_prompt + "\u00e9\u00e9"}, {"reference", "r"}, {"output", "o"}};
  atomic_write(file, sample.dump() + "\n" + sample.dump() + "\n");
  const std::string text = format_samples(file, 1);
  EXPECT_NE(text.find(long_prompt + "..."), std::string::npos) << text;
  EXPECT_EQ(text.find("prompt"), text.rfind("prompt"));
}

TEST(Samples, DamageIsNamed) {
  const test::TemporaryFolder folder;
  const fs::path file = folder.path() / "samples.jsonl";
  for (const char* content : {"garbage\n", "{}\n", "{\"prompt\": 1}\n"}) {
    atomic_write(file, content);
    try {
      format_samples(file, 3);
      FAIL() << content;
    } catch (const DataError& error) {
      EXPECT_NE(std::string(error.what()).find("samples.jsonl: damaged"), std::string::npos);
    }
  }
}

TEST_F(StageStateTest, ForgettingAPrepareStageDeletesItsProductInTheRunFolder) {
  const test::TemporaryFolder elsewhere;
  for (const fs::path& product : {folder_ / "raw.txt", elsewhere.path() / "given.txt"}) {
    const StageConfig text{"text", PrepareStage{{"true"}, product}, folder_ / "text", "h", {}};
    atomic_write(product, "text");
    write_done(text, full_state());
    forget(run_, text);
    EXPECT_FALSE(fs::exists(text.folder));
  }
  EXPECT_FALSE(fs::exists(folder_ / "raw.txt"));
  EXPECT_TRUE(fs::exists(elsewhere.path() / "given.txt"));
}

TEST_F(StageStateTest, ForgettingACorpusStageDeletesWhatItBuilt) {
  const StageConfig stage{"corpus", CorpusStage{}, folder_ / "corpus", "h", {}};
  run_.corpora.resize(2);
  run_.corpora[0].build.output = folder_ / "made";
  run_.corpora[0].built = true;
  run_.corpora[1].build.output = folder_ / "given";
  for (const fs::path& path : {stage.folder, folder_ / "made", folder_ / "given"})
    fs::create_directories(path);
  forget(run_, stage);
  EXPECT_FALSE(fs::exists(stage.folder));
  EXPECT_FALSE(fs::exists(folder_ / "made"));
  EXPECT_TRUE(fs::exists(folder_ / "given"));
}

}  // namespace
}  // namespace demist
