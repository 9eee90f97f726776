// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/metrics_file.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/file.hpp"
#include "tests/support/file_size_limit.hpp"
#include "tests/support/temporary_folder.hpp"

namespace demist {
namespace {

StepReport step_report() {
  StepReport report;
  report.step = 41;
  report.loss = 0.1 + 0.2;
  report.grad_norm = 2.5;
  report.lr = 1e-4;
  report.tokens = 1000;
  report.rescaled = 1;
  return report;
}

TEST(Metrics, StepLineIsJsonWithExactNumbers) {
  const auto json = nlohmann::json::parse(step_line("mlm", step_report(), 0.5, 0.25));
  EXPECT_EQ(json.at("event"), "step");
  EXPECT_EQ(json.at("stage"), "mlm");
  EXPECT_EQ(json.at("step"), 42);  // finished steps
  EXPECT_EQ(json.at("loss").get<double>(), 0.1 + 0.2);
  EXPECT_EQ(json.at("tokens_per_second"), 2000.0);
  EXPECT_EQ(json.at("rescaled"), 1);
  EXPECT_EQ(json.at("control_seconds"), 0.25);
  EXPECT_GT(json.at("time").get<double>(), 1.6e9);
}

TEST(Metrics, NonFiniteNumbersAreNull) {
  StepReport report = step_report();
  report.loss = std::nan("");
  report.grad_norm = INFINITY;
  const auto json = nlohmann::json::parse(step_line("mlm", report, 0, 0));
  EXPECT_TRUE(json.at("loss").is_null());
  EXPECT_TRUE(json.at("grad_norm").is_null());
  EXPECT_EQ(json.at("tokens_per_second"), 0.0);
}

TEST(Metrics, StepsThatWereNotAppliedSayWhy) {
  StepReport report = step_report();
  EXPECT_FALSE(nlohmann::json::parse(step_line("mlm", report, 1, 0)).contains("skipped"));
  report.verdict = StepVerdict::loss_spike;
  EXPECT_EQ(nlohmann::json::parse(step_line("mlm", report, 1, 0)).at("skipped"), "loss_spike");
}

TEST(Metrics, StepsAfterARollbackSaySo) {
  StepReport report = step_report();
  EXPECT_FALSE(nlohmann::json::parse(step_line("mlm", report, 1, 0)).contains("rollbacks"));
  report.rollbacks = 2;
  EXPECT_EQ(nlohmann::json::parse(step_line("mlm", report, 1, 0)).at("rollbacks"), 2);
}

TEST(Metrics, EventsAreJson) {
  const auto held_out = nlohmann::json::parse(held_out_line("mlm", 7, 3.25, 0.5));
  EXPECT_EQ(held_out.at("event"), "held_out");
  EXPECT_EQ(held_out.at("loss"), 3.25);
  EXPECT_EQ(held_out.at("seconds"), 0.5);
  const auto start = nlohmann::json::parse(event_line("mlm", "start", 7, {4, 2, "cpu"}, 1.5));
  EXPECT_EQ(start.at("event"), "start");
  EXPECT_EQ(start.at("ranks"), 4);
  EXPECT_EQ(start.at("tensor"), 2);
  EXPECT_EQ(start.at("device"), "cpu");
}

TEST(Metrics, FileIsAppendedTo) {
  const test::TemporaryFolder folder;
  const fs::path path = folder.path() / "metrics.jsonl";
  MetricsFile(path).write("{}");
  MetricsFile(path).write("{\"a\":1}");
  EXPECT_EQ(read_file(path), "{}\n{\"a\":1}\n");
  EXPECT_THROW(MetricsFile("/no/such/folder/m.jsonl"), EnvironmentError);
}

// A file-size limit stands for the full disk. No line is lost, none is cut.
TEST(Metrics, LinesWaitWhileTheDiskIsFull) {
  const test::TemporaryFolder folder;
  const fs::path path = folder.path() / "metrics.jsonl";
  MetricsFile file(path);
  std::string meanwhile;
  {
    const test::FileSizeLimit limit(10);
    file.write("first");
    file.write("second");
    file.write("third");
    meanwhile = read_file(path);
  }
  EXPECT_EQ(meanwhile, "first\n");
  file.write("fourth");
  EXPECT_EQ(read_file(path), "first\nsecond\nthird\nfourth\n");
}

// A process was killed after a write that came short, or a machine failed.
TEST(Metrics, ALineDoesNotContinueAPart) {
  const test::TemporaryFolder folder;
  const fs::path path = folder.path() / "metrics.jsonl";
  atomic_write(path, "{\"a\":1}\n{\"b\"");
  MetricsFile(path).write("{\"c\":3}");
  EXPECT_EQ(read_file(path), "{\"a\":1}\n{\"b\"\n{\"c\":3}\n");
}

}  // namespace
}  // namespace demist
