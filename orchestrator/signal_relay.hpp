// Passes the stop requests that `demist run` gets on to the processes of a stage.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "orchestrator/signals.hpp"
#include "orchestrator/stop_file.hpp"

namespace demist {

// The first: SIGUSR1 (SIGUSR2 if that was the request: a library may have taken the other), which
// mpirun and srun hand to their ranks; on SIGINT or SIGTERM they would kill them before they have
// saved. The second: SIGTERM, and SIGKILL for what is left.
class SignalRelay {
 public:
  explicit SignalRelay(const std::filesystem::path& run_dir) : stop_file_(run_dir) {}
  void operator()(int pid);  // several times a second, with the group's process id
  // A stage that saw the file first has ended before we looked again.
  void look_for_file() { stop_file_.look(); }
  // For who waits for something else than the processes of a stage.
  bool stop_asked() {
    stop_file_.look_now_and_then();
    return interrupted();
  }
  bool interrupted() const { return signals_.requested() || stop_file_.found(); }
  bool ended() const { return ended_at_ > 0; }  // the processes were told to go at once

 private:
  StopSignals signals_{StopSignals::Second::is_counted};
  double asked_at_ = 0, ended_at_ = 0;  // last; 0: not yet
  StopFile stop_file_;
};

}  // namespace demist
