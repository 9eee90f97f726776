// What the ranks of `demist doctor` measured, and which of them are slow or broken. Pure.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

namespace demist::doctor {

// One rank's part. Checks are named alike on all ranks.
struct RankFindings {
  int rank = 0;
  std::string host;
  std::map<std::string, std::string> facts;     // check -> what it found, for people
  std::map<std::string, double> values;         // check -> number, compared between ranks
  std::map<std::string, std::string> problems;  // check -> what is broken, and what to do
};
std::string to_json(const RankFindings& findings);
RankFindings findings_from_json(const std::string& text);

// How a check's numbers are compared.
struct Measure {
  const char* check;
  const char* unit;
  double scale;       // number in `unit` = value * scale
  double slow_below;  // of the median: slower nodes are named
};
const std::vector<Measure>& measures();

enum class Level { ok, slow, broken };
struct Line {
  Level level = Level::ok;
  std::string check, text;
};
// One line a check in the order of the first rank's, slow and broken nodes named.
std::vector<Line> diagnose(const std::vector<RankFindings>& ranks);
// "ok      products    0.9 to 1.0 TFLOP/s a rank"
std::string format(const std::vector<Line>& lines);
bool is_broken(const std::vector<Line>& lines);

}  // namespace demist::doctor
