// SPDX-License-Identifier: Apache-2.0
#include "core/heartbeat.hpp"

#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <thread>

#include "core/error.hpp"
#include "tests/support/temporary_folder.hpp"

namespace demist {
namespace {

class HeartbeatTest : public testing::Test {
 protected:
  const test::TemporaryFolder folder_;
  const std::filesystem::path file_ = folder_.path() / "beat.3";
};

TEST_F(HeartbeatTest, TellsWhatTheRankDoes) {
  Heartbeat heartbeat(file_, 3);
  const HeartbeatReader reader(file_);
  const Pulse first = reader.read();
  EXPECT_EQ(first.rank, 3);
  EXPECT_EQ(first.process, ::getpid());
  EXPECT_TRUE(first.alive);
  EXPECT_FALSE(first.ended);
  EXPECT_EQ(first.phase, Phase::start);
  EXPECT_EQ(first.step, -1);
  heartbeat.begin_step(41);
  heartbeat.enter(Phase::backward);
  heartbeat.begin_call("reduce_scatter");
  heartbeat.begin_call("all_gather");  // inside the other: the outer one stands
  const Pulse inside = reader.read();
  EXPECT_EQ(inside.phase, Phase::backward);
  EXPECT_EQ(inside.step, 41);
  EXPECT_EQ(inside.call, "reduce_scatter");
  EXPECT_GT(inside.beats, first.beats);
  heartbeat.end_call();
  EXPECT_EQ(reader.read().call, "reduce_scatter");
  heartbeat.end_call();
  EXPECT_EQ(reader.read().call, "");
  EXPECT_EQ(reader.read().slowest_step, 0);
  heartbeat.end_step();
  EXPECT_EQ(reader.read().phase, Phase::control);
  EXPECT_GT(reader.read().slowest_step, 0);
  EXPECT_GT(reader.read().slowest[static_cast<std::size_t>(Phase::backward)], 0);
  heartbeat.tick();
  EXPECT_EQ(reader.read().ticks, 1u);
  EXPECT_GT(reader.read().last_tick, 0);
}

TEST(ProcessStates, AreReadWhateverAProcessIsCalled) {
  EXPECT_EQ(state_of(::getpid()).letter, 'R');
  EXPECT_GT(state_of(::getpid()).began, 0u);
  const ::pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_NAME, "a) Z 1 2");
    while (true) ::pause();
  }
  while (state_of(child).letter != 'S') std::this_thread::yield();
  ::kill(child, SIGKILL);
  siginfo_t ended{};
  ::waitid(P_PID, static_cast<::id_t>(child), &ended, WEXITED | WNOWAIT);
  EXPECT_EQ(state_of(child).letter, 'Z');
  ::waitpid(child, nullptr, 0);
  EXPECT_EQ(state_of(child).letter, 'X');
  EXPECT_EQ(state_of(child).began, 0u);
}

TEST_F(HeartbeatTest, LongNamesAreCut) {
  Heartbeat heartbeat(file_, 0);
  heartbeat.begin_call("a collective whose name nobody would give to a collective");
  EXPECT_EQ(HeartbeatReader(file_).read().call, "a collective whose name nobody ");
}

TEST_F(HeartbeatTest, SaysThatItEndsAndLeavesNothing) {
  std::optional<Heartbeat> heartbeat(std::in_place, file_, 0);
  const HeartbeatReader reader(file_);
  heartbeat.reset();
  EXPECT_TRUE(reader.read().ended);
  EXPECT_FALSE(std::filesystem::exists(file_));
}

TEST_F(HeartbeatTest, OneReaderAloneMayReport) {
  const Heartbeat heartbeat(file_, 0);
  const HeartbeatReader one(file_), other(file_);
  EXPECT_TRUE(one.claim());
  EXPECT_FALSE(other.claim());
  EXPECT_FALSE(one.claim());
}

TEST_F(HeartbeatTest, KilledProcessesLeaveTheirLastWord) {
  const ::pid_t child = ::fork();
  if (child == 0) {
    Heartbeat heartbeat(file_, 1);
    heartbeat.begin_step(7);
    heartbeat.enter(Phase::save);
    std::ofstream(folder_.path() / "ready");
    ::pause();
  }
  while (!std::filesystem::exists(folder_.path() / "ready")) std::this_thread::yield();
  const HeartbeatReader reader(file_);
  EXPECT_TRUE(reader.read().alive);
  ::kill(child, SIGKILL);
  siginfo_t ended{};
  ::waitid(P_PID, static_cast<::id_t>(child), &ended, WEXITED | WNOWAIT);
  EXPECT_FALSE(HeartbeatReader(file_).read().alive) << "not yet reaped, but dead";
  ::waitpid(child, nullptr, 0);
  const Pulse pulse = reader.read();
  EXPECT_FALSE(pulse.alive);
  EXPECT_FALSE(pulse.ended);
  EXPECT_EQ(pulse.phase, Phase::save);
  EXPECT_EQ(pulse.step, 7);
  EXPECT_FALSE(HeartbeatReader(file_).read().alive);
  const Heartbeat next(file_, 1);  // takes the place of what was left
  EXPECT_TRUE(HeartbeatReader(file_).read().alive);
}

TEST_F(HeartbeatTest, RefusesWhatIsNoHeartbeat) {
  EXPECT_THROW(HeartbeatReader(folder_.path() / "none"), EnvironmentError);
  std::ofstream(file_) << "text";
  EXPECT_THROW(HeartbeatReader{file_}, EnvironmentError);
  std::ofstream(file_) << std::string(std::filesystem::file_size(file_) + 4096, 'x');
  EXPECT_THROW(HeartbeatReader{file_}, EnvironmentError);
}

// Phase, step and call change together: no reader sees one without the others.
TEST_F(HeartbeatTest, ReadersNeverSeeHalfOfAChange) {
  Heartbeat heartbeat(file_, 0);
  std::jthread writer([&](const std::stop_token& stop) {
    for (std::int64_t step = 0; !stop.stop_requested(); ++step) {
      heartbeat.begin_step(step);
      heartbeat.enter(Phase::reduce);
      heartbeat.begin_call("all_reduce");
      heartbeat.end_call();
      heartbeat.enter(Phase::optimizer);
    }
  });
  const HeartbeatReader reader(file_);
  for (int whole = 0; whole < 20000;) {
    const Pulse pulse = reader.read();
    if (!pulse.whole) continue;  // the writer was put aside in the middle, by a busy machine
    ++whole;
    ASSERT_TRUE(pulse.call.empty() || (pulse.call == "all_reduce" && pulse.phase == Phase::reduce));
  }
}

}  // namespace
}  // namespace demist
