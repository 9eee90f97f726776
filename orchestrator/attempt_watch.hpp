// `demist run` watching the ranks of one attempt at a stage.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "orchestrator/rank_watch.hpp"

namespace demist {

// The ranks watch each other as well; but the last one has nobody else, and those that have not
// come as far as their heartbeats have nobody at all. All ranks are on this machine.
class AttemptWatch {
 public:
  AttemptWatch(WatchedStage stage, const Patience& patience, int ranks);
  // Several times a second, with the process id of the launcher's group. Ends the ranks when one of
  // them died or hangs: the others would wait for its end, and mpirun for theirs.
  void look(int launcher);

 private:
  std::optional<Finding> find_absent();

  WatchedStage stage_;
  Patience patience_;
  int ranks_;
  RankObserver observer_;
  double last_look_, waited_ = 0;  // seconds without all ranks
  bool over_ = false;              // something was found
};

}  // namespace demist
