// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/signals.hpp"

#include <gtest/gtest.h>

#include <csignal>

namespace demist {
namespace {

TEST(StopSignals, AClosingTerminalIsOneRequest) {
  std::signal(SIGHUP, SIG_DFL);  // nohup ignores it
  const StopSignals signals(StopSignals::Second::is_counted);
  EXPECT_FALSE(signals.requested());
  std::raise(SIGHUP);
  std::raise(SIGHUP);
  EXPECT_EQ(signals.count(), 1);
  std::raise(SIGINT);
  EXPECT_EQ(signals.count(), 2);
}

TEST(StopSignals, WhatASchedulerSendsOnSeveralWaysIsOneRequest) {
  const StopSignals signals(StopSignals::Second::ends_process);
  EXPECT_EQ(signals.first(), 0);
  for (const int signal : {SIGUSR2, SIGTERM, SIGTERM, SIGUSR1}) std::raise(signal);
  EXPECT_EQ(signals.count(), 1);
  EXPECT_EQ(signals.first(), SIGUSR2);
}

TEST(StopSignals, NohupIsRespected) {
  std::signal(SIGHUP, SIG_IGN);
  {
    const StopSignals signals(StopSignals::Second::is_counted);
    std::raise(SIGHUP);
    EXPECT_EQ(signals.count(), 0);
  }
  EXPECT_EQ(std::signal(SIGHUP, SIG_DFL), SIG_IGN);
}

}  // namespace
}  // namespace demist
