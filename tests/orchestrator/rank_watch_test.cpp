// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/rank_watch.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/file.hpp"
#include "orchestrator/events.hpp"
#include "orchestrator/exit_record.hpp"
#include "tests/support/temporary_folder.hpp"

namespace demist {
namespace {

// Lost from the beginning; who waits for it comes back when it is aborted.
class LostConnection final : public Connection {
 public:
  // abort() leaves a file there.
  explicit LostConnection(fs::path trace) : trace_(std::move(trace)) {}
  std::string trouble() override { return "the network is gone"; }
  void abort() override {
    std::ofstream(trace_) << "yes";
    aborted_ = true;
  }
  void wait() const {
    while (!aborted_) ::usleep(1000);
  }

 private:
  fs::path trace_;
  std::atomic<bool> aborted_ = false;
};

TEST(RankWatchTest, ALostConnectionEndsTheRankAndNothingIsMadeOfIt) {
  const test::TemporaryFolder folder;
  const fs::path aborted = folder.path() / "aborted", went_on = folder.path() / "went on";
  const ::pid_t child = ::fork();
  if (child == 0) {
    const RankWatch watch(mpi::Comm(), folder.path(), "mlm", Patience{});
    LostConnection connection(aborted);
    watch.world().heartbeat()->connections().add(connection);
    mpi::enter(watch.world(), Phase::backward);
    {
      const mpi::Call call(watch.world(), "the device");
      connection.wait();
    }
    std::ofstream(went_on) << "yes";
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), static_cast<int>(ExitCode::suspect));
  EXPECT_TRUE(fs::exists(aborted));
  EXPECT_FALSE(fs::exists(went_on));
  const auto event = nlohmann::json::parse(read_file(folder.path() / kEventFile));
  EXPECT_EQ(event.at("event"), "connection_lost");
  EXPECT_EQ(event.at("phase"), "backward");
  EXPECT_EQ(event.at("call"), "the device");
  EXPECT_EQ(event.at("problem"), "the network is gone");
  const auto cause = first_cause(folder.path(), "mlm");
  ASSERT_TRUE(cause);
  EXPECT_EQ(cause->code, ExitCode::suspect);
  EXPECT_TRUE(cause->agreed);
  EXPECT_NE(cause->message.find("lost its connections in backward, in the device"),
            std::string::npos)
      << cause->message;
}

}  // namespace
}  // namespace demist
