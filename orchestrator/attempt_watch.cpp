// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/attempt_watch.hpp"

#include <algorithm>
#include <csignal>
#include <set>
#include <utility>

#include "orchestrator/progress.hpp"

namespace demist {

AttemptWatch::AttemptWatch(WatchedStage stage, const Patience& patience, int ranks)
    : stage_(stage),
      patience_(patience),
      ranks_(ranks),
      observer_(std::move(stage), patience),
      last_look_(steady_seconds()) {}

void AttemptWatch::look(int launcher) {
  if (over_) return;
  auto finding = observer_.look();
  if (finding && !observer_.claim(*finding)) return;
  if (!finding) finding = find_absent();
  if (!finding) return;
  over_ = true;
  record_finding(stage_, *finding);
  for (const auto& [name, reader] : observer_.ranks()) {
    const Pulse pulse = reader.read();
    if (pulse.alive) ::kill(pulse.process, SIGKILL);
  }
  // mpirun ends, by force, those that we do not know.
  if (finding->pulse.process == 0) ::kill(-launcher, SIGTERM);
}

std::optional<Finding> AttemptWatch::find_absent() {
  const double now = steady_seconds();
  waited_ += std::min(now - last_look_, HangDetector::kLongestLook);
  last_look_ = now;
  if (std::cmp_equal(observer_.ranks().size(), ranks_)) waited_ = 0;
  if (patience_.factor <= 0 || waited_ <= patience_.absent) return std::nullopt;
  std::set<int> seen;
  for (const auto& [name, reader] : observer_.ranks()) seen.insert(reader.read().rank);
  Finding finding{Finding::Kind::process_stands_still, 0, {}, waited_, patience_.absent};
  while (seen.contains(finding.pulse.rank)) ++finding.pulse.rank;
  return finding;
}

}  // namespace demist
