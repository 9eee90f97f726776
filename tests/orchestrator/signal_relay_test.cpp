// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/signal_relay.hpp"

#include <gtest/gtest.h>

#include <csignal>

#include "orchestrator/process.hpp"
#include "tests/support/temporary_folder.hpp"

namespace demist {
namespace {

// A launcher that has no ranks yet has nobody to pass the request on to.
TEST(SignalRelay, AsksAgainUntilItIsHeard) {
  const test::TemporaryFolder folder;
  const std::string ready = (folder.path() / "ready").string();
  const ProcessSpec deaf_at_first{
      {"sh", "-c",
       "trap 'trap \"exit 75\" USR1' USR1; touch '" + ready + "'; while :; do sleep 0.1; done"},
      {}};
  SignalRelay relay(folder.path());
  const int code = run_process(deaf_at_first, [&](int pid) {
    if (!relay.interrupted() && std::filesystem::exists(ready)) std::raise(SIGINT);
    relay(pid);
  });
  EXPECT_EQ(code, 75);
}

}  // namespace
}  // namespace demist
