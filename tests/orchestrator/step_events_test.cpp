// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/step_events.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/file.hpp"
#include "orchestrator/events.hpp"
#include "tests/support/temporary_folder.hpp"

namespace demist {
namespace {

const std::vector<std::string> kHosts = {"node1", "node1", "node2", "node2"};

StepReport corrupt_step(bool passing, std::vector<int> ranks) {
  StepReport report;
  report.step = 41;
  report.corruption = Corruption{passing, std::move(ranks), "the gradient of micro-batch 3"};
  return report;
}

TEST(StepEvents, CorruptionNamesRanksAndMachines) {
  const test::TemporaryFolder folder;
  append_corruption(folder.path(), "mlm", corrupt_step(true, {1, 2, 3}), kHosts);
  const auto event = nlohmann::json::parse(read_file(folder.path() / kEventFile));
  EXPECT_EQ(event.at("event"), "corruption_found");
  EXPECT_EQ(event.at("stage"), "mlm");
  EXPECT_EQ(event.at("step"), 41);
  EXPECT_EQ(event.at("passing"), true);
  EXPECT_EQ(event.at("where"), "the gradient of micro-batch 3");
  EXPECT_EQ(event.at("ranks"), (std::vector<int>{1, 2, 3}));
  EXPECT_EQ(event.at("hosts"), (std::vector<std::string>{"node1", "node2"}));
}

TEST(StepEvents, CorruptionThatStaysSaysWhatIsNotProven) {
  const std::string text = describe_corruption("mlm", corrupt_step(false, {2}), kHosts, 10);
  EXPECT_NE(text.find("rank 2 on node2"), std::string::npos) << text;
  EXPECT_NE(text.find("checkpoints of more than 32 steps"), std::string::npos) << text;
  const std::string early = describe_corruption("mlm", corrupt_step(false, {0, 1}), kHosts, 100);
  EXPECT_NE(early.find("one of ranks 0, 1 on node1"), std::string::npos) << early;
  EXPECT_NE(early.find("checkpoints of more than 0 steps"), std::string::npos) << early;
}

TEST(StepEvents, AFallbackNamesTheFault) {
  const test::TemporaryFolder folder;
  append_attention_fallback(folder.path(), "mlm", {});
  EXPECT_FALSE(std::filesystem::exists(folder.path() / kEventFile));
  append_attention_fallback(folder.path(), "mlm", {{}, "rank 2: dQ is not finite"});
  const auto event = nlohmann::json::parse(read_file(folder.path() / kEventFile));
  EXPECT_EQ(event.at("event"), "attention_fallback");
  EXPECT_EQ(event.at("stage"), "mlm");
  EXPECT_EQ(event.at("attention"), "OWN");
  EXPECT_EQ(event.at("problem"), "rank 2: dQ is not finite");
}

TEST(StepEvents, SharesNameTheGroupsThatAreNotLikeMost) {
  const test::TemporaryFolder folder;
  append_rebalance(folder.path(), "mlm", {7, {5, 1, 4, 6}, {1, 3.004, 1, 0.75}});
  const auto event = nlohmann::json::parse(read_file(folder.path() / kEventFile));
  EXPECT_EQ(event.at("event"), "rebalanced");
  EXPECT_EQ(event.at("step"), 7);
  EXPECT_EQ(event.at("largest_share"), 6);
  const auto expected = nlohmann::json::parse(
      R"([{"group":1,"times":3.0,"micro_batches":1},{"group":3,"times":0.75,"micro_batches":6}])");
  EXPECT_EQ(event.at("groups"), expected);
}

}  // namespace
}  // namespace demist
