// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/attempt_watch.hpp"

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <set>
#include <vector>

#include "orchestrator/progress.hpp"

namespace demist {
namespace {

fs::path process_folder(int process) { return fs::path("/proc") / std::to_string(process); }

fs::path program_of(int process) {
  std::error_code gone;
  return fs::read_symlink(process_folder(process) / "exe", gone);
}

// Those of `launcher` and its children that run `program`.
std::vector<int> ranks_below(int launcher, const fs::path& program) {
  std::vector<int> candidates{launcher}, ranks;
  const std::string id = std::to_string(launcher);
  std::ifstream children(process_folder(launcher) / "task" / id / "children");
  for (int child = 0; children >> child;) candidates.push_back(child);
  std::copy_if(candidates.begin(), candidates.end(), std::back_inserter(ranks),
               [&](int process) { return program_of(process) == program; });
  return ranks;
}

// By a signal or a debugger, or in the kernel: the letter after the name in /proc/<id>/stat.
bool stands_still(int process) {
  std::ifstream file(process_folder(process) / "stat");
  std::string text;
  std::getline(file, text);
  const std::size_t name_end = text.rfind(')');
  return name_end + 2 < text.size() && std::string("TtD").find(text[name_end + 2]) != text.npos;
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
  if (over_) return;
  auto finding = observer_.look();
  if (finding && !observer_.claim(*finding)) return;
  if (!finding) finding = find_silent(launcher);
  if (!finding) return;
  over_ = true;
  record_finding(stage_, *finding);
  for (const auto& [name, reader] : observer_.ranks()) {
    const Pulse pulse = reader.read();
    if (pulse.alive) ::kill(pulse.process, SIGKILL);
  }
  if (finding->kind != Finding::Kind::died) ::kill(finding->pulse.process, SIGKILL);
}

std::optional<Finding> AttemptWatch::find_silent(int launcher) {
  static const fs::path program = fs::read_symlink("/proc/self/exe");
  std::set<int> heard;
  for (const auto& [name, reader] : observer_.ranks()) heard.insert(reader.read().process);
  std::vector<int> ranks = ranks_below(launcher, program);
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
  return finding;
}

}  // namespace demist
