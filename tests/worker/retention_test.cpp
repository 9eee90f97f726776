// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/retention.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/file.hpp"
#include "tests/support/checkpoint_state.hpp"
#include "tests/support/temporary_folder.hpp"
#include "worker/checkpoint/survey.hpp"

namespace demist::checkpoint {
namespace {

using Reasons = std::vector<std::string>;

const std::vector<Candidate> kFive{{50, {}}, {40, 3.0}, {30, 2.0}, {20, 2.0}, {10, 9.0}};

TEST(Retention, KeepsTheNewest) {
  EXPECT_EQ(reasons_to_keep(kFive, {.last = 2}), (Reasons{"last", "last", "", "", ""}));
  EXPECT_EQ(reasons_to_keep(kFive, {.last = 9}), Reasons(5, "last"));
  EXPECT_EQ(reasons_to_keep(kFive, {.last = 0}), Reasons(5, "last"));
  EXPECT_TRUE(reasons_to_keep({}, {.last = 1}).empty());
}

// Three bad steps may have begun two before the newest checkpoint, or with it.
TEST(Retention, KeepsWhatTrainingMayGoBackTo) {
  const auto reasons = [](const std::vector<Candidate>& found, const WayBack& way) {
    return reasons_to_keep(found, {.last = 1, .way_back = way});
  };
  const std::vector<Candidate> dense{{40, {}}, {39, {}}, {38, {}}, {37, {}}, {36, {}}};
  EXPECT_EQ(reasons(dense, {3, 1, 100}),
            (Reasons{"last, way back", "way back", "way back", "way back", ""}));
  EXPECT_EQ(reasons(kFive, {3, 10, 100}), (Reasons{"last, way back", "way back", "", "", ""}));
  EXPECT_EQ(reasons(kFive, {3, 10, 50}), (Reasons{"last", "", "", "", ""}));  // the end
  EXPECT_EQ(reasons(kFive, {}), (Reasons{"last", "", "", "", ""}));
  // 55 and 53 were saved when somebody asked for it.
  const std::vector<Candidate> between{{55, {}}, {53, {}}, {50, {}}, {40, {}}};
  EXPECT_EQ(reasons(between, {3, 10, 100}), (Reasons{"last", "", "way back", ""}));
}

// Whatever step fails after a checkpoint, the one to go back to has not been pruned by then.
TEST(Retention, NeverLacksTheTarget) {
  for (std::int64_t bad = 1; bad <= 5; ++bad)
    for (std::int64_t every = 1; every <= 4; ++every) {
      const WayBack way{bad, every, 1000};
      std::vector<Candidate> kept;
      for (std::int64_t step = 0; step < 40; ++step) {  // the number of the next one
        if (step > 0 && step % every == 0) {
          kept.insert(kept.begin(), {step, {}});
          const auto reasons = reasons_to_keep(kept, {.last = 1, .way_back = way});
          std::erase_if(kept, [&](const Candidate& c) {
            return reasons[static_cast<std::size_t>(&c - kept.data())].empty();
          });
        }
        const std::int64_t to = way.target(step);
        EXPECT_TRUE(to == 0 || std::ranges::find(kept, to, &Candidate::step) != kept.end())
            << bad << " bad steps, a save every " << every << ", step " << step << ": " << to;
      }
    }
  EXPECT_EQ((WayBack{3, 10, 100}.target(12)), 0);  // 10 to 12 are bad: 10 was saved with them
  EXPECT_EQ((WayBack{3, 10, 100}.target(13)), 10);
  EXPECT_EQ((WayBack{3, 0, 100}.target(50)), 0);
}

TEST(Retention, KeepsMultiplesAndTheBestBesides) {
  EXPECT_EQ(reasons_to_keep(kFive, {.last = 1, .every = 20}),
            (Reasons{"last", "every 20", "", "every 20", ""}));
  // Of equal losses the newer; what was not measured never.
  EXPECT_EQ(reasons_to_keep(kFive, {.last = 1, .best = 1}), (Reasons{"last", "", "best", "", ""}));
  EXPECT_EQ(reasons_to_keep(kFive, {.last = 1, .best = 3}),
            (Reasons{"last", "best", "best", "best", ""}));
  EXPECT_EQ(reasons_to_keep(kFive, {.last = 2, .every = 40, .best = 4}),
            (Reasons{"last", "last, every 40, best", "best", "best", "best"}));
}

class RetentionOnDisk : public testing::Test {
 protected:
  void save_step(std::int64_t step, std::optional<double> loss) {
    Meta meta = test::make_meta(step);
    meta.held_out_loss = loss;
    const auto pieces = pieces_of(state_, test::Split::rows, 0, 1);
    save(mpi::Comm(), root(), state_.tensors, pieces, meta, 0);
  }
  std::string steps() const {
    std::string text;
    for (const Entry& entry : list_entries(root())) text += std::to_string(entry.step) + " ";
    return text;
  }
  const fs::path& root() const { return folder_.path(); }
  fs::path at(std::int64_t step) const { return root() / directory_name(step); }

  const test::TemporaryFolder folder_;
  test::State state_ = test::make_state(test::small_table());
};

TEST_F(RetentionOnDisk, TheHeldOutLossIsStored) {
  save_step(10, 0.1 + 0.2);
  save_step(20, {});
  const auto found = survey(root(), {.last = 1, .best = 1});
  ASSERT_EQ(found.size(), 2u);
  EXPECT_FALSE(found[0].held_out_loss.has_value());
  EXPECT_EQ(found[1].held_out_loss, 0.1 + 0.2);
  EXPECT_EQ(found[0].reasons + " " + found[1].reasons, "last best");
  EXPECT_GT(found[0].bytes, 1015 * 3 * sizeof(float));
  EXPECT_LT(std::chrono::system_clock::now() - found[0].written, std::chrono::minutes(5));
}

TEST_F(RetentionOnDisk, PruneRemovesWhatNoRuleWants) {
  for (const auto& [step, loss] : {std::pair{10, 3.0}, {20, 1.0}, {30, 2.0}, {40, 2.5}, {50, 2.6}})
    save_step(step, loss);
  fs::create_directories(root() / "step-00000007.tmp");
  atomic_write(root() / "LATEST.4711.tmp", "cut short");
  fs::create_directories(root() / "step-00000030.old");
  prune(root(), at(50), {.last = 2, .every = 30, .best = 1});
  EXPECT_EQ(steps(), "50 40 30 20 ");
  prune(root(), at(20), {.last = 1});
  EXPECT_EQ(steps(), "50 20 ");  // never the one just written
  EXPECT_FALSE(fs::exists(root() / "step-00000007.tmp"));
  EXPECT_FALSE(fs::exists(root() / "LATEST.4711.tmp"));
}

// What does not open may be whole again tomorrow; it must not take a good one's place today.
TEST_F(RetentionOnDisk, WhatDoesNotOpenIsNeitherCountedNorRemoved) {
  for (const int step : {10, 20, 30}) save_step(step, {});
  fs::remove(at(30) / "MANIFEST.json");
  prune(root(), at(20), {.last = 1});
  EXPECT_EQ(steps(), "30 20 ");
  const auto found = survey(root(), {.last = 1});
  EXPECT_NE(found[0].problem.find("never finished"), std::string::npos) << found[0].problem;
  EXPECT_FALSE(found[0].superfluous());
  EXPECT_EQ(found[1].reasons, "last");
}

}  // namespace
}  // namespace demist::checkpoint
