// A line of metrics.jsonl or events.jsonl, as far as goodput depends on it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace demist {

struct GoodputLine {
  enum class Event : std::uint8_t {
    none,  // one that changes nothing
    start,
    step,
    held_out,
    save,
    attempt,
    attempt_ended,
    submitted,
    job_start,
    run_start,
  };
  double time = 0;
  double seconds = 0, load_seconds = 0;  // that end at `time`
  std::int64_t step = 0;
  int code = 0;
  std::uint32_t stage = 0;  // its place among the names
  Event event = Event::none;
  bool counts = true;  // a step: it was applied and not done again
  bool again = false;
  bool operator==(const GoodputLine&) const = default;
};

// Those lines of many that goodput depends on.
class GoodputLines {
 public:
  // Whole lines; the last one may lack its end. What is no JSON object, or has a value of another
  // kind than it should, is passed over.
  void read(std::string_view text);
  const std::vector<GoodputLine>& lines() const { return lines_; }
  // The same and those of `text`, which are not kept.
  std::vector<GoodputLine> with(std::string_view text);
  void clear() { lines_.clear(); }

  // The two ways to read one line, alike in what they find: the first knows only what this program
  // writes (one object of plain strings, numbers and words without blanks) and gives up (empty) on
  // all else; the second knows all of JSON, and is some thirty times slower. Event::none: the line
  // is passed over.
  std::optional<GoodputLine> read_plain(std::string_view line);
  GoodputLine read_any(std::string_view line);

 private:
  std::uint32_t stage_of(std::string_view name);
  std::vector<std::string> stages_;
  std::vector<GoodputLine> lines_;
};

}  // namespace demist
