// SPDX-License-Identifier: Apache-2.0
#include "worker/evaluate/baseline.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "worker/evaluate/text.hpp"

namespace demist::evaluate {

std::string lead_words(std::string_view text, std::size_t words) {
  const auto all = split(text);
  std::string out;
  for (std::size_t i = 0; i < std::min(words, all.size()); ++i) {
    if (i > 0) out.push_back(' ');
    out.append(all[i]);
  }
  return out;
}

std::size_t count_words(std::string_view text) { return split(text).size(); }

std::string first_sentence(std::string_view text) {
  for (std::size_t at = 0; at < text.size(); ++at) {
    const bool stop = text[at] == '.' || text[at] == '!' || text[at] == '?';
    const std::size_t next = at + 1;
    if (stop && (next == text.size() || is_space(code_point_at(text, next).value)))
      return std::string(text.substr(0, next));
  }
  return std::string(text);
}

Baseline baseline_from_name(std::string_view name) {
  if (name == "copy") return Baseline::copy;
  if (name == "lead") return Baseline::lead;
  if (name == "first_sentence") return Baseline::first_sentence;
  throw ConfigError("no baseline \"" + std::string(name) +
                    "\"; choose copy, lead or first_sentence");
}

std::string baseline_response(Baseline baseline, std::string_view prompt,
                              std::string_view reference) {
  switch (baseline) {
    case Baseline::copy:
      return std::string(prompt);
    case Baseline::lead:
      return lead_words(prompt, count_words(reference));
    case Baseline::first_sentence:
      return first_sentence(prompt);
  }
  throw InternalError("unknown baseline");
}

}  // namespace demist::evaluate
