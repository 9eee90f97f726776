// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/attempt_watch.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "core/file.hpp"
#include "orchestrator/events.hpp"
#include "orchestrator/exit_record.hpp"
#include "orchestrator/process.hpp"
#include "tests/support/temporary_folder.hpp"

namespace demist {
namespace {

class AttemptWatchTest : public testing::Test {
 protected:
  AttemptWatchTest() { ::setenv(kAttemptVariable, stage_.attempt.c_str(), 1); }
  ~AttemptWatchTest() override { ::unsetenv(kAttemptVariable); }

  nlohmann::json only_event() const {
    return nlohmann::json::parse(read_file(folder_.path() / kEventFile));
  }
  // A process that is a rank of the stage and waits for a signal.
  ::pid_t start_rank() const {
    const ::pid_t child = ::fork();
    if (child != 0) return child;
    const RankWatch watch(mpi::Comm(), stage_.run_dir, stage_.stage, Patience{});
    mpi::enter(watch.world(), Phase::save);
    while (true) ::pause();
  }

  const test::TemporaryFolder folder_;
  const WatchedStage stage_{folder_.path(), "mlm", "attempt 1"};
};

TEST_F(AttemptWatchTest, ARankWithoutAHeartbeatIsFound) {
  Patience patience;
  patience.silent = 0.2;
  AttemptWatch watch(stage_, patience);
  const ::pid_t rank = ::fork();  // runs our program
  if (rank == 0)
    while (true) ::pause();
  int status = 0;
  while (::waitpid(rank, &status, WNOHANG) == 0) watch.look(rank);
  EXPECT_EQ(WTERMSIG(status), SIGKILL);
  EXPECT_EQ(only_event().at("event"), "hang");
  EXPECT_EQ(only_event().at("process"), rank);
  EXPECT_EQ(only_event().at("phase"), "start");
  EXPECT_EQ(first_cause(folder_.path(), "mlm")->code, ExitCode::suspect);
}

// All are silent then: MPI starts them together.
TEST_F(AttemptWatchTest, OfSilentRanksTheOneThatIsStoppedIsNamed) {
  Patience patience;
  patience.silent = 0.2;
  AttemptWatch watch(stage_, patience);
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe(pipe.data()), 0);
  const ::pid_t first = ::fork();
  if (first == 0) {
    const ::pid_t second = ::fork();
    if (second == 0)
      while (true) ::pause();
    ::kill(second, SIGSTOP);
    (void)!::write(pipe[1], &second, sizeof second);
    while (true) ::pause();
  }
  ::pid_t stopped = 0;
  ASSERT_EQ(::read(pipe[0], &stopped, sizeof stopped), sizeof stopped);
  while (!fs::exists(folder_.path() / kEventFile)) watch.look(first);
  EXPECT_EQ(only_event().at("process"), stopped);
  ::kill(first, SIGKILL);
  ::waitpid(first, nullptr, 0);
}

// A launcher that starts one process of our program and does not see it end.
TEST_F(AttemptWatchTest, ALauncherThatOutlivesItsRanksIsEnded) {
  Patience patience;
  patience.forsaken = 0.3;
  AttemptWatch watch(stage_, patience);
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe(pipe.data()), 0);
  const ::pid_t launcher = ::fork();
  if (launcher == 0) {
    const ::pid_t rank = ::fork();
    if (rank == 0)
      while (true) ::pause();
    (void)!::write(pipe[1], &rank, sizeof rank);
    ::execlp("sleep", "sleep", "1000", nullptr);
    ::_exit(1);
  }
  ::pid_t rank = 0;
  ASSERT_EQ(::read(pipe[0], &rank, sizeof rank), sizeof rank);
  const auto begin = std::chrono::steady_clock::now();
  const auto passed = [&] { return std::chrono::steady_clock::now() - begin; };
  int status = 0;
  while (passed() < std::chrono::seconds(1)) {  // with its rank it may take its time
    watch.look(launcher);
    ASSERT_EQ(::waitpid(launcher, &status, WNOHANG), 0);
  }
  ::kill(rank, SIGKILL);
  while (::waitpid(launcher, &status, WNOHANG) == 0) watch.look(launcher);
  EXPECT_EQ(WTERMSIG(status), SIGKILL);
}

TEST_F(AttemptWatchTest, OtherProgramsNeedNoHeartbeat) {
  Patience patience;
  patience.silent = 0.2;
  AttemptWatch watch(stage_, patience);
  EXPECT_EQ(run_process({{"sleep", "1"}, {}}, [&](int pid) { watch.look(pid); }), 0);
}

TEST_F(AttemptWatchTest, ARankThatDiesIsNamedAndTheOthersEnd) {
  AttemptWatch watch(stage_, Patience{});
  const ::pid_t rank = start_rank();
  RankObserver observer(stage_, Patience{});
  while (observer.ranks().empty() || observer.ranks().begin()->second.read().phase != Phase::save)
    EXPECT_FALSE(observer.look());
  watch.look(rank);
  EXPECT_FALSE(fs::exists(folder_.path() / kEventFile));
  ::kill(rank, SIGKILL);
  ::waitpid(rank, nullptr, 0);
  watch.look(rank);
  watch.look(rank);  // once is enough
  EXPECT_EQ(only_event().at("event"), "rank_died");
  EXPECT_EQ(only_event().at("process"), rank);
  EXPECT_EQ(only_event().at("phase"), "save");
  sweep_heartbeats(folder_.path());
}

TEST_F(AttemptWatchTest, AKnownReasonIsNotReplaced) {
  const ExitRecord own{1, "mlm", 3, "host", ExitCode::data, "its own words", false};
  write_exit_record(folder_.path(), own);
  record_finding(stage_, Finding{});
  EXPECT_EQ(first_cause(folder_.path(), "mlm")->message, "its own words");
  EXPECT_FALSE(fs::exists(folder_.path() / kEventFile));
}

TEST_F(AttemptWatchTest, HeartbeatsOfOtherAttemptsAreNotSeen) {
  const ::pid_t rank = start_rank();
  RankObserver mine(stage_, Patience{}), other({folder_.path(), "mlm", "attempt 2"}, Patience{});
  while (mine.ranks().empty()) EXPECT_FALSE(mine.look());
  EXPECT_FALSE(other.look());
  EXPECT_TRUE(other.ranks().empty());
  ::kill(rank, SIGKILL);
  ::waitpid(rank, nullptr, 0);
  sweep_heartbeats(folder_.path());
}

}  // namespace
}  // namespace demist
