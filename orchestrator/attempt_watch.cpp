// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/attempt_watch.hpp"

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <set>
#include <string_view>
#include <vector>

#include "core/log.hpp"
#include "orchestrator/exit_record.hpp"
#include "orchestrator/process.hpp"
#include "orchestrator/progress.hpp"

namespace demist {
namespace {

fs::path process_folder(int process) { return fs::path("/proc") / std::to_string(process); }

std::vector<int> children_of(int process) {
  std::vector<int> ids;
  std::ifstream children(process_folder(process) / "task" / std::to_string(process) / "children");
  for (int child = 0; children >> child;) ids.push_back(child);
  return ids;
}

std::vector<int> those_of_ours(std::vector<int> processes) {
  std::erase_if(processes, [](int process) { return program_of(process) != own_program(); });
  return processes;
}

// By a signal or a debugger, or in the kernel.
bool stands_still(int process) {
  return std::string_view("TtD").find(state_of(process).letter) != std::string_view::npos;
}
bool has_ended(int process) {
  return std::string_view("ZX").find(state_of(process).letter) != std::string_view::npos;
}

// As mpirun told it; 0 when nobody did.
int rank_of(int process) {
  const std::string name = "OMPI_COMM_WORLD_RANK=";
  std::ifstream environment(process_folder(process) / "environ");
  for (std::string variable; std::getline(environment, variable, '\0');)
    if (variable.starts_with(name)) return std::atoi(variable.c_str() + name.size());
  return 0;
}

}  // namespace

AttemptWatch::AttemptWatch(WatchedStage stage, const Patience& patience)
    : stage_(stage),
      patience_(patience),
      observer_(std::move(stage), patience),
      last_look_(steady_seconds()) {}

void AttemptWatch::look(int launcher) {
  const std::vector<int> children = children_of(launcher);
  std::vector<int> ranks = those_of_ours(children);
  if (program_of(launcher) == own_program())
    ranks.insert(ranks.begin(), launcher);
  else
    end_forsaken(launcher, children, !ranks.empty());
  if (over_) return;
  auto finding = observer_.look();
  if (finding && !observer_.claim(*finding)) return;
  if (!finding) finding = find_silent(std::move(ranks));
  if (!finding) return;
  over_ = true;
  record_finding(stage_, *finding);
  for (const auto& [name, reader] : observer_.ranks()) {
    const Pulse pulse = reader.read();
    if (pulse.alive) ::kill(pulse.process, SIGKILL);
  }
  if (finding->kind != Finding::Kind::died) ::kill(finding->pulse.process, SIGKILL);
}

Pulse AttemptWatch::last_pulse(int process) const {
  for (const auto& [name, reader] : observer_.ranks())
    if (Pulse pulse = reader.read(); pulse.process == process) return pulse;
  Pulse unknown;
  unknown.host = node_name();
  unknown.process = process;
  return unknown;
}

// Open MPI 4.1's mpirun may wait for itself for ever when a rank dies while it connects (a lock in
// PMIx's clean-up; seen once in 750 kills). On other machines ranks have a parent, and here mpirun
// has a child for each of these: then it is not alone.
void AttemptWatch::end_forsaken(int launcher, const std::vector<int>& children, bool has_ranks) {
  had_ranks_ = had_ranks_ || has_ranks;
  if (!had_ranks_ || !std::ranges::all_of(children, has_ended)) {
    forsaken_ = 0;
    return;
  }
  if (forsaken_ == 0) forsaken_ = steady_seconds();
  if (steady_seconds() - forsaken_ <= patience_.forsaken) return;
  log::warning("the launcher (process " + std::to_string(launcher) +
               ") does not end though all its ranks have; it is killed");
  ::kill(launcher, SIGKILL);
  had_ranks_ = false;  // said once
}

std::optional<Finding> AttemptWatch::find_silent(std::vector<int> ranks) {
  std::set<int> heard;
  for (const auto& [name, reader] : observer_.ranks()) heard.insert(reader.read().process);
  std::erase_if(ranks, [&](int process) { return heard.contains(process); });
  const double now = steady_seconds();
  waited_ = ranks.empty() ? 0 : waited_ + std::min(now - last_look_, kLongestLook);
  last_look_ = now;
  if (patience_.factor <= 0 || waited_ <= patience_.silent) return std::nullopt;
  Finding finding{Finding::Kind::process_stands_still, 0, {}, waited_, patience_.silent};
  // MPI starts them together, so one that stands still keeps all of them silent.
  const auto cause = std::find_if(ranks.begin(), ranks.end(), stands_still);
  finding.pulse.process = cause == ranks.end() ? ranks.front() : *cause;
  finding.pulse.rank = rank_of(finding.pulse.process);
  finding.pulse.host = node_name();
  return finding;
}

}  // namespace demist
