// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "core/file.hpp"
#include "orchestrator/cores.hpp"
#include "orchestrator/doctor/checks.hpp"
#include "orchestrator/doctor/findings.hpp"
#include "tests/support/temporary_folder.hpp"

namespace demist::doctor {
namespace {

std::vector<RankFindings> four_nodes() {
  std::vector<RankFindings> ranks;
  for (const char* host : {"n0", "n1", "n2", "n3"})
    ranks.push_back(
        {static_cast<int>(ranks.size()), host, {{"memory", "64 GB"}}, {{"products", 1e12}}, {}});
  return ranks;
}

TEST(Doctor, AgreementIsToldOnce) {
  const std::vector<Line> lines = diagnose(four_nodes());
  EXPECT_EQ(format(lines),
            "ok      memory       64 GB\n"
            "ok      products     1e+03 to 1e+03 GFLOP/s a rank\n");
  EXPECT_FALSE(is_broken(lines));
}

TEST(Doctor, SlowAndBrokenNodesAreNamed) {
  auto ranks = four_nodes();
  ranks[2].values["products"] = 5e11;
  ranks[1].problems["locks"] = ranks[3].problems["locks"] = "do not work; mount with flock";
  ranks[3].facts["memory"] = "32 GB";
  const std::vector<Line> lines = diagnose(ranks);
  const std::string text = format(lines);
  EXPECT_NE(text.find("SLOW    products     n2: less than 70% of the median"), std::string::npos)
      << text;
  EXPECT_NE(text.find("BROKEN  locks        n1, n3: do not work"), std::string::npos) << text;
  EXPECT_NE(text.find("ok      memory       n3: 32 GB"), std::string::npos) << text;
  EXPECT_TRUE(is_broken(lines));
}

TEST(Doctor, FindingsTravelWhole) {
  RankFindings one{3, "n", {{"a", "b"}}, {{"c", 2.5}}, {{"d", "e"}}};
  const RankFindings read = findings_from_json(to_json(one));
  EXPECT_EQ(read.rank, 3);
  EXPECT_EQ(read.facts, one.facts);
  EXPECT_EQ(read.values, one.values);
  EXPECT_EQ(read.problems, one.problems);
}

TEST(Doctor, ExaminesThisMachineAndLeavesNothing) {
  const test::TemporaryFolder folder;
  const RankFindings found = examine(mpi::Comm(), folder.path());
  EXPECT_TRUE(found.problems.empty()) << to_json(found);
  for (const char* check : {"memory", "folder", "locks", "hdf5", "device", "clock"})
    EXPECT_TRUE(found.facts.contains(check)) << check;
  EXPECT_GT(found.values.at("products"), 0);
  EXPECT_GT(found.values.at("disk"), 0);
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(Doctor, AFolderThatCannotBeUsedIsAFinding) {
  const RankFindings found = examine(mpi::Comm(), "/proc/no-such-folder");
  EXPECT_TRUE(found.problems.contains("folder")) << to_json(found);
}

TEST(Cores, AreSharedByRanksThatMayUseTheSame) {
  CoreShare share = share_of({"ff", "ff", "ff"}, 2, 8);
  EXPECT_EQ(share.threads, 2);
  EXPECT_EQ(share.place, 2);
  EXPECT_EQ(share.places, 3);
  share = share_of({"0f", "f0"}, 1, 4);  // srun has bound each to its own
  EXPECT_EQ(share.threads, 4);
  EXPECT_EQ(share.place, 0);
  EXPECT_EQ(share.places, 1);
  EXPECT_EQ(share_of({"1", "1"}, 0, 1).threads, 1);
}

}  // namespace
}  // namespace demist::doctor
