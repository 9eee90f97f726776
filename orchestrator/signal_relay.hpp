// Passes the stop requests that `demist run` gets on to the processes of a stage.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "orchestrator/signals.hpp"

namespace demist {

// A request to stop, for a supervisor on any host: <run>/STOP exists.
inline constexpr const char* kStopFile = "STOP";

// The first: SIGUSR1 (SIGUSR2 if that was the request: a library may have taken the other), which
// mpirun and srun hand to their ranks; on SIGINT or SIGTERM they would kill them before they have
// saved. The second: SIGTERM, and SIGKILL for what is left.
class SignalRelay {
 public:
  explicit SignalRelay(const std::filesystem::path& run_dir) : stop_file_(run_dir / kStopFile) {}
  void operator()(int pid);  // several times a second, with the group's process id
  bool interrupted() const { return signals_.requested() || file_found_; }
  bool ended() const { return ended_at_ > 0; }  // the processes were told to go at once

 private:
  void look_for_file();

  StopSignals signals_{StopSignals::Second::is_counted};
  double asked_at_ = 0, ended_at_ = 0;  // last; 0: not yet
  std::filesystem::path stop_file_;
  double next_look_ = 0;
  bool file_found_ = false;
};

}  // namespace demist
