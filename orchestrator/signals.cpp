// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/signals.hpp"

#include <array>
#include <csignal>

namespace demist {
namespace {

// A handler can reach nothing but globals.
volatile std::sig_atomic_t received = 0, first_signal = 0;

extern "C" void count_signal(int signal) {
  if (received == 0) first_signal = signal;
  if (signal == SIGINT || received == 0) received = received + 1;
}

constexpr std::array kSignals = {SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGHUP};

bool is_ignored(int signal) {
  struct sigaction now {};
  return sigaction(signal, nullptr, &now) == 0 && now.sa_handler == SIG_IGN;
}

}  // namespace

StopSignals::StopSignals(Second second) {
  received = 0;
  first_signal = 0;
  for (const int signal : kSignals) {
    if (signal == SIGHUP && is_ignored(signal)) continue;  // nohup
    struct sigaction action {};
    action.sa_handler = count_signal;
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    if (signal == SIGINT && second == Second::ends_process)
      action.sa_flags |= static_cast<int>(SA_RESETHAND);
    sigaction(signal, &action, nullptr);
  }
}

StopSignals::~StopSignals() {
  for (const int signal : kSignals)
    if (!is_ignored(signal)) std::signal(signal, SIG_DFL);
}

void outlive_readers() { std::signal(SIGPIPE, SIG_IGN); }

int StopSignals::count() const { return received; }
int StopSignals::first() const { return first_signal; }

}  // namespace demist
