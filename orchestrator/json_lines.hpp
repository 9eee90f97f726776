// Lines of metrics.jsonl and events.jsonl, whatever has become of them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

namespace demist {

// json::value() for whole numbers: one that T cannot hold, or with a fraction, is as good as none.
template <class T>
T whole_number(const nlohmann::json& line, const char* name, T otherwise) {
  const auto field = line.find(name);
  if (field == line.end() || field->is_number_float()) return otherwise;
  if (field->is_number_unsigned()) {
    const auto value = field->template get<std::uint64_t>();
    return std::in_range<T>(value) ? static_cast<T>(value) : otherwise;
  }
  const auto value = field->template get<std::int64_t>();  // throws: a word
  return std::in_range<T>(value) ? static_cast<T>(value) : otherwise;
}

// Calls visit(object) for each line that is a JSON object; where that asks for a field and finds
// one of another kind, the rest of the line is passed over.
template <class Visitor>
void each_object(std::string_view lines, const Visitor& visit) {
  while (!lines.empty()) {
    const std::size_t end = std::min(lines.find('\n'), lines.size());
    const auto line = nlohmann::json::parse(lines.substr(0, end), nullptr, false);
    lines.remove_prefix(std::min(end + 1, lines.size()));
    if (!line.is_object()) continue;
    try {
      visit(line);
    } catch (const nlohmann::json::exception&) {
      continue;
    }
  }
}

}  // namespace demist
