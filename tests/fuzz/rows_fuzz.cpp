// Rows of a task file. The first byte chooses its kind and settings; the rest is the file.
// SPDX-License-Identifier: Apache-2.0
#include "data/reader.hpp"
#include "data/task_rows.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace demist;
using namespace demist::data;

namespace {

TaskRows rows_of(const std::string& text, const TaskFile& file) {
  const fuzz::ScratchFile stored(text);
  LineReader reader(stored.path());
  return parse_task_rows(file, "train", [&](std::string& line) { return reader.next(line); });
}

// One id a byte.
std::vector<std::int32_t> spell(std::string_view text) {
  return std::vector<std::int32_t>(text.begin(), text.end());
}

std::string json_text(const std::string& text) {
  std::string quoted;
  for (const char c : text) {
    char escaped[8];
    std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned char>(c));
    const bool plain = static_cast<unsigned char>(c) >= 0x20 && c != '"' && c != '\\';
    quoted += plain ? std::string(1, c) : escaped;
  }
  return '"' + quoted + '"';
}

void use(const TaskRows& rows, const TaskFile& file) {
  fuzz::expect(rows.prompts.size() == rows.responses.size(), "a response for every prompt");
  TaskFile json;
  json.prompt_field = "prompt";
  json.response_field = "response";
  std::string text;
  for (std::size_t i = 0; i < rows.prompts.size(); ++i)
    text += R"({"prompt":)" + json_text(rows.prompts[i]) + R"(,"response":)" +
            json_text(rows.responses[i]) + "}\n";
  const TaskRows again = rows_of(text, json);
  fuzz::expect(again.prompts == rows.prompts && again.responses == rows.responses,
               "rows are read as written");

  constexpr std::int32_t max_length = 64;
  const Task task = encode_task_rows(rows, file, spell, max_length, 0);
  fuzz::expect(task.examples.size() + task.skipped == rows.prompts.size() + rows.malformed,
               "a row is used or counted");
  for (const TaskExample& example : task.examples)
    fuzz::expect(example.prompt.size() + example.response.size() + 2 <= max_length,
                 "a pair fits max_length");
  const Task limited = encode_task_rows(rows, file, spell, max_length, 3);
  fuzz::expect(limited.examples.size() == std::min<std::size_t>(3, task.examples.size()),
               "a limit is kept, and reached if there are pairs");
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  const auto settings = input.number<std::uint8_t>();
  TaskFile file;
  file.path = "rows";
  const bool json = (settings & 1) != 0;
  if (json) file.prompt_field = "inputs", file.response_field = "targets";
  if ((settings & 2) != 0) file.split_field = json ? "split" : "2";
  if ((settings & 4) != 0) file.max_invalid_fraction = 0.5;
  if ((settings & 8) != 0) file.prompt_template = "{prompt} = {prompt}?";
  fuzz::accepts<DataError>([&] { use(rows_of(input.rest(), file), file); });
  return 0;
}
