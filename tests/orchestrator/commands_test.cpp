// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "core/error.hpp"
#include "orchestrator/cli.hpp"

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
}

TEST(Commands, DryRunChecksAndPrints) {
  const std::string configs = std::string(DEMIST_SOURCE_DIR) + "/configs/";
  for (const char* name : {"tiny", "quickstart", "xlmr_xxl"})
    EXPECT_EQ(code_of({"run", configs + name + ".textproto", "--dry-run"}), ExitCode::done) << name;
  EXPECT_EQ(code_of({"run", configs + "tiny.textproto", "--dry-run", "--set", "model.heads=7"}),
            ExitCode::usage);
  EXPECT_EQ(code_of({"run", configs + "tiny.textproto", "--dry-run", "--ranks", "0"}),
            ExitCode::usage);
}

TEST(Commands, TrainNeedsAStageOfTheRecipe) {
  const std::string tiny = std::string(DEMIST_SOURCE_DIR) + "/configs/tiny.textproto";
  std::string message;
  EXPECT_EQ(code_of({"train", tiny}, &message), ExitCode::usage);
  EXPECT_NE(message.find("pretrain"), std::string::npos) << message;
  EXPECT_EQ(code_of({"train", tiny, "--stage", "pretrian"}), ExitCode::usage);
}

}  // namespace
}  // namespace demist
