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
  std::map<std::string, std::string> versions;  // library -> version, or "not known"
  std::map<std::string, std::string> problems;  // check -> what is broken, and what to do
};
std::string to_json(const RankFindings& findings);
RankFindings findings_from_json(const std::string& text);

// How a check's numbers are compared.
struct Measure {
  const char* check;
  const char* unit;
  double scale;       // number in `unit` = value * scale
  double slow_below;  // of the median: slower nodes are named; 0: none, all wait for the slowest
};
const std::vector<Measure>& measures();

enum class Level { ok, differs, slow, broken };
struct Line {
  Level level = Level::ok;
  std::string check, text;
};
// Facts and what is broken by the checks' names, then versions, then numbers; nodes that differ,
// are slow or broken are named.
std::vector<Line> diagnose(const std::vector<RankFindings>& ranks);
// "ok      products    0.9 to 1.0 TFLOP/s a rank"
std::string format(const std::vector<Line>& lines);
bool is_broken(const std::vector<Line>& lines);

}  // namespace demist::doctor
