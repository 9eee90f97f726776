// Passes the stop requests that `demist run` gets on to the processes of a stage.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "orchestrator/signals.hpp"

namespace demist {

// The first: SIGUSR1, which mpirun hands to its ranks (on SIGINT or SIGTERM it would kill them
// before they have saved). The second: SIGTERM, and SIGKILL for what is left.
class SignalRelay {
 public:
  void operator()(int pid);  // several times a second, with the group's process id
  bool interrupted() const { return signals_.requested(); }
  bool ended() const { return ended_at_ > 0; }  // the processes were told to go at once

 private:
  StopSignals signals_{StopSignals::Second::is_counted};
  double asked_at_ = 0, ended_at_ = 0;  // 0: not yet
};

}  // namespace demist
