// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/heartbeat.hpp"
#include "orchestrator/cli.hpp"
#include "orchestrator/exit_record.hpp"
#include "orchestrator/process.hpp"
#include "orchestrator/run_folder.hpp"
#include "orchestrator/stop_file.hpp"
#include "tests/support/temporary_folder.hpp"

namespace demist {
namespace {

ExitCode code_of(const cli::Arguments& arguments, std::string* message = nullptr) {
  try {
    testing::internal::CaptureStdout();
    const int code = cli::run(cli::find_command(arguments), arguments, mpi::Comm());
    testing::internal::GetCapturedStdout();
    return static_cast<ExitCode>(code);
  } catch (const Error& error) {
    testing::internal::GetCapturedStdout();
    if (message != nullptr) *message = error.what();
    return error.code();
  }
}

TEST(Commands, EveryCommandHasAHelpPage) {
  for (const cli::Command& command : cli::commands()) {
    EXPECT_EQ(code_of({command.name, "--help"}), ExitCode::done) << command.name;
    EXPECT_EQ(code_of({"help", command.name}), ExitCode::done) << command.name;
  }
  EXPECT_EQ(code_of({}), ExitCode::done);
  EXPECT_EQ(code_of({"--help"}), ExitCode::done);
  EXPECT_EQ(code_of({"--version"}), ExitCode::done);
}

TEST(Commands, UnknownCommandsSuggest) {
  std::string message;
  EXPECT_EQ(code_of({"trian"}, &message), ExitCode::usage);
  EXPECT_NE(message.find("did you mean 'train'?"), std::string::npos) << message;
  EXPECT_EQ(code_of({"corpus", "biuld"}, &message), ExitCode::usage);
  EXPECT_NE(message.find("did you mean 'build'?"), std::string::npos) << message;
}

TEST(Commands, BadUsageIsCodeTwo) {
  EXPECT_EQ(code_of({"run"}), ExitCode::usage);
  EXPECT_EQ(code_of({"run", "no_such_recipe"}), ExitCode::usage);
  EXPECT_EQ(code_of({"train", "tiny", "--sage", "x"}), ExitCode::usage);
  EXPECT_EQ(code_of({"corpus"}), ExitCode::usage);
  EXPECT_EQ(code_of({"corpus", "build", "x.txt"}), ExitCode::usage);
  EXPECT_EQ(code_of({"tokenizer", "train", "x.txt"}), ExitCode::usage);
  EXPECT_EQ(code_of({"inspect", "/no/such/path"}), ExitCode::usage);
  EXPECT_EQ(code_of({"generate", "m", "--steps", "0"}), ExitCode::usage);
  EXPECT_EQ(code_of({"doctor", ""}), ExitCode::usage);
  EXPECT_EQ(code_of({"doctor", "a", "b"}), ExitCode::usage);
  EXPECT_EQ(code_of({"doctor", "--slow-below", "0"}), ExitCode::usage);  // its limits are fixed
}

TEST(Commands, DoctorMakesNoFolder) {
  const test::TemporaryFolder folder;
  const fs::path mistyped = folder.path() / "scrtach";
  std::string message;
  EXPECT_EQ(code_of({"doctor", mistyped}, &message), ExitCode::usage);
  EXPECT_EQ(message.find(mistyped.string() + ": no such folder"), 0u) << message;
  EXPECT_FALSE(fs::exists(mistyped));
}

// Started by hand: nobody passes the request on.
TEST(Commands, AStageWithoutStepsEndsWhenItIsAskedTo) {
  const test::TemporaryFolder folder;
  const fs::path run = folder.path() / "run", recipe = folder.path() / "slow.textproto",
                 child = folder.path() / "child", heartbeats = folder.path() / "heartbeats";
  atomic_write(recipe,
               "name: 'slow'\nstages { name: 'text' kind: PREPARE command: 'sh' command: '-c'"
               " command: 'echo $$ > " +
                   child.string() + "; exec sleep 1000' product: '{run}/made.txt' }\n");
  const auto process = [&] {
    int id = 0;
    std::ifstream(child) >> id;
    return id;
  };
  const int code = run_process(
      {{DEMIST_BINARY, "train", recipe, "--stage", "text", "--set", "run_dir=" + run.string()},
       {{"DEMIST_HEARTBEATS", heartbeats.string()}}},
      [&](int) {
        if (process() > 0) atomic_write(run / kStopFile, "");
      });
  EXPECT_EQ(code, static_cast<int>(ExitCode::requeue));
  EXPECT_TRUE(fs::exists(heartbeats) && fs::is_empty(heartbeats));
  while (state_of(process()).letter != 'X' && state_of(process()).letter != 'Z') ::usleep(10000);
}

// Files of every kind, made by the commands themselves.
class CommandsOnFiles : public testing::Test {
 protected:
  CommandsOnFiles() {
    const std::string text = std::string(DEMIST_SOURCE_DIR) + "/configs/tiny/train.txt";
    EXPECT_EQ(code_of({"tokenizer", "train", text, "--output", model_, "--pieces", "64"}),
              ExitCode::done);
    EXPECT_EQ(code_of({"corpus", "build", text, "--tokenizer", model_, "--output", corpus_}),
              ExitCode::done);
    std::ofstream(text_) << "Some words.\n";
  }
  // The message of a command that must fail with `code`.
  static std::string refusal(const cli::Arguments& arguments, ExitCode code) {
    std::string message;
    EXPECT_EQ(code_of(arguments, &message), code) << message;
    return message;
  }
  static std::string output(const cli::Arguments& arguments) {
    testing::internal::CaptureStdout();
    EXPECT_EQ(cli::run(cli::find_command(arguments), arguments, mpi::Comm()), 0);
    return testing::internal::GetCapturedStdout();
  }

  const test::TemporaryFolder folder_;
  const std::string model_ = folder_.path() / "t.model", corpus_ = folder_.path() / "corpus",
                    text_ = folder_.path() / "notes.txt";
};

TEST_F(CommandsOnFiles, InspectKnowsEachKind) {
  EXPECT_NE(output({"inspect", model_}).find("66: 64 SentencePiece pieces"), std::string::npos);
  const std::string corpus = output({"inspect", corpus_, "--verify"});
  EXPECT_NE(corpus.find("verified"), std::string::npos) << corpus;
  EXPECT_NE(output({"inspect", corpus_ + "/corpus.json"}).find("input"), std::string::npos);
  EXPECT_NE(output({"inspect", corpus_ + "/shard-000000-0000.h5"}).find("range 0"),
            std::string::npos);
  EXPECT_NE(refusal({"inspect", text_}, ExitCode::data).find("neither a shard"), std::string::npos);
  EXPECT_NE(refusal({"inspect", folder_.path()}, ExitCode::usage).find("holds no checkpoint"),
            std::string::npos);
  for (const std::string& path : {corpus_, corpus_ + "/shard-000000-0000.h5", model_}) {
    EXPECT_NE(refusal({"inspect", path, "--hash"}, ExitCode::usage).find("is for checkpoints"),
              std::string::npos);
    refusal({"inspect", path, "--tensors"}, ExitCode::usage);
  }
  refusal({"inspect", model_, "--verify"}, ExitCode::usage);
}

TEST_F(CommandsOnFiles, WrongKindsOfFilesAreNamed) {
  const auto says = [](const std::string& message, const char* words) {
    EXPECT_NE(message.find(words), std::string::npos) << message;
  };
  says(refusal({"corpus", "verify", folder_.path()}, ExitCode::data), "holds no corpus");
  says(refusal({"corpus", "verify", text_}, ExitCode::data), "is a file");
  says(refusal({"corpus", "verify", "/no/such"}, ExitCode::data), "does not exist");
  says(refusal({"corpus", "show", corpus_, "--tokenizer", model_, "--documents", "-1"},
               ExitCode::usage),
       "at least 0");
  says(refusal({"tokenizer", "encode", folder_.path(), "x"}, ExitCode::data), "is a folder");
  says(refusal({"tokenizer", "train", text_, "--output", "/no/such/x"}, ExitCode::usage),
       "existing folder");
  says(refusal({"tokenizer", "train", "/dev/null", "--output", text_ + "2"}, ExitCode::usage),
       "/dev/null: a tokenizer reads its text twice");
  says(refusal({"tokenizer", "train", text_, "--output", text_ + "2", "--pieces", "9999"},
               ExitCode::data),
       "lines: Vocabulary size too high");
  says(refusal({"tokenizer", "train", text_, "--output", text_ + "2", "--coverage", "5"},
               ExitCode::usage),
       "at most 1");
  says(refusal({"generate", text_, "x"}, ExitCode::usage), "a model is a folder");
  says(refusal({"generate", folder_.path(), "x", "--length", "4294967297"}, ExitCode::usage),
       "--length 4294967297");
  says(refusal({"evaluate", folder_.path()}, ExitCode::usage), "TASK is missing");
  says(refusal({"run", folder_.path()}, ExitCode::usage), "is a folder");
}

TEST_F(CommandsOnFiles, OptionsWithoutAnEffectAreRefused) {
  const auto says = [](const std::string& message, const char* words) {
    EXPECT_NE(message.find(words), std::string::npos) << message;
  };
  says(refusal({"evaluate", folder_.path(), text_, "--split", "valid"}, ExitCode::usage),
       "needs --split-field");
  says(refusal({"corpus", "build", text_, "--tokenizer", model_, "--output", corpus_ + "2",
                "--json-field", "body"},
               ExitCode::usage),
       "no meaning for text");
  says(refusal({"corpus", "show", corpus_, "--documents", "2"}, ExitCode::usage),
       "needs --tokenizer");
  const std::string tiny = std::string(DEMIST_SOURCE_DIR) + "/configs/tiny.textproto";
  says(refusal({"inspect", model_, "--vocab", "9"}, ExitCode::usage), "--vocab needs --memory");
  says(refusal({"inspect", model_, "--set", "seed=2"}, ExitCode::usage), "--set needs --memory");
  for (const char* flag : {"--hash", "--tensors", "--verify"})
    says(refusal({"inspect", tiny, "--memory", flag}, ExitCode::usage), "--memory asks");
  says(refusal({"tokenizer", "train", text_, "--output", ""}, ExitCode::usage),
       "--output is empty");
}

TEST_F(CommandsOnFiles, EveryIdIsDecodedOrRefused) {
  EXPECT_EQ(output({"tokenizer", "decode", model_, "5 6"}),
            output({"tokenizer", "decode", model_, " 5  6 "}));
  for (const char* list : {"5 99999999999999", "5 -1", "5 70", "99999999999999999999999"})
    EXPECT_NE(refusal({"tokenizer", "decode", model_, list}, ExitCode::data)
                  .find("outside the vocabulary of 66"),
              std::string::npos)
        << list;
  for (const char* list : {"5 x", "5,6", "5.0", "0x5"})
    EXPECT_NE(refusal({"tokenizer", "decode", model_, list}, ExitCode::data).find("is not an id"),
              std::string::npos)
        << list;
}

TEST_F(CommandsOnFiles, TextThatIsNotUtf8IsNotEncoded) {
  EXPECT_NE(refusal({"tokenizer", "encode", model_, "some words", "bad \xFF"}, ExitCode::data)
                .find("text 2 is not valid UTF-8; convert it"),
            std::string::npos);
  EXPECT_FALSE(output({"tokenizer", "encode", model_, "some words"}).empty());
}

TEST_F(CommandsOnFiles, ALongLanguageTagIsATag) {
  const std::string made = folder_.path() / "tagged";
  EXPECT_EQ(
      code_of({"corpus", "build", "zh-Hant-TW=" + text_, "--tokenizer", model_, "--output", made}),
      ExitCode::done);
  EXPECT_NE(output({"inspect", made}).find("zh-Hant-TW"), std::string::npos);
}

TEST_F(CommandsOnFiles, OutputThatIsLostIsAnError) {
  // /dev/full takes nothing. Only a process of its own may close its standard output.
  const std::string command =
      std::string(DEMIST_BINARY) + " inspect " + model_ + " > /dev/full 2>&1";
  const int status = std::system(command.c_str());
  EXPECT_EQ(WEXITSTATUS(status), static_cast<int>(ExitCode::environment));
}

TEST(Commands, HelpListsEveryExitCode) {
  testing::internal::CaptureStdout();
  EXPECT_EQ(cli::run(cli::find_command({"help"}), {"help"}, mpi::Comm()), 0);
  const std::string text = testing::internal::GetCapturedStdout();
  for (const char* code : {"\n5 ", " 75 ", "\n76 ", " 130 ", "\n128+n "})
    EXPECT_NE(text.find(code), std::string::npos) << code << text;
}

TEST(Commands, DryRunChecksAndPrints) {
  const std::string configs = std::string(DEMIST_SOURCE_DIR) + "/configs/";
  for (const char* name : {"tiny", "quickstart", "xlmr_xxl"})
    EXPECT_EQ(code_of({"run", configs + name + ".textproto", "--dry-run"}), ExitCode::done) << name;
  EXPECT_EQ(code_of({"run", configs + "tiny.textproto", "--dry-run", "--set", "model.heads=7"}),
            ExitCode::usage);
  for (const auto& [option, value] :
       {std::pair{"--launcher", "foo"}, {"--expect", "abc"}, {"--min-nodes", "3"}})
    EXPECT_EQ(code_of({"run", configs + "tiny.textproto", "--dry-run", option, value}),
              ExitCode::usage)
        << option;
  EXPECT_EQ(code_of({"run", configs + "tiny.textproto", "--dry-run", "--ranks", "0"}),
            ExitCode::usage);
}

TEST(Commands, ARecordIsTakenAsItIs) {
  const test::TemporaryFolder root;
  const RunConfig run = load_recipe(fs::path(DEMIST_SOURCE_DIR) / "configs/tiny.textproto",
                                    {"run_dir=" + root.path().string()});
  write_record(run);
  const std::string folder = root.path().string();
  EXPECT_EQ(code_of({"run", folder, "--recorded", "--expect", run.hash, "--dry-run"}),
            ExitCode::done);
  EXPECT_EQ(code_of({"run", folder, "--recorded", "--expect", "abc", "--dry-run"}),
            ExitCode::usage);
  EXPECT_EQ(code_of({"run", folder, "--recorded", "--dry-run", "--set", "seed=2"}),
            ExitCode::usage);
  EXPECT_EQ(code_of({"run", folder, "--recorded", "--dry-run", "--ranks", "2"}), ExitCode::done);
  const std::vector<std::string> train{"train", folder, "--stage", "corpus", "--record"};
  const auto with = [](std::vector<std::string> words, const std::string& word) {
    words.push_back(word);
    return words;
  };
  EXPECT_EQ(code_of(with(train, "abc")), ExitCode::usage) << "another run was started here";
  EXPECT_FALSE(fs::exists(root.path() / "ranks")) << "and may leave reasons of its own";
  fs::remove(root.path() / "recipe.textproto");
  fs::create_symlink("/proc/self/mem", root.path() / "recipe.textproto");  // EIO
  EXPECT_EQ(code_of(with(train, record_hash(run))), ExitCode::environment);
  EXPECT_TRUE(fs::exists(root.path() / "ranks/corpus.0.exit"));
  EXPECT_EQ(first_cause(root.path(), "corpus")->machine, node_name());
}

TEST(Commands, AFolderWhoseNameIsNoUtf8IsRefusedBeforeAnythingIsWritten) {
  const test::TemporaryFolder folder;
  const fs::path run = folder.path() / "\xff";
  const std::string recipe = std::string(DEMIST_SOURCE_DIR) + "/configs/tiny.textproto";
  for (const char* dry_run : {"--dry-run", ""}) {
    std::string message;
    cli::Arguments arguments{"run", recipe, "--set", "run_dir=" + run.string()};
    if (*dry_run != '\0') arguments.emplace_back(dry_run);
    EXPECT_EQ(code_of(arguments, &message), ExitCode::usage);
    EXPECT_NE(message.find("is no UTF-8"), std::string::npos) << message;
    EXPECT_FALSE(fs::exists(run));
  }
}

TEST(Commands, TrainNeedsAStageOfTheRecipe) {
  const std::string tiny = std::string(DEMIST_SOURCE_DIR) + "/configs/tiny.textproto";
  std::string message;
  EXPECT_EQ(code_of({"train", tiny}, &message), ExitCode::usage);
  EXPECT_NE(message.find("pretrain"), std::string::npos) << message;
  EXPECT_EQ(code_of({"train", tiny, "--stage", "pretrian"}, &message), ExitCode::usage);
  EXPECT_NE(message.find("did you mean 'pretrain'?"), std::string::npos) << message;
}

}  // namespace
}  // namespace demist
