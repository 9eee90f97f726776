// Task files as rows of text, and rows as ids: the two halves of read_task.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "data/source.hpp"

namespace demist::data {

// Whether a task's column is a number, so of a TSV file, or a name, so of a JSONL file.
bool is_column_number(const std::string& field);

// The usable rows of one split.
struct TaskRows {
  std::vector<std::string> prompts, responses;
  std::uint64_t malformed = 0;
};
using NextLine = std::function<bool(std::string& line)>;  // false at the end
// Throws DataError when too many rows are malformed or none is left, ConfigError on settings that
// no file could satisfy.
TaskRows parse_task_rows(const TaskFile& file, const std::string& split, const NextLine& next_line);

using Encoder = std::function<std::vector<std::int32_t>(std::string_view text)>;  // thread-safe
// Keeps rows of at most max_length tokens, `limit` of them if it is positive: see read_task.
Task encode_task_rows(TaskRows rows, const TaskFile& file, const Encoder& encode,
                      std::int32_t max_length, std::uint64_t limit);

}  // namespace demist::data
