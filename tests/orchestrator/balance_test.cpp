// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/balance.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <numeric>
#include <random>

namespace demist {
namespace {

// By trying all times at which some group is done with some number of micro-batches.
double best_makespan(const std::vector<double>& seconds, std::int32_t micro_batches) {
  double best = std::numeric_limits<double>::infinity();
  for (const double s : seconds)
    for (std::int32_t k = 1; k <= micro_batches; ++k) {
      std::int64_t done = 0;
      for (const double other : seconds)
        done += static_cast<std::int64_t>(std::floor(k * s / other * (1 + 1e-12)));
      if (done >= micro_batches) best = std::min(best, k * s);
    }
  return best;
}

std::int32_t sum(const std::vector<std::int32_t>& shares) {
  return std::accumulate(shares.begin(), shares.end(), 0);
}

TEST(ShareOut, IsAsGoodAsWholeMicroBatchesAllow) {
  std::mt19937 random(1);
  std::lognormal_distribution<double> speed(0, 1);
  for (int trial = 0; trial < 2000; ++trial) {
    std::vector<double> seconds(1 + random() % 7);
    for (double& s : seconds) s = speed(random);
    const auto micro_batches = static_cast<std::int32_t>(1 + random() % 24);
    const auto shares = share_out(seconds, micro_batches);
    ASSERT_EQ(sum(shares), micro_batches);
    ASSERT_GE(*std::ranges::min_element(shares), 0);
    ASSERT_NEAR(makespan(shares, seconds), best_makespan(seconds, micro_batches), 1e-9);
  }
}

TEST(ShareOut, EqualGroupsHaveEqualShares) {
  using Shares = std::vector<std::int32_t>;
  const std::vector<double> equal(4, 0.3);
  EXPECT_EQ(share_out(equal, 16), (Shares{4, 4, 4, 4}));
  EXPECT_EQ(share_out(equal, 6), (Shares{2, 2, 1, 1}));
  EXPECT_EQ(share_out(equal, 3), (Shares{1, 1, 1, 0}));
  EXPECT_EQ(owners_of(Shares{2, 0, 1}), (Shares{0, 0, 2}));
}

TEST(ShareOut, InADrawTheSlowerGroupGetsWork) {
  const std::vector<double> seconds = {1, 1, 6, 1};
  const auto shares = share_out(seconds, 16);
  EXPECT_EQ(shares[2], 1);
  EXPECT_EQ(makespan(shares, seconds), 6);
}

TEST(SpeedMeter, TellsWhatIsNewAndNoMore) {
  SpeedMeter meter;
  EXPECT_FALSE(meter.add(9, 1));  // the first step compiles
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(meter.add(2, 2));
  EXPECT_EQ(meter.add(4, 4), 1.0f);
  for (int i = 0; i < 50; ++i) EXPECT_FALSE(meter.add(2 + 0.05 * (i % 3), 2)) << i;
  for (int i = 0; i < 2; ++i) EXPECT_FALSE(meter.add(6, 2));  // two that stand out
  EXPECT_EQ(meter.add(6, 2), 3.0f);
  for (int i = 0; i < 2; ++i) EXPECT_FALSE(meter.add(2, 2));
  EXPECT_EQ(meter.add(2, 2), 1.0f);
}

TEST(SpeedMeter, ManyStepsTellOfASmallChange) {
  SpeedMeter meter;
  for (int i = 0; i < 30; ++i) EXPECT_EQ(meter.add(1, 1).has_value(), i == 4);
  int told = 0;
  for (int i = 0; i < 60; ++i)
    if (const auto now = meter.add(1.15, 1)) {
      EXPECT_EQ(*now, 1.15f);
      EXPECT_EQ(i, 12);  // most of the last 25
      ++told;
    }
  EXPECT_EQ(told, 1);
}

TEST(SpeedMeter, AfterARestOneStepSpeaks) {
  SpeedMeter meter;
  for (int i = 0; i < 5; ++i) meter.add(10, 1);
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(meter.add(0.001, 0));
  EXPECT_FALSE(meter.add(10.5, 1));
  EXPECT_FALSE(meter.add(0, 0));
  EXPECT_EQ(meter.add(1, 1), 1.0f);
}

TEST(Balancer, AGroupIsAsFastAsItsSlowestRank) {
  Balancer balancer(8, 2, 2);
  balancer.hear(0, 1);
  balancer.hear(1, 3);
  EXPECT_EQ(balancer.seconds(), (std::vector<double>{3, 3}));  // nobody has heard of the other
  balancer.hear(2, 1);
  balancer.hear(3, 1);
  EXPECT_EQ(balancer.seconds(), (std::vector<double>{3, 1}));
  EXPECT_EQ(sum(balancer.next()), 8);
  EXPECT_EQ(balancer.shares(), (std::vector<std::int32_t>{2, 6}));
  EXPECT_TRUE(balancer.has_changed());
  EXPECT_FALSE(balancer.has_changed());
}

TEST(Balancer, SmallGainsChangeNothing) {
  Balancer balancer(40, 2, 1);
  balancer.hear(0, 1.0);
  balancer.hear(1, 1.09);
  EXPECT_EQ(balancer.next(), (std::vector<std::int32_t>{20, 20}));
  balancer.hear(1, 1.3);
  EXPECT_EQ(balancer.next(), (std::vector<std::int32_t>{23, 17}));
  balancer.hear(1, 1.25);  // 22 and 18 would be 1 % better
  EXPECT_EQ(balancer.next(), (std::vector<std::int32_t>{23, 17}));
}

TEST(Balancer, WhoRestsIsAskedNowAndThen) {
  Balancer balancer(4, 4, 1);
  for (const int rank : {0, 1, 3}) balancer.hear(rank, 1);
  balancer.hear(2, 10);
  int probes = 0;
  constexpr int steps = 4000;
  for (int step = 0; step < steps; ++step) {
    const auto shares = balancer.next();
    ASSERT_EQ(sum(shares), 4);
    probes += shares[2];
  }
  // A step lasts 2; one with a probe 10.
  EXPECT_EQ(balancer.shares()[2], 0);
  EXPECT_GT(probes, 0);
  EXPECT_LE(probes * 8.0, 0.02 * steps * 2);
  balancer.hear(2, 1);
  EXPECT_EQ(balancer.next(), (std::vector<std::int32_t>{1, 1, 1, 1}));
}

TEST(Balancer, FewerMicroBatchesThanGroups) {
  Balancer balancer(2, 4, 1);
  EXPECT_EQ(balancer.next(), (std::vector<std::int32_t>{1, 1, 0, 0}));
  balancer.hear(0, 3);
  balancer.hear(1, 1);
  EXPECT_EQ(balancer.next(), (std::vector<std::int32_t>{0, 1, 1, 0}));
}

// Ranks whose seconds are noisy, and reports that take effect three steps after they were made.
class Crew {
 public:
  Crew(int groups, std::int32_t micro_batches, double noise)
      : balancer_(micro_batches, groups, 1),
        meters_(static_cast<std::size_t>(groups)),
        noise_(noise),
        truth_(static_cast<std::size_t>(groups), 1) {}

  void slow(std::size_t group, double times) { truth_[group] = times; }
  const std::vector<double>& truth() const { return truth_; }
  int changes() const { return changes_; }

  // Seconds of one more step, as they would be without noise.
  double step() {
    if (reports_.size() >= 3) {
      for (const auto& [rank, seconds] : reports_.front()) balancer_.hear(rank, seconds);
      reports_.pop_front();
    }
    const auto shares = balancer_.next();
    changes_ += balancer_.has_changed() ? 1 : 0;
    reports_.emplace_back();
    for (std::size_t g = 0; g < shares.size(); ++g) {
      // One step in a hundred takes three times as long, as on a machine that others use too.
      const double hiccup = random_() % 100 == 0 ? 3 : 1;
      const double seconds = shares[g] * truth_[g] * std::exp(noise_ * normal_(random_)) * hiccup;
      if (const auto told = meters_[g].add(seconds, shares[g]))
        reports_.back().emplace_back(static_cast<int>(g), *told);
    }
    return makespan(shares, truth_);
  }

 private:
  Balancer balancer_;
  std::vector<SpeedMeter> meters_;
  double noise_;
  std::normal_distribution<double> normal_;
  std::mt19937 random_{7};
  std::vector<double> truth_;
  std::deque<std::vector<std::pair<int, float>>> reports_;
  int changes_ = 0;
};

// Steps until `steps_in_a_row` of them have this length or a shorter one.
int settle(Crew& crew, double seconds) {
  constexpr int steps_in_a_row = 5;
  int step = 0;
  for (int good = 0; good < steps_in_a_row; ++step) {
    if (step == 1000) return step;
    good = crew.step() <= seconds * 1.05 ? good + 1 : 0;
  }
  return step - steps_in_a_row;
}

double mean_step(Crew& crew, int steps) {
  double sum = 0;
  for (int i = 0; i < steps; ++i) sum += crew.step();
  return sum / steps;
}

TEST(Balancer, OneSlowRankCostsWhatItMust) {
  std::printf(
      "groups  micro-batches  slower  noise | fixed   best  balanced  adapts in  is back in\n");
  for (const int groups : {4, 64})
    for (const double times : {1.5, 3.0, 10.0})
      for (const double noise : {0.0, 0.05, 0.1}) {
        const std::int32_t micro_batches = 4 * groups;
        Crew crew(groups, micro_batches, noise);
        mean_step(crew, 100);
        crew.slow(1, times);
        const double best = best_makespan(crew.truth(), micro_batches);
        const int adapts = settle(crew, best);
        const double balanced = mean_step(crew, 400);
        crew.slow(1, 1);
        const int back = settle(crew, 4);
        std::printf("%6d %14d %7.1f %6.2f | %5.1f %6.2f %9.2f %10d %11d\n", groups, micro_batches,
                    times, noise, 4 * times, best, balanced, adapts, back);
        EXPECT_LE(adapts, 12);
        EXPECT_LE(balanced, 1.05 * best);
        // Who rests is not measured; the slower it was, the seldomer it is asked.
        EXPECT_LE(back, best < times ? 80 : 12);
      }
}

TEST(Balancer, NoiseCostsLittle) {
  for (const double noise : {0.0, 0.05, 0.1}) {
    Crew crew(64, 256, noise);
    EXPECT_LE(mean_step(crew, 1000), 1.05 * 4) << noise;
    EXPECT_LE(crew.changes(), 10) << noise;  // three of a rank's five steps were bad by chance
  }
  Crew crew(4, 16, 0.05);
  mean_step(crew, 1000);
  EXPECT_EQ(crew.changes(), 0);
}

}  // namespace
}  // namespace demist
