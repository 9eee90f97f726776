// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/restart_policy.hpp"

#include <gtest/gtest.h>

#include <fstream>

#include "core/error.hpp"
#include "orchestrator/exit_record.hpp"
#include "tests/support/temporary_folder.hpp"

namespace demist {
namespace {

TEST(RestartPolicy, OnlyWhatMayPassIsTriedAgain) {
  for (const int code : {5, 75, 76, 134, 137, 139, 143, 213}) EXPECT_TRUE(may_be_restarted(code));
  for (const int code : {0, 1, 2, 3, 4, 6, 126, 127}) EXPECT_FALSE(may_be_restarted(code)) << code;
}

TEST(RestartPolicy, ProgressMeansAtOnce) {
  RestartPolicy policy(RecoveryConfig{}, 4, 1, 10, "");
  for (std::int64_t step = 11; step < 100; ++step) {
    const auto decision = policy.after_failure(step, "");
    EXPECT_TRUE(decision.again);
    EXPECT_EQ(decision.delay_seconds, 0);
    EXPECT_EQ(decision.ranks, 4);
  }
}

TEST(RestartPolicy, WithoutProgressItWaitsLongerAndGivesUp) {
  RecoveryConfig recovery;
  recovery.attempts = 5;
  recovery.delay_seconds = 4;
  recovery.longest_delay_seconds = 10;
  RestartPolicy policy(recovery, 4, 1, 30, "");
  std::vector<double> delays;
  for (int i = 0; i < 4; ++i) delays.push_back(policy.after_failure(30, "").delay_seconds);
  EXPECT_EQ(delays, (std::vector<double>{4, 8, 10, 10}));
  EXPECT_FALSE(policy.after_failure(29, "").again);
}

TEST(RestartPolicy, AStepFurtherStartsTheCountAgain) {
  RestartPolicy policy(RecoveryConfig{}, 1, 1, 0, "");
  EXPECT_TRUE(policy.after_failure(0, "").again);
  EXPECT_TRUE(policy.after_failure(0, "").again);
  EXPECT_EQ(policy.after_failure(1, "").delay_seconds, 0);
  EXPECT_TRUE(policy.after_failure(1, "").again);
  EXPECT_TRUE(policy.after_failure(1, "").again);
  EXPECT_FALSE(policy.after_failure(1, "").again);
}

// A stage that is done again passes steps that its metrics have seen before.
TEST(RestartPolicy, ANewCheckpointStartsTheCountAgain) {
  RestartPolicy policy(RecoveryConfig{}, 1, 1, 60, "step-00000060");
  for (const char* newest : {"", "step-00000006", "step-00000012", "step-00000018"})
    EXPECT_EQ(policy.after_failure(20, newest).delay_seconds, 0) << newest;
  EXPECT_TRUE(policy.after_failure(20, "step-00000018").again);
  EXPECT_TRUE(policy.after_failure(20, "step-00000018").again);
  EXPECT_FALSE(policy.after_failure(20, "step-00000018").again);
}

TEST(RestartPolicy, ReadsTheNameOfTheNewestCheckpoint) {
  const test::TemporaryFolder folder;
  EXPECT_EQ(newest_checkpoint(folder.path()), "");
  std::filesystem::create_directory(folder.path() / "checkpoints");
  std::ofstream(folder.path() / "checkpoints" / "LATEST") << "step-00000012\n";
  EXPECT_EQ(newest_checkpoint(folder.path()), "step-00000012");
}

TEST(RestartPolicy, FewerRanksOnlyWhereItIsAllowed) {
  RecoveryConfig recovery;
  recovery.attempts = 9;
  recovery.min_ranks = 3;
  RestartPolicy policy(recovery, 8, 2, 0, "");
  EXPECT_EQ(policy.after_failure(0, "").ranks, 6);
  EXPECT_EQ(policy.after_failure(5, "").ranks, 6);  // made steps: it fits
  EXPECT_EQ(policy.after_failure(5, "").ranks, 4);
  EXPECT_EQ(policy.after_failure(5, "").ranks, 4);  // two at a time: 2 would be too few
}

TEST(RestartPolicy, ReadsTheLastStepOfItsStage) {
  const test::TemporaryFolder folder;
  EXPECT_EQ(last_step(folder.path(), "a"), 0);
  std::ofstream file(folder.path() / "metrics.jsonl");
  for (int step = 1; step <= 2000; ++step)
    file << R"({"event":"step","stage":"a","step":)" << step << R"(,"time":1,"loss":2.5})"
         << "\n";
  file << R"({"event":"held_out","stage":"a","step":9000})"
       << "\n"
       << R"({"event":"step","stage":"b","step":7})"
       << "\n"
       << R"({"event":"step","stage":7,"step":9000})"
       << "\n"
       << R"({"event":"step","stage":"a","step":1e300})"
       << "\n"
       << R"({"event":"step","stage":"a","st)" << std::flush;  // cut by a crash
  EXPECT_EQ(last_step(folder.path(), "a"), 2000);
  EXPECT_EQ(last_step(folder.path(), "b"), 7);
  EXPECT_EQ(last_step(folder.path(), "c"), 0);
}

ExitRecord record(int rank, double time, bool agreed, const std::string& stage = "a.b") {
  return {time, stage, rank, "host", ExitCode::data, "rank " + std::to_string(rank), agreed};
}

TEST(ExitRecords, TheFirstOwnReasonIsTheCause) {
  const test::TemporaryFolder folder;
  EXPECT_FALSE(first_cause(folder.path(), "a.b"));
  write_exit_record(folder.path(), record(0, 10, true));
  EXPECT_EQ(first_cause(folder.path(), "a.b")->rank, 0);
  write_exit_record(folder.path(), record(1, 12, false));
  write_exit_record(folder.path(), record(2, 11, false));
  write_exit_record(folder.path(), record(3, 1, false, "a"));
  std::ofstream(folder.path() / "ranks" / "a.b.4.exit") << "{";
  const auto cause = first_cause(folder.path(), "a.b");
  ASSERT_TRUE(cause);
  EXPECT_EQ(cause->rank, 2);
  EXPECT_EQ(cause->code, ExitCode::data);
  EXPECT_EQ(cause->message, "rank 2");
  EXPECT_EQ(cause->host, "host");
  clear_exit_records(folder.path(), "a.b");
  EXPECT_FALSE(first_cause(folder.path(), "a.b"));
  EXPECT_TRUE(first_cause(folder.path(), "a"));
}

TEST(ExitRecords, AMachineIsSuspectedByItsRanksOrByWhatTheyAgreedOn) {
  const test::TemporaryFolder folder;
  const auto suspected = [&](ExitCode code, bool agreed, const std::string& machine) {
    write_exit_record(folder.path(), {1, "a", 0, "node1", code, "words", agreed, machine});
    return suspected_node(first_cause(folder.path(), "a"));
  };
  EXPECT_EQ(suspected_node(std::nullopt), "");
  EXPECT_EQ(suspected(ExitCode::suspect, false, ""), "node1");
  EXPECT_EQ(suspected(ExitCode::suspect, true, ""), "");
  EXPECT_EQ(suspected(ExitCode::environment, false, ""), "");
  EXPECT_EQ(suspected(ExitCode::environment, true, "node2"), "node2");
  EXPECT_EQ(suspected(ExitCode::data, false, ""), "");
}

TEST(ExitRecords, AFolderThatCannotBeWrittenIsNoError) {
  EXPECT_NO_THROW(write_exit_record("/proc/no-such-folder", record(0, 1, false)));
  EXPECT_FALSE(first_cause("/proc/no-such-folder", "a"));
}

}  // namespace
}  // namespace demist
