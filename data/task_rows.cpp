// SPDX-License-Identifier: Apache-2.0
#include "data/task_rows.hpp"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "core/error.hpp"
#include "core/parallel_for.hpp"
#include "core/philox.hpp"
#include "data/permutation.hpp"
#include "data/reader.hpp"

namespace demist::data {
namespace {

constexpr std::string_view kPlaceholder = "{prompt}";

std::optional<std::size_t> column_number(const std::string& field) {
  std::size_t column = 0;
  const char* end = field.data() + field.size();
  const auto [stop, error] = std::from_chars(field.data(), end, column);
  if (field.empty() || error != std::errc() || stop != end) return std::nullopt;
  return column;
}

struct Row {
  std::string prompt, response, split;
};

// A row, or why it is malformed.
struct Parsed {
  Row row;
  std::string fault;
};

// Reads the wanted columns or fields of one line.
class RowParser {
 public:
  explicit RowParser(const TaskFile& file) : fields_{file.prompt_field, file.response_field} {
    if (!file.split_field.empty()) fields_.push_back(file.split_field);
    for (const std::string& field : fields_)
      if (const auto column = column_number(field)) columns_.push_back(*column);
    if (!columns_.empty() && columns_.size() != fields_.size())
      throw ConfigError(file.path.string() +
                        ": prompt_field, response_field and split_field mix column numbers (TSV) "
                        "with names (JSONL); use one kind");
  }

  Parsed operator()(std::string_view line) const {
    Parsed parsed;
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (!is_valid_utf8(line)) return {{}, "it is not valid UTF-8"};
    std::vector<std::string> values;
    parsed.fault = columns_.empty() ? read_json(line, values) : read_columns(line, values);
    if (!parsed.fault.empty()) return parsed;
    parsed.row.prompt = std::move(values[0]);
    parsed.row.response = std::move(values[1]);
    if (values.size() > 2) parsed.row.split = std::move(values[2]);
    if (parsed.row.prompt.empty()) parsed.fault = "its prompt is empty";
    if (parsed.row.response.empty()) parsed.fault = "its response is empty";
    return parsed;
  }

 private:
  std::string read_columns(std::string_view line, std::vector<std::string>& values) const {
    std::vector<std::string_view> cells;
    for (std::size_t begin = 0; begin <= line.size();) {
      const std::size_t end = std::min(line.find('\t', begin), line.size());
      cells.push_back(line.substr(begin, end - begin));
      begin = end + 1;
    }
    for (const std::size_t column : columns_) {
      if (column >= cells.size())
        return "it has " + std::to_string(cells.size()) + " columns, column " +
               std::to_string(column) + " (from 0) is wanted as its " + kRoles[values.size()];
      values.emplace_back(cells[column]);
    }
    return {};
  }

  std::string read_json(std::string_view line, std::vector<std::string>& values) const {
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) return "it is not a JSON object";
    for (const std::string& field : fields_) {
      const auto value = json.find(field);
      if (value == json.end() || !value->is_string())
        return "it has no text field '" + field + "', which is wanted as its " +
               kRoles[values.size()];
      values.push_back(value->get<std::string>());
    }
    return {};
  }

  static constexpr const char* kRoles[] = {"prompt", "response", "split_field"};  // of fields_
  std::vector<std::string> fields_;
  std::vector<std::size_t> columns_;  // of fields_, when they are numbers
};

// " with 'train' in split_field '2'"; "" where there are no splits.
std::string of_split(const TaskFile& file, const std::string& split) {
  if (file.split_field.empty()) return "";
  return " with '" + split + "' in split_field '" + file.split_field + "'";
}

TaskRows read_rows(const TaskFile& file, const std::string& split) {
  LineReader reader(file.path);
  return parse_task_rows(file, split, [&](std::string& line) { return reader.next(line); });
}

std::string fill_template(const std::string& pattern, std::string_view prompt) {
  std::string text;
  std::size_t done = 0;
  for (std::size_t at; (at = pattern.find(kPlaceholder, done)) != std::string::npos;) {
    text.append(pattern, done, at - done).append(prompt);
    done = at + kPlaceholder.size();
  }
  return text.append(pattern, done);
}

}  // namespace

bool is_column_number(const std::string& field) { return column_number(field).has_value(); }

TaskRows parse_task_rows(const TaskFile& file, const std::string& split,
                         const NextLine& next_line) {
  if (file.prompt_template.find(kPlaceholder) == std::string::npos)
    throw ConfigError("prompt_template '" + file.prompt_template + "' lacks {prompt}");
  const RowParser parse(file);
  TaskRows rows;
  std::uint64_t lines = 0;
  std::string first_fault;
  for (std::string line; next_line(line);) {
    ++lines;
    if (line.empty()) continue;  // often the last line
    Parsed parsed = parse(line);
    if (!parsed.fault.empty()) {
      if (rows.malformed++ == 0)
        first_fault = file.path.string() + ":" + std::to_string(lines) + ": " + parsed.fault;
      continue;
    }
    if (!file.split_field.empty() && parsed.row.split != split) continue;
    rows.prompts.push_back(std::move(parsed.row.prompt));
    rows.responses.push_back(std::move(parsed.row.response));
  }
  if (static_cast<double>(rows.malformed) > file.max_invalid_fraction * static_cast<double>(lines))
    throw DataError(first_fault + "; " + std::to_string(rows.malformed) + " of " +
                    std::to_string(lines) +
                    " rows are malformed; mend the file, or correct the names of its fields");
  return rows;
}

Task encode_task_rows(TaskRows rows, const TaskFile& file, const Encoder& encode,
                      std::int32_t max_length, std::uint64_t limit) {
  const std::uint64_t n = rows.prompts.size();
  const std::uint64_t wanted = limit > 0 ? std::min(limit, n) : n;
  // Without a limit the shuffle changes nothing: rows come back in file order.
  const Permutation shuffle(n, stream_id("task/limit"));
  std::vector<std::pair<std::uint64_t, TaskExample>> kept;
  Task task;
  task.skipped = rows.malformed;
  for (std::uint64_t done = 0; done < n && kept.size() < wanted;) {
    const std::uint64_t count = std::min(wanted - kept.size(), n - done);
    std::vector<std::pair<std::uint64_t, TaskExample>> encoded(count);
    parallel_for(static_cast<std::int64_t>(count), [&](std::int64_t i) {
      const std::uint64_t row = shuffle(done + static_cast<std::uint64_t>(i));
      encoded[static_cast<std::size_t>(i)] = {
          row,
          {encode(fill_template(file.prompt_template, rows.prompts[row])),
           encode(rows.responses[row])}};
    });
    for (auto& [row, example] : encoded) {
      // <s> and </s> are the two specials of a pair.
      if (example.prompt.size() + example.response.size() + 2 >
          static_cast<std::size_t>(max_length))
        ++task.skipped;
      else
        kept.emplace_back(row, std::move(example));
    }
    done += count;
  }
  std::sort(kept.begin(), kept.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  for (auto& [row, example] : kept) {
    task.examples.push_back(std::move(example));
    task.prompts.push_back(std::move(rows.prompts[row]));
    task.references.push_back(std::move(rows.responses[row]));
  }
  return task;
}

Task read_task(const TaskFile& file, const std::string& split, const Tokenizer& tokenizer,
               std::int32_t max_length, std::uint64_t limit) {
  TaskRows rows = read_rows(file, split);
  const auto encode = [&](std::string_view text) { return tokenizer.encode(text); };
  return encode_task_rows(std::move(rows), file, encode, max_length, limit);
}

void require_rows(const TaskFile& file, const std::string& split) {
  if (read_rows(file, split).prompts.empty())
    throw DataError(file.path.string() + ": no row" + of_split(file, split) +
                    "; check the split's name and split_field");
}

void require_pairs(const Task& task, const TaskFile& file, const std::string& split,
                   std::int32_t max_length) {
  if (!task.examples.empty()) return;
  throw DataError(file.path.string() + ": no pair" + of_split(file, split) + " of at most " +
                  std::to_string(max_length) +
                  " tokens; check the split's name, split_field and max_length");
}

}  // namespace demist::data
