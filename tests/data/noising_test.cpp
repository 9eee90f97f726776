// SPDX-License-Identifier: Apache-2.0
#include "data/noising.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <vector>

#include "core/error.hpp"
#include "core/philox.hpp"
#include "data/layout.hpp"

namespace demist::data {
namespace {

constexpr std::int32_t kMask = 500;
constexpr std::uint64_t kSeed = 42;

// `samples` rows (doubled if coupled) of cols tokens 10, 11, ...; names count from first_name.
MicroBatch clean_batch(std::int64_t step, std::int64_t samples, std::int64_t cols,
                       std::int64_t copies, std::uint64_t first_name = 0) {
  MicroBatch batch = blank_micro_batch(step, 0, samples * copies, cols);
  for (std::int64_t r = 0; r < batch.rows; ++r)
    std::iota(row_ids(batch, r).begin(), row_ids(batch, r).end(), 10);
  std::iota(batch.sample.begin(), batch.sample.end(), first_name);
  return batch;
}

struct Noised {
  MicroBatch clean, batch;
  std::vector<Response> responses;
};

Noised noised(const RdmNoise& noise, std::int64_t step, std::int64_t samples, std::int64_t cols) {
  const RdmNoiser noiser(noise, kMask, kSeed, "adapt");
  Noised result;
  result.clean = result.batch = clean_batch(step, samples, cols, noiser.copies());
  for (std::int64_t s = 0; s < samples; ++s)
    result.responses.push_back(
        {static_cast<std::int32_t>(1 + s % 3), static_cast<std::int32_t>(cols - s % 4)});
  noiser.corrupt(result.batch, result.responses, {0, static_cast<std::uint64_t>(samples)});
  return result;
}

// Section 3.3, items 1 to 5, written down again without a thought for speed: the objective as a
// table of coefficients, one of the cross-entropy and one of the smoothing term for every token.
struct Coefficients {
  std::vector<double> entropy, smooth;
};
Coefficients slow_rdm(const Noised& n, const RdmNoise& noise) {
  const double T = noise.steps, eps = noise.label_smoothing;
  const std::size_t copies = noise.coupled ? 2 : 1, B = n.responses.size();
  const auto cols = static_cast<std::size_t>(n.clean.cols);
  Coefficients out{std::vector<double>(n.clean.ids.size(), 0.0),
                   std::vector<double>(n.clean.ids.size(), 0.0)};
  const auto step = static_cast<std::uint64_t>(n.clean.step);
  const StepTimes times(noise, stream_key(kSeed, "adapt/time", step), B);
  for (std::size_t s = 0; s < B; ++s) {
    const TimePair pair = times(s);
    const double t1 = pair.late, t2 = pair.early;
    std::vector<bool> in1, in2;
    const auto begin = static_cast<std::size_t>(n.responses[s].begin);
    const auto end = static_cast<std::size_t>(n.responses[s].end);
    const double N = static_cast<double>(end - begin);
    for (std::size_t i = begin; i < end; ++i) {
      const Philox4 w = draw(stream_key(kSeed, "adapt/noise", step), s * copies,
                             static_cast<std::uint32_t>(i - begin));
      const double u1 = std::ldexp(static_cast<double>(w.v[0] * 0x1p32 + w.v[1]), -64);
      const double u2 = std::ldexp(static_cast<double>(w.v[2] * 0x1p32 + w.v[3]), -64);
      in1.push_back(u1 < t1 / T);
      if (t1 == t2)
        in2.push_back(u2 < t1 / T);
      else
        in2.push_back(in1.back() && u2 < t2 / t1);
    }
    for (std::size_t copy = 0; copy < copies; ++copy) {
      const double t = copy == 0 ? t1 : t2;
      const double lambda = noise.weight == TimeWeight::linear       ? 1 - (t - 1) / T
                            : noise.weight == TimeWeight::reciprocal ? 1 / t
                                                                     : 1;
      for (std::size_t i = begin; i < end; ++i) {
        if (!(copy == 0 ? in1 : in2)[i - begin]) continue;
        const std::size_t token = (s * copies + copy) * cols + i;
        const double rows = static_cast<double>(B * copies);
        out.entropy[token] = (1 - eps) * T * lambda / N / rows;
        out.smooth[token] = eps * T / N / rows;
      }
    }
  }
  return out;
}

class RdmAgainstSlow : public testing::TestWithParam<std::tuple<TimeWeight, bool, TimeSampling>> {};

TEST_P(RdmAgainstSlow, MasksTargetsAndWeightsAgree) {
  const auto [weight, coupled, sampling] = GetParam();
  for (const double eps : {0.0, 0.1}) {
    const RdmNoise noise{.steps = 50,
                         .weight = weight,
                         .sampling = sampling,
                         .coupled = coupled,
                         .label_smoothing = eps};
    const Noised n = noised(noise, 3, 40, 24);
    const Coefficients slow = slow_rdm(n, noise);
    std::size_t target = 0;
    for (std::size_t token = 0; token < n.clean.ids.size(); ++token) {
      if (slow.entropy[token] == 0) {
        ASSERT_EQ(n.batch.ids[token], n.clean.ids[token]);
        continue;
      }
      ASSERT_EQ(n.batch.ids[token], kMask);
      ASSERT_LT(target, n.batch.target_row.size());
      EXPECT_EQ(n.batch.target_row[target], static_cast<std::int32_t>(token));
      EXPECT_EQ(n.batch.target_id[target], n.clean.ids[token]);
      EXPECT_NEAR(n.batch.weight[target] / slow.entropy[token], 1, 1e-6);
      EXPECT_NEAR(n.batch.smooth[target], slow.smooth[token], 1e-6 * slow.smooth[token]);
      ++target;
    }
    EXPECT_EQ(target, n.batch.target_row.size());
    EXPECT_EQ(n.batch.normalizer, 1);
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, RdmAgainstSlow,
    testing::Combine(testing::Values(TimeWeight::linear, TimeWeight::reciprocal,
                                     TimeWeight::constant),
                     testing::Bool(),
                     testing::Values(TimeSampling::stratified, TimeSampling::independent)));

TEST(Noising, TheEarlyMaskIsASubsetOfTheLateOneUnlessTimesAreEqual) {
  const RdmNoise noise{.steps = 10};
  const Noised n = noised(noise, 0, 200, 30);
  const StepTimes times(noise, stream_key(kSeed, "adapt/time", 0), 200);
  int different = 0, extra_when_equal = 0;
  for (std::size_t s = 0; s < 200; ++s)
    for (std::size_t c = 0; c < 30; ++c) {
      const bool late = n.batch.ids[(2 * s) * 30 + c] == kMask;
      const bool early = n.batch.ids[(2 * s + 1) * 30 + c] == kMask;
      if (times(s).late == times(s).early)
        extra_when_equal += early && !late;
      else
        ASSERT_TRUE(late || !early);
      different += late != early;
    }
  EXPECT_GT(different, 0);
  EXPECT_GT(extra_when_equal, 0);
}

TEST(Noising, MaskRatesAreTOverT) {
  // Rates by time, for both copies: marginally t / T each.
  constexpr int kSteps = 5;
  const RdmNoise noise{.steps = kSteps};
  std::vector<double> masked(2 * (kSteps + 1), 0), seen(2 * (kSteps + 1), 0);
  for (std::int64_t step = 0; step < 20; ++step) {
    const Noised n = noised(noise, step, 100, 43);
    const StepTimes times(noise, stream_key(kSeed, "adapt/time", static_cast<std::uint64_t>(step)),
                          100);
    for (std::size_t row = 0; row < 200; ++row) {
      const TimePair pair = times(row / 2);
      const int t = row % 2 == 0 ? pair.late : pair.early;
      const std::size_t cell = (row % 2) * (kSteps + 1) + static_cast<std::size_t>(t);
      for (int c = n.responses[row / 2].begin; c < n.responses[row / 2].end; ++c) {
        ++seen[cell];
        masked[cell] += n.batch.ids[row * 43 + static_cast<std::size_t>(c)] == kMask;
      }
    }
  }
  for (std::size_t copy = 0; copy < 2; ++copy)
    for (int t = 1; t <= kSteps; ++t) {
      const std::size_t cell = copy * (kSteps + 1) + static_cast<std::size_t>(t);
      const double p = static_cast<double>(t) / kSteps;
      EXPECT_NEAR(masked[cell] / seen[cell], p, 5 * std::sqrt(p * (1 - p) / seen[cell]));
    }
}

TEST(Noising, PromptAndPaddingAreNeverTouched) {
  const Noised n = noised({.steps = 1}, 0, 12, 16);  // t = T: all of the response is masked
  for (std::size_t row = 0; row < 24; ++row)
    for (std::size_t c = 0; c < 16; ++c) {
      const Response& r = n.responses[row / 2];
      const bool inside = static_cast<int>(c) >= r.begin && static_cast<int>(c) < r.end;
      EXPECT_EQ(n.batch.ids[row * 16 + c], inside ? kMask : n.clean.ids[row * 16 + c]);
    }
}

TEST(Noising, ExpectedWeightPerResponseTokenIsThePapers) {
  // Sum over t of (T - t + 1) t / T^2 = (T + 1)(T + 2) / (6 T) = 8.84 at T = 50.
  double sum = 0;
  for (std::int64_t step = 0; step < 200; ++step) {
    const Noised n = noised({}, step, 100, 30);
    sum += std::accumulate(n.batch.weight.begin(), n.batch.weight.end(), 0.0);
  }
  EXPECT_NEAR(sum / 200, 8.84, 0.05);  // sigma 0.011
  EXPECT_NEAR((51.0 * 52.0) / 300.0, 8.84, 1e-12);
}

TEST(Noising, LabelSmoothingHasNoTimeWeight) {
  const Noised n = noised({.label_smoothing = 0.1}, 1, 30, 20);
  for (std::size_t t = 0; t < n.batch.target_row.size(); ++t) {
    const Response& r = n.responses[static_cast<std::size_t>(n.batch.target_row[t] / 20 / 2)];
    EXPECT_NEAR(n.batch.smooth[t], 0.1 * 50 / (60.0 * (r.end - r.begin)), 1e-6);
  }
}

TEST(StepTimes, StratifiedTimesCoverEveryStratumOnce) {
  // n = 2 T samples: each draw meets each time exactly twice.
  const RdmNoise noise{.steps = 50, .coupled = false};
  for (std::uint64_t key = 0; key < 20; ++key) {
    const StepTimes times(noise, key, 100);
    std::vector<int> count(51, 0);
    for (std::uint64_t k = 0; k < 100; ++k) ++count[static_cast<std::size_t>(times(k).late)];
    for (int t = 1; t <= 50; ++t) EXPECT_EQ(count[static_cast<std::size_t>(t)], 2);
  }
  const RdmNoise coupled{.steps = 50};
  const StepTimes times(coupled, 3, 100);
  std::vector<int> count(51, 0);
  for (std::uint64_t k = 0; k < 100; ++k) {
    ++count[static_cast<std::size_t>(times(k).late)];
    ++count[static_cast<std::size_t>(times(k).early)];
  }
  for (int t = 1; t <= 50; ++t) EXPECT_EQ(count[static_cast<std::size_t>(t)], 4);
}

TEST(StepTimes, TheTwoDrawsOfAStepAreShuffledApart) {
  const StepTimes times({.steps = 100}, 8, 100);
  std::set<std::int32_t> gaps;
  for (std::uint64_t k = 0; k < 100; ++k) gaps.insert(times(k).late - times(k).early);
  EXPECT_GT(gaps.size(), 30u);
}

TEST(StepTimes, EachSamplesTimesAreUniformInBothModes) {
  constexpr int kSteps = 4, kKeys = 8000;
  for (const TimeSampling sampling : {TimeSampling::stratified, TimeSampling::independent})
    for (const std::uint64_t k : {0ull, 2ull}) {
      const RdmNoise noise{.steps = kSteps, .sampling = sampling};
      std::vector<int> pairs(25, 0);
      for (int key = 0; key < kKeys; ++key) {
        const TimePair t = StepTimes(noise, stream_key(1, "t", static_cast<unsigned>(key)), 3)(k);
        ASSERT_GE(t.late, t.early);
        ++pairs[static_cast<std::size_t>(t.late * 5 + t.early)];
      }
      // Of two independent uniform draws, max and min are (i, j) with probability 2/16, (i, i)
      // 1/16.
      for (int late = 1; late <= kSteps; ++late)
        for (int early = 1; early <= late; ++early) {
          const double p = (late == early ? 1.0 : 2.0) / 16;
          EXPECT_NEAR(pairs[static_cast<std::size_t>(late * 5 + early)], p * kKeys,
                      4.5 * std::sqrt(kKeys * p * (1 - p)));
        }
    }
}

TEST(StepTimes, IndependentTimesIgnoreTheStepsSize) {
  const RdmNoise noise{.sampling = TimeSampling::independent};
  for (std::uint64_t k = 0; k < 10; ++k)
    EXPECT_EQ(StepTimes(noise, 5, 10)(k).late, StepTimes(noise, 5, 1000)(k).late);
}

TEST(Noising, ASampleWithoutMasksContributesNothing) {
  // One response token at t = 1 of 1000: almost never masked.
  const RdmNoiser noiser({.steps = 1000}, kMask, 0, "adapt");
  int empty = 0;
  for (std::int64_t step = 0; step < 50; ++step) {
    MicroBatch batch = clean_batch(step, 1, 4, 2);
    const Response response{3, 4};
    noiser.corrupt(batch, std::span(&response, 1), {0, 1});
    EXPECT_EQ(batch.weight.size(), batch.target_row.size());
    EXPECT_EQ(batch.normalizer, 1);
    empty += batch.target_row.empty();
  }
  EXPECT_GT(empty, 0);
}

TEST(Noising, RefusesImpossibleSettings) {
  EXPECT_THROW(RdmNoiser({.steps = 0}, kMask, 0, ""), ConfigError);
  EXPECT_THROW(RdmNoiser({.label_smoothing = 1.0}, kMask, 0, ""), ConfigError);
  EXPECT_THROW(RdmNoiser({.label_smoothing = -0.1}, kMask, 0, ""), ConfigError);
}

}  // namespace
}  // namespace demist::data
