// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/signals.hpp"

#include <array>
#include <csignal>

namespace demist {
namespace {

// A handler can reach nothing but a global.
volatile std::sig_atomic_t received = 0;

extern "C" void count_signal(int) { received = received + 1; }

constexpr std::array kSignals = {SIGINT, SIGTERM, SIGUSR1};

}  // namespace

StopSignals::StopSignals(Second second) {
  received = 0;
  for (const int signal : kSignals) {
    struct sigaction action {};
    action.sa_handler = count_signal;
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    if (signal != SIGUSR1 && second == Second::ends_process)
      action.sa_flags |= static_cast<int>(SA_RESETHAND);
    sigaction(signal, &action, nullptr);
  }
}

StopSignals::~StopSignals() {
  for (const int signal : kSignals) std::signal(signal, SIG_DFL);
}

int StopSignals::count() const { return received; }

}  // namespace demist
