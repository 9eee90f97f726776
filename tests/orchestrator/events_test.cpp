// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/events.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "core/file.hpp"
#include "orchestrator/stage_state.hpp"
#include "tests/support/file_size_limit.hpp"
#include "tests/support/temporary_folder.hpp"

namespace demist {
namespace {

TEST(Events, LinesOfSeveralWritersStayWhole) {
  const test::TemporaryFolder folder;
  constexpr int kWriters = 4, kLines = 50;
  std::vector<std::jthread> writers;
  for (int writer = 0; writer < kWriters; ++writer)
    writers.emplace_back([&folder, writer] {
      for (int line = 0; line < kLines; ++line)
        append_event(folder.path(), "tick", {{"writer", writer}, {"line", line}});
    });
  writers.clear();
  std::istringstream lines(read_file(folder.path() / kEventFile));
  std::vector<int> next(kWriters, 0);
  for (std::string text; std::getline(lines, text);) {
    if (text.empty()) continue;  // a writer met another one's line before all of it was there
    const auto json = nlohmann::json::parse(text);
    EXPECT_EQ(json.at("event"), "tick");
    EXPECT_NEAR(json.at("time").get<double>(), unix_seconds(), 60);
    EXPECT_EQ(json.at("line").get<int>(), next[json.at("writer").get<std::size_t>()]++);
  }
  EXPECT_EQ(next, std::vector<int>(kWriters, kLines));
}

// A file-size limit stands for the full disk: it cuts the second line.
TEST(Events, ALineDoesNotContinueWhatAFullDiskLeft) {
  const test::TemporaryFolder folder;
  const fs::path path = folder.path() / kEventFile;
  append_event(folder.path(), "first", {});
  const std::size_t whole = read_file(path).size();
  {
    const test::FileSizeLimit limit(whole + 10);
    append_event(folder.path(), "second", {});
    append_event(folder.path(), "third", {});
  }
  EXPECT_EQ(read_file(path).size(), whole + 10);
  append_event(folder.path(), "fourth", {});
  append_event(folder.path(), "fifth", {});
  std::istringstream lines(read_file(path));
  std::vector<std::string> names;
  for (std::string text; std::getline(lines, text);) {
    const auto json = nlohmann::json::parse(text, nullptr, false);
    names.push_back(json.is_discarded() ? "?" : json.at("event"));
  }
  EXPECT_EQ(names, (std::vector<std::string>{"first", "?", "fourth", "fifth"}));
}

TEST(Events, WordsThatAreNoUtf8AreAnEventAllTheSame) {
  const test::TemporaryFolder folder;
  append_event(folder.path(), "run_end", {{"problem", "there is no /tmp/\xff"}});
  const auto json = nlohmann::json::parse(read_file(folder.path() / kEventFile));
  EXPECT_TRUE(json.at("problem").get<std::string>().starts_with("there is no /tmp/"));
}

TEST(Events, AFolderThatCannotBeWrittenIsNoError) {
  EXPECT_NO_THROW(append_event("/proc/no-such-folder", "start", {}));
}

}  // namespace
}  // namespace demist
