// Signals that ask a stage to save and stop.
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace demist {

// While alive, SIGINT, SIGTERM, SIGUSR1 and SIGHUP (a closed terminal) are counted instead of
// ending the process; an ignored SIGHUP (nohup) stays ignored.
class StopSignals {
 public:
  enum class Second { ends_process, is_counted };  // of SIGINT and SIGTERM
  explicit StopSignals(Second second);
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  int count() const;
  bool requested() const { return count() > 0; }
};

}  // namespace demist
