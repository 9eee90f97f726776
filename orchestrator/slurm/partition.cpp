// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/slurm/partition.hpp"

#include <algorithm>
#include <optional>
#include <sstream>

#include "core/log.hpp"
#include "orchestrator/nearest.hpp"
#include "orchestrator/process.hpp"
#include "orchestrator/slurm/allocation.hpp"

namespace demist::slurm {
namespace {

// Nothing: no answer.
std::optional<std::string> answer_of(const std::vector<std::string>& query) {
  constexpr double patience = 60;  // seconds
  const Captured said = capture_process({query, {}}, patience);
  if (said.code != 0 || said.output.empty()) return std::nullopt;
  return said.output;
}

std::string last_value(const Profile& profile, const std::string& name, const std::string& letter) {
  std::string last;
  for (const std::string& option : profile.sbatch)
    if (const auto value = value_of(option, name, letter)) last = *value;
  return last;
}

// Nothing: that cannot be told from here.
std::optional<std::set<std::string>> nodes_for(const Profile& profile) {
  if (!last_value(profile, "--clusters", "-M").empty()) return std::nullopt;
  const auto lines = answer_of({"sinfo", "-h", "-N", "-o", "%P %N %T"});
  if (!lines) return std::nullopt;
  std::set<std::string> working = working_nodes(*lines, last_value(profile, "--partition", "-p"));
  for (const std::string& list : never_on(profile)) {
    std::istringstream names(answer_of({"scontrol", "show", "hostnames", list}).value_or(""));
    for (std::string name; names >> name;) working.erase(name);
  }
  return working;
}

}  // namespace

std::set<std::string> working_nodes(const std::string& lines, const std::string& partitions) {
  std::set<std::string> working;
  std::istringstream in(lines);
  for (std::string partition, name, state; in >> partition >> name >> state;) {
    const bool is_default = partition.ends_with('*');
    if (is_default) partition.pop_back();
    const bool wanted = partitions.empty() ? is_default
                                           : ("," + partitions + ",").find("," + partition + ",") !=
                                                 std::string::npos;
    if (wanted && is_usable(state)) working.insert(name);
  }
  return working;
}

std::vector<std::string> affordable(std::vector<std::string> bad,
                                    const std::set<std::string>& working, int least) {
  auto left = static_cast<std::ptrdiff_t>(working.size()) -
              std::ranges::count_if(bad, [&](const auto& node) { return working.contains(node); });
  for (auto node = bad.begin(); node != bad.end() && left < least;) {
    const bool helps = working.contains(*node);
    left += helps ? 1 : 0;
    node = helps ? bad.erase(node) : node + 1;
  }
  return bad;
}

std::vector<std::string> nodes_to_avoid(const Profile& profile, const std::vector<std::string>& bad,
                                        int least) {
  if (bad.empty()) return bad;
  const auto working = nodes_for(profile);
  if (!working) return bad;
  const std::vector<std::string> avoid = affordable(bad, *working, least);
  std::vector<std::string> again;
  std::ranges::copy_if(bad, std::back_inserter(again), [&](const std::string& node) {
    return std::ranges::find(avoid, node) == avoid.end();
  });
  const std::string needs = "the job needs " + std::to_string(least) + " nodes";
  if (!again.empty())
    log::warning(needs + ", and too few others work: of those in bad-nodes, " + join(again, ", ") +
                 (again.size() == 1 ? " has" : " have") + " another chance");
  if (static_cast<int>(working->size()) < least)
    log::warning(needs + ", and only " + std::to_string(working->size()) +
                 " of its partition work now; it waits until others do");
  return avoid;
}

}  // namespace demist::slurm
