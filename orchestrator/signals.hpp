// Signals that ask a stage to save and stop.
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace demist {

// While alive, SIGINT, SIGTERM, SIGUSR1, SIGUSR2 and SIGHUP (a closed terminal) ask to stop instead
// of ending the process; an ignored SIGHUP (nohup) stays ignored. Schedulers and launchers repeat
// what they send, and send it along several ways: only a SIGINT, which a person types, counts as
// another request.
class StopSignals {
 public:
  enum class Second { ends_process, is_counted };  // SIGINT
  explicit StopSignals(Second second);
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  int count() const;
  int first() const;  // the signal that asked first; 0: none did
  bool requested() const { return count() > 0; }
};

// From here on a write to an output that nobody reads any more (`demist run R | tee log`, and tee
// has gone) fails and does not end the process: work goes on without words.
void outlive_readers();

}  // namespace demist
