// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/signal_relay.hpp"

#include <csignal>

#include "core/log.hpp"
#include "orchestrator/progress.hpp"

namespace demist {

void SignalRelay::operator()(int pid) {
  constexpr double patience = 2;  // seconds
  stop_file_.look_now_and_then();
  if (interrupted() && asked_at_ == 0)
    log::info("saving and stopping; press Ctrl-C again to stop at once");
  // A launcher passes it on to the ranks that it has, and it may have none yet. They count it once.
  if (interrupted() && (asked_at_ == 0 || steady_seconds() > asked_at_ + patience)) {
    asked_at_ = steady_seconds();
    ::kill(-pid, signals_.first() == SIGUSR2 ? SIGUSR2 : SIGUSR1);
  }
  if (signals_.count() >= 2 && ended_at_ == 0) {
    ended_at_ = steady_seconds();
    ::kill(-pid, SIGTERM);
  }
  if (ended_at_ > 0 && steady_seconds() > ended_at_ + patience) ::kill(-pid, SIGKILL);
}

}  // namespace demist
