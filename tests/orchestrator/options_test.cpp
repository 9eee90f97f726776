// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "core/error.hpp"
#include "orchestrator/cli.hpp"
#include "orchestrator/nearest.hpp"

namespace demist {
namespace {

using cli::Options;

struct Sample : Options {
  Sample() : Options("demist sample FILE [options]", "Does nothing.") {
    positional("FILE");
    flag("show", "show it");
    value("steps", "N", "how many");
    value("schedule", "NAME", "which");
    list("set", "PATH=VALUE", "override");
  }
};

std::string error_of(const cli::Arguments& arguments) {
  Sample options;
  try {
    options.parse(arguments);
    options.integer("steps", 1, 1);
    options.real("steps", 1, 0.5);
    options.choice("schedule", {"cosine", "linear"});
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    return error.what();
  }
  return "no error";
}

TEST(Options, ReadsEveryKind) {
  Sample options;
  EXPECT_TRUE(options.parse({"a.txt", "--steps", "5", "--set", "x=1", "--show", "--set=y=2"}));
  EXPECT_EQ(options.positionals(), (std::vector<std::string>{"a.txt"}));
  EXPECT_EQ(options.integer("steps", 1, 1), 5);
  EXPECT_TRUE(options.has("show"));
  EXPECT_EQ(options.all("set"), (std::vector<std::string>{"x=1", "y=2"}));
  EXPECT_EQ(options.choice("schedule", {"cosine", "linear"}), "cosine");
  EXPECT_EQ(options.get("schedule", "none"), "none");
}

TEST(Options, RefusesBadUsage) {
  EXPECT_NE(error_of({"a", "--stesp", "5"}).find("did you mean --steps?"), std::string::npos);
  EXPECT_NE(error_of({}).find("FILE is missing"), std::string::npos);
  EXPECT_NE(error_of({"a", "b"}).find("unexpected argument 'b'"), std::string::npos);
  EXPECT_NE(error_of({"a", "--steps", "five"}).find("whole number"), std::string::npos);
  EXPECT_NE(error_of({"a", "--steps", "0"}).find("at least 1"), std::string::npos);
  EXPECT_NE(error_of({"a", "--steps", "5x"}).find("whole number"), std::string::npos);
  EXPECT_NE(error_of({"a", "--steps"}).find("usage: demist sample"), std::string::npos);
  EXPECT_NE(error_of({"a", "--schedule", "cosin"}).find("did you mean 'cosine'"),
            std::string::npos);
  EXPECT_NE(error_of({"a", "--sho"}).find("--show"), std::string::npos);  // no abbreviations
  EXPECT_EQ(error_of({"a", "--steps", "3"}), "no error");
}

TEST(Options, CountsPositionalArguments) {
  const auto parse = [](const cli::Arguments& arguments, std::size_t least) {
    Options options("demist pair MODEL PROMPT...", "");
    options.positional("MODEL").rest("PROMPT", least);
    options.parse(arguments);
    return options.positionals().size();
  };
  EXPECT_EQ(parse({"m"}, 0), 1u);
  EXPECT_EQ(parse({"m", "a", "b"}, 1), 3u);
  try {
    parse({"m"}, 1);
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("PROMPT is missing"), std::string::npos);
  }
}

TEST(Options, NumbersStayInTheirType) {
  Sample options;
  options.parse({"a", "--steps", "4294967297"});
  EXPECT_THROW(options.integer("steps", 1, 1), ConfigError);
  EXPECT_EQ(options.integer<std::uint64_t>("steps", 1, 1), 4294967297u);
  EXPECT_THROW(options.real("steps", 0, 0, 1), ConfigError);
}

TEST(Options, HelpPageNamesEveryOption) {
  Sample options;
  testing::internal::CaptureStdout();
  EXPECT_FALSE(options.parse({"--help"}));
  const std::string page = testing::internal::GetCapturedStdout();
  for (const char* part : {"usage: demist sample FILE", "Does nothing.", "--steps N", "--show"})
    EXPECT_NE(page.find(part), std::string::npos) << part;
}

TEST(Nearest, ToleratesTypingErrors) {
  EXPECT_EQ(edit_distance("steps", "steps"), 0u);
  EXPECT_EQ(edit_distance("stpes", "steps"), 1u);
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
  const std::vector<std::string> known{"steps", "warmup_steps", "batch"};
  EXPECT_EQ(nearest("stpes", known), "steps");
  EXPECT_EQ(nearest("warmup", known), "warmup_steps");
  EXPECT_EQ(nearest("zebra", known), "");
}

}  // namespace
}  // namespace demist
