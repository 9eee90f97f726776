// Signals that ask a stage to save and stop.
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace demist {

// While alive, SIGINT, SIGTERM and SIGUSR1 are counted instead of ending the process.
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
