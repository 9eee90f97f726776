// SPDX-License-Identifier: Apache-2.0
#include "data/task_rows.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/error.hpp"

namespace demist::data {
namespace {

NextLine lines(std::vector<std::string> text) {
  return [text = std::move(text), at = std::size_t{0}](std::string& line) mutable {
    if (at == text.size()) return false;
    line = text[at++];
    return true;
  };
}

TaskFile tsv() {
  TaskFile file;
  file.path = "pairs.tsv";
  return file;
}

// One id a character.
std::vector<std::int32_t> spell(std::string_view text) {
  return std::vector<std::int32_t>(text.begin(), text.end());
}

std::string message(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

using Strings = std::vector<std::string>;

TEST(TaskRows, TsvColumnsAndSplit) {
  TaskFile file = tsv();
  file.prompt_field = "2";
  file.response_field = "0";
  file.split_field = "3";
  const auto next = lines({"a\tx\tb\ttrain", "c\tx\td\ttest", "e\tx\tf\ttrain\r", ""});
  const TaskRows rows = parse_task_rows(file, "train", next);
  EXPECT_EQ(rows.prompts, (Strings{"b", "f"}));
  EXPECT_EQ(rows.responses, (Strings{"a", "e"}));
  EXPECT_EQ(rows.malformed, 0u);
}

TEST(TaskRows, JsonlFields) {
  TaskFile file = tsv();
  file.prompt_field = "inputs";
  file.response_field = "targets";
  const TaskRows rows =
      parse_task_rows(file, "", lines({R"({"inputs": "a\tb", "targets": "c\nd", "more": 1})"}));
  EXPECT_EQ(rows.prompts, (Strings{"a\tb"}));
  EXPECT_EQ(rows.responses, (Strings{"c\nd"}));
}

TEST(TaskRows, MalformedRowsAreCountedUpToTheLimit) {
  TaskFile file = tsv();
  file.max_invalid_fraction = 0.5;
  const auto bad = [] {
    return lines(
        {"a\tb", "only one", "\xff\tb", "\tno prompt", "no response\t", "c\td", "e\tf", "g\th"});
  };
  const TaskRows rows = parse_task_rows(file, "", bad());
  EXPECT_EQ(rows.prompts, (Strings{"a", "c", "e", "g"}));
  EXPECT_EQ(rows.malformed, 4u);
  file.max_invalid_fraction = 0.4;
  const std::string text = message([&] { parse_task_rows(file, "", bad()); });
  EXPECT_NE(text.find("pairs.tsv:2: it has 1 columns"), std::string::npos) << text;
  EXPECT_NE(text.find("4 of 8 rows"), std::string::npos) << text;
}

TEST(TaskRows, MalformedJsonIsNamed) {
  TaskFile file = tsv();
  file.prompt_field = "p";
  file.response_field = "r";
  for (const auto& [line, reason] : {std::pair{"{\"p\": ", "not a JSON object"},
                                     {"[1]", "not a JSON object"},
                                     {R"({"p": "a"})", "no text field 'r'"},
                                     {R"({"p": "a", "r": 3})", "no text field 'r'"}}) {
    const std::string text = message([&] { parse_task_rows(file, "", lines({line})); });
    EXPECT_NE(text.find(std::string("pairs.tsv:1: ")), std::string::npos) << text;
    EXPECT_NE(text.find(reason), std::string::npos) << text;
  }
}

TEST(TaskRows, SettingsThatCannotWorkAreRefused) {
  TaskFile file = tsv();
  file.prompt_template = "no place";
  EXPECT_THROW(parse_task_rows(file, "", lines({"a\tb"})), ConfigError);
  file = tsv();
  file.split_field = "split";
  EXPECT_THROW(parse_task_rows(file, "train", lines({"a\tb"})), ConfigError);
}

TEST(TaskRows, WithoutPairsItIsForTheCallerToRefuse) {
  TaskFile file = tsv();
  file.split_field = "2";
  const TaskRows none = parse_task_rows(file, "valid", lines({"a\tb\ttrain"}));
  EXPECT_TRUE(none.prompts.empty());
  const Task task = encode_task_rows(none, file, spell, 20, 0);
  const std::string text = message([&] { require_pairs(task, file, "valid", 20); });
  EXPECT_NE(text.find("no pair with 'valid' in split_field '2' of at most 20 tokens"),
            std::string::npos)
      << text;
  EXPECT_TRUE(parse_task_rows(tsv(), "", lines({})).prompts.empty());
}

TEST(TaskRows, TemplateWrapsThePromptButNotTheRawText) {
  TaskFile file = tsv();
  file.prompt_template = "<{prompt}|{prompt}>";
  const Task task = encode_task_rows({{"ab"}, {"cd"}, 0}, file, spell, 20, 0);
  EXPECT_EQ(task.examples[0].prompt, spell("<ab|ab>"));
  EXPECT_EQ(task.examples[0].response, spell("cd"));
  EXPECT_EQ(task.prompts, (Strings{"ab"}));
  EXPECT_EQ(task.references, (Strings{"cd"}));
}

TEST(TaskRows, PairsAboveTheLengthAreLeftOut) {
  const TaskRows rows{{"aa", "aaa", "a"}, {"bb", "bb", "b"}, 1};
  const Task task = encode_task_rows(rows, tsv(), spell, 6, 0);  // 2 + 2 + <s> + </s> fits
  EXPECT_EQ(task.prompts, (Strings{"aa", "a"}));
  EXPECT_EQ(task.examples.size(), 2u);
  EXPECT_EQ(task.skipped, 2u);
  const Task none = encode_task_rows(rows, tsv(), spell, 3, 0);
  EXPECT_EQ(none.skipped, 4u);
  EXPECT_NE(message([&] { require_pairs(none, tsv(), "", 3); }).find("max_length"),
            std::string::npos);
}

TEST(TaskRows, TheLimitKeepsAShuffledChoiceInFileOrder) {
  TaskRows rows;
  for (int i = 0; i < 100; ++i) {
    rows.prompts.push_back(std::string(i % 10 == 0 ? 50 : 1, static_cast<char>('0' + i % 64)));
    rows.responses.push_back(std::to_string(100 + i));
  }
  const auto kept = [&](std::uint64_t limit) {
    return encode_task_rows(rows, tsv(), spell, 20, limit).references;
  };
  const Strings ten = kept(10), thirty = kept(30);
  EXPECT_EQ(ten.size(), 10u);
  EXPECT_TRUE(std::is_sorted(ten.begin(), ten.end()));
  EXPECT_GT(ten.back(), "130");  // not just the head of the file
  EXPECT_TRUE(std::includes(thirty.begin(), thirty.end(), ten.begin(), ten.end()));
  EXPECT_EQ(kept(10), ten);
  EXPECT_EQ(kept(1000).size(), 90u);  // every row that fits
  EXPECT_EQ(kept(90), kept(0));
}

}  // namespace
}  // namespace demist::data
