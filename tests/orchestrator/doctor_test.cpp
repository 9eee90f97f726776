// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.hpp"
#include "core/file.hpp"
#include "orchestrator/cores.hpp"
#include "orchestrator/doctor/arithmetic.hpp"
#include "orchestrator/doctor/checks.hpp"
#include "orchestrator/doctor/findings.hpp"
#include "tests/support/temporary_folder.hpp"
#include "worker/device.hpp"

namespace demist::doctor {
namespace {

std::vector<RankFindings> four_nodes() {
  std::vector<RankFindings> ranks;
  for (const char* host : {"n0", "n1", "n2", "n3"})
    ranks.push_back({static_cast<int>(ranks.size()),
                     host,
                     {{"memory", "64 GB"}},
                     {{"products", 1e12}},
                     {},
                     {}});
  return ranks;
}

TEST(Doctor, AgreementIsToldOnce) {
  const std::vector<Line> lines = diagnose(four_nodes());
  EXPECT_EQ(format(lines),
            "ok      memory       64 GB\n"
            "ok      products     1e+03 to 1e+03 GFLOP/s a rank\n");
  EXPECT_FALSE(is_broken(lines));
}

TEST(Doctor, AFolderWhoseNameIsNoUtf8IsToldOf) {
  RankFindings findings = four_nodes().front();
  findings.facts["folder"] = "works in /tmp/\xff";
  EXPECT_TRUE(findings_from_json(to_json(findings)).facts["folder"].starts_with("works in /tmp/"));
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

TEST(Doctor, NodesWithOtherVersionsAreNamed) {
  auto ranks = four_nodes();
  for (RankFindings& rank : ranks) rank.versions = {{"HDF5", "1.10.8"}, {"MPI", "Open MPI v4.1.4"}};
  EXPECT_NE(
      format(diagnose(ranks)).find("ok      versions     HDF5: 1.10.8, MPI: Open MPI v4.1.4\n"),
      std::string::npos);
  ranks[3].versions["HDF5"] = "1.12.2";
  const std::string text = format(diagnose(ranks));
  EXPECT_NE(text.find("ok      versions     MPI: Open MPI v4.1.4\n"), std::string::npos) << text;
  EXPECT_NE(text.find("DIFFERS versions     HDF5: 1.10.8 on n0, n1, n2; 1.12.2 on n3; install"),
            std::string::npos)
      << text;
  EXPECT_FALSE(is_broken(diagnose(ranks)));
}

TEST(Doctor, FindingsTravelWhole) {
  RankFindings one{3, "n", {{"a", "b"}}, {{"c", 2.5}}, {{"v", "1.2"}}, {{"d", "e"}}};
  const RankFindings read = findings_from_json(to_json(one));
  EXPECT_EQ(read.rank, 3);
  EXPECT_EQ(read.facts, one.facts);
  EXPECT_EQ(read.values, one.values);
  EXPECT_EQ(read.versions, one.versions);
  EXPECT_EQ(read.problems, one.problems);
}

TEST(Doctor, ExaminesThisMachineAndLeavesNothing) {
  const test::TemporaryFolder folder;
  const RankFindings found = examine(mpi::Comm(), folder.path());
  EXPECT_TRUE(found.problems.empty()) << to_json(found);
  for (const char* check : {"memory", "folder", "locks", "hdf5", "device", "clock"})
    EXPECT_TRUE(found.facts.contains(check)) << check;
  for (const char* library : {"MPI", "HDF5"})
    EXPECT_NE(found.versions.at(library).find('.'), std::string::npos) << library;
  EXPECT_FALSE(found.versions.at("PMIx").empty());
  EXPECT_GT(found.values.at("products"), 0);
  EXPECT_GT(found.values.at("disk"), 0);
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(Doctor, KnowsAProductByEachOfItsElements) {
  constexpr std::int64_t size = 64;
  constexpr std::size_t n = size;
  std::vector<float> a(n * n), b(n * n), out(n * n);
  for (std::size_t i = 0; i < n * n; ++i) {
    a[i] = static_cast<float>(static_cast<int>(i * 7 % 31) - 15) / 16;
    b[i] = static_cast<float>(static_cast<int>(i * 11 % 29) - 14) / 16;
  }
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j)
      for (std::size_t k = 0; k < n; ++k) out[i * n + j] += a[i * n + k] * b[j * n + k];
  EXPECT_TRUE(is_product(out, a, b, size));
  for (const std::size_t place : {std::size_t{0}, n * 40 + 3, n * n - 1}) {
    const float right = out[place];
    for (const float wrong : {right + 0.01F, -right - 1, std::nanf("")}) {
      out[place] = wrong;
      EXPECT_FALSE(is_product(out, a, b, size)) << place << " " << wrong;
    }
    out[place] = right;
  }
  std::fill(out.begin(), out.end(), 0.0F);
  EXPECT_FALSE(is_product(out, a, b, size));
}

// An all-reduce of one rank that changes one element.
class FaultyNetwork : public Communicator {
 public:
  explicit FaultyNetwork(std::size_t place) : place_(place) {}
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void barrier() override {}
  void all_reduce_sum(const TensorView&, std::span<float> values) override {
    if (place_ < values.size()) values[place_] += 1;
  }
  void all_reduce_sum(std::span<std::int64_t>) override {}
  void all_reduce_max(std::span<float>) override {}
  void reduce_scatter_sum(std::span<std::int64_t>, std::span<const std::int64_t>,
                          std::span<const std::int64_t>) override {}
  void reduce_scatter_sum(std::span<float>, std::span<const float>,
                          std::span<const std::int64_t>) override {}
  void all_gather(std::span<std::byte>, std::span<const std::int64_t>) override {}
  void broadcast(std::span<std::byte>, int) override {}

 private:
  std::size_t place_;
};

TEST(Doctor, EveryElementOfAnAllReduceCounts) {
  const Device device = make_cpu_device();
  constexpr std::size_t count = (std::size_t{1} << 20) / sizeof(float);
  FaultyNetwork sound(count);
  EXPECT_GT(all_reduce_rate(mpi::Comm(), *device.backend, sound), 0);
  for (const std::size_t place : {std::size_t{0}, count / 3, count - 1}) {
    FaultyNetwork faulty(place);
    EXPECT_THROW(all_reduce_rate(mpi::Comm(), *device.backend, faulty), EnvironmentError) << place;
  }
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
