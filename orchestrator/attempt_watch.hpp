// `demist run` watching the ranks of one attempt at a stage.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "orchestrator/rank_watch.hpp"

namespace demist {

// The ranks watch each other as well; but the last one has nobody else, and those that have not
// come as far as their heartbeats have nobody at all.
class AttemptWatch {
 public:
  AttemptWatch(WatchedStage stage, const Patience& patience);
  // Several times a second, with the process id of the launcher: mpirun, or the only rank. Ends the
  // ranks of this machine when one of them died or hangs: the others would wait for its end, and
  // mpirun for theirs. Ends a launcher that outlives its last rank.
  void look(int launcher);
  // What that process was last seen at. Of one without a heartbeat: nothing, at the start.
  Pulse last_pulse(int process) const;

 private:
  std::optional<Finding> find_silent(std::vector<int> ranks);
  void end_forsaken(int launcher, const std::vector<int>& children, bool has_ranks);

  WatchedStage stage_;
  Patience patience_;
  RankObserver observer_;
  double last_look_, waited_ = 0;  // seconds in which some rank had no heartbeat
  double forsaken_ = 0;            // since when the launcher has been without its ranks
  bool over_ = false;              // something was found
  bool had_ranks_ = false;         // the launcher, as processes of its own
};

}  // namespace demist
