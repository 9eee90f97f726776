// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/doctor/findings.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>

#include "orchestrator/nearest.hpp"

namespace demist::doctor {
namespace {

using nlohmann::json;

std::string number(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.3g", value);
  return text.data();
}

// Hosts without repetition, at most a few.
std::string hosts(const std::vector<const RankFindings*>& ranks) {
  std::vector<std::string> names;
  for (const RankFindings* rank : ranks)
    if (std::find(names.begin(), names.end(), rank->host) == names.end())
      names.push_back(rank->host);
  constexpr std::size_t most = 8;
  const std::size_t hidden = names.size() > most ? names.size() - most : 0;
  names.resize(names.size() - hidden);
  return join(names, ", ") + (hidden > 0 ? " and " + std::to_string(hidden) + " more" : "");
}

// What is broken, told once for all nodes that say the same.
void add_problems(const std::string& check, const std::vector<RankFindings>& ranks,
                  std::vector<Line>& lines) {
  std::map<std::string, std::vector<const RankFindings*>> who;
  for (const RankFindings& rank : ranks)
    if (const auto problem = rank.problems.find(check); problem != rank.problems.end())
      who[problem->second].push_back(&rank);
  for (const auto& [problem, those] : who)
    lines.push_back({Level::broken, check, hosts(those) + ": " + problem});
}

void add_measure(const Measure& measure, const std::vector<RankFindings>& ranks,
                 std::vector<Line>& lines) {
  std::vector<double> values;
  for (const RankFindings& rank : ranks)
    if (const auto value = rank.values.find(measure.check); value != rank.values.end())
      values.push_back(value->second);
  if (values.empty()) return;
  std::sort(values.begin(), values.end());
  const double median = values[values.size() / 2];
  const auto shown = [&measure](double value) { return number(value * measure.scale); };
  std::string range = shown(values.front());
  if (values.size() > 1) range += " to " + shown(values.back());
  lines.push_back({Level::ok, measure.check, range + " " + measure.unit});
  std::vector<const RankFindings*> slow;
  for (const RankFindings& rank : ranks) {
    const auto value = rank.values.find(measure.check);
    if (value != rank.values.end() && value->second < measure.slow_below * median)
      slow.push_back(&rank);
  }
  if (!slow.empty())
    lines.push_back({Level::slow, measure.check,
                     hosts(slow) + ": less than " + number(100 * measure.slow_below) +
                         "% of the median " + shown(median) + " " + measure.unit});
}

// Facts, told once where all ranks agree.
void add_facts(const std::string& check, const std::vector<RankFindings>& ranks,
               std::vector<Line>& lines) {
  std::map<std::string, std::vector<const RankFindings*>> who;
  for (const RankFindings& rank : ranks)
    if (const auto fact = rank.facts.find(check); fact != rank.facts.end())
      who[fact->second].push_back(&rank);
  for (const auto& [fact, those] : who)
    lines.push_back({Level::ok, check, who.size() == 1 ? fact : hosts(those) + ": " + fact});
}

// "MPI: Open MPI v4.1.4, PMIx: not known", and a line of its own for each library of which nodes
// have several.
void add_versions(const std::vector<RankFindings>& ranks, std::vector<Line>& lines) {
  std::map<std::string, std::map<std::string, std::vector<const RankFindings*>>> who;
  for (const RankFindings& rank : ranks)
    for (const auto& [library, version] : rank.versions) who[library][version].push_back(&rank);
  std::vector<std::string> equal, differing;
  for (const auto& [library, versions] : who) {
    std::vector<std::string> told;
    for (const auto& [version, those] : versions)
      told.push_back(versions.size() == 1 ? version : version + " on " + hosts(those));
    (versions.size() == 1 ? equal : differing).push_back(library + ": " + join(told, "; "));
  }
  if (!equal.empty()) lines.push_back({Level::ok, "versions", join(equal, ", ")});
  for (const std::string& text : differing)
    lines.push_back({Level::differs, "versions", text + "; install the same on all nodes"});
}

}  // namespace

std::string to_json(const RankFindings& findings) {
  return json{{"rank", findings.rank},         {"host", findings.host},
              {"facts", findings.facts},       {"values", findings.values},
              {"versions", findings.versions}, {"problems", findings.problems}}
      .dump(-1, ' ', false, json::error_handler_t::replace);  // a folder may be no UTF-8
}

RankFindings findings_from_json(const std::string& text) {
  const json read = json::parse(text);
  return {read.at("rank"),   read.at("host"),     read.at("facts"),
          read.at("values"), read.at("versions"), read.at("problems")};
}

const std::vector<Measure>& measures() {
  static const std::vector<Measure> known = {
      {"products", "GFLOP/s a rank", 1e-9, 0.7},
      {"all-reduce", "MB/s (1 MiB, all ranks)", 1e-6, 0},
      {"link", "MB/s between the first node and another", 1e-6, 0.4},
      {"disk", "MB/s written and synced", 1e-6, 0.3},
  };
  return known;
}

std::vector<Line> diagnose(const std::vector<RankFindings>& ranks) {
  std::set<std::string> checks;
  for (const RankFindings& rank : ranks) {
    for (const auto& [check, fact] : rank.facts) checks.insert(check);
    for (const auto& [check, problem] : rank.problems) checks.insert(check);
  }
  std::vector<Line> lines;
  for (const std::string& check : checks) {
    add_facts(check, ranks, lines);
    add_problems(check, ranks, lines);
  }
  add_versions(ranks, lines);
  for (const Measure& measure : measures()) add_measure(measure, ranks, lines);
  return lines;
}

std::string format(const std::vector<Line>& lines) {
  static constexpr std::array names = {"ok", "DIFFERS", "SLOW", "BROKEN"};
  std::string text;
  for (const Line& line : lines) {
    std::array<char, 32> head{};
    std::snprintf(head.data(), head.size(), "%-7s %-12s ",
                  names[static_cast<std::size_t>(line.level)], line.check.c_str());
    text += head.data() + line.text + "\n";
  }
  return text;
}

bool is_broken(const std::vector<Line>& lines) {
  return std::any_of(lines.begin(), lines.end(),
                     [](const Line& line) { return line.level == Level::broken; });
}

}  // namespace demist::doctor
