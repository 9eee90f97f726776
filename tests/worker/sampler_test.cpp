// The sampler against a literal, slow transcription of method section 4.1, step by step.
// SPDX-License-Identifier: Apache-2.0
#include "worker/generate/sampler.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <numbers>
#include <set>

#include "core/error.hpp"
#include "core/philox.hpp"
#include "worker/generate/batching.hpp"
#include "worker/generate/noise.hpp"

namespace demist::generate {
namespace {

constexpr std::int32_t kVocab = 13, kMask = 12;
using Ids = std::vector<std::int32_t>;

// A model made of a hash: the logits of a position depend on every id of the canvas and on nothing
// else, as a real model's do. Coarse logits take few values, so that confidences tie.
struct FakeModel {
  bool coarse = false;

  std::vector<float> logits(const Ids& canvas, std::size_t position) const {
    std::uint64_t state = 17;
    for (const std::int32_t id : canvas) state = mix64(state ^ static_cast<std::uint64_t>(id));
    std::vector<float> out;
    for (std::int32_t v = 0; v < kVocab; ++v) {
      const Philox4 words = draw(state, position, static_cast<std::uint32_t>(v));
      const double u = uniform(words);
      // The mask id gets the largest logit: the sampler must exclude it.
      out.push_back(v == kMask ? 50.0f
                    : coarse   ? (v == static_cast<int>(u * 100) % kVocab ? 2.0f : 0.0f)
                               : static_cast<float>(6 * u));
    }
    return out;
  }
};

// Counts what it is asked, so that tests can see which rows and how often.
struct Oracle {
  FakeModel model;
  std::int64_t calls = 0, rows = 0;

  LogitsFunction function() {
    return [this](const CanvasBatch& batch, std::span<const std::int32_t> wanted,
                  std::span<float> logits) {
      ++calls;
      rows += static_cast<std::int64_t>(wanted.size());
      ASSERT_EQ(logits.size(), wanted.size() * kVocab);
      for (std::size_t w = 0; w < wanted.size(); ++w) {
        const std::int64_t row = wanted[w] / batch.cols, col = wanted[w] % batch.cols;
        ASSERT_LT(col, batch.length[static_cast<std::size_t>(row)]);
        const auto first = batch.ids.begin() + row * batch.cols;
        const Ids canvas(first, first + batch.length[static_cast<std::size_t>(row)]);
        const auto values = model.logits(canvas, static_cast<std::size_t>(col));
        std::copy(values.begin(), values.end(),
                  logits.begin() + static_cast<std::ptrdiff_t>(w * kVocab));
      }
    };
  }
};

struct Reference {
  std::vector<Ids> after_step;  // the response after each of the S steps
  std::map<int, float> score;
};

// Method section 4.1, line by line, with sets where it has sets. R is 0..n-1.
Reference slow_sample(const Request& request, const SamplerOptions& o, const FakeModel& model) {
  Reference result;
  const int n = request.length;
  Ids x(static_cast<std::size_t>(n), kMask);
  std::set<int> noisy;
  for (int i = 0; i < n; ++i) noisy.insert(i);
  auto& score = result.score;

  for (int s = 1; s <= o.steps; ++s) {
    Ids canvas = {0};
    canvas.insert(canvas.end(), request.prompt.begin(), request.prompt.end());
    canvas.insert(canvas.end(), x.begin(), x.end());
    canvas.push_back(2);

    std::map<int, std::int32_t> c;
    std::map<int, float> cs;
    for (int i = 0; i < n; ++i) {
      std::vector<float> l = model.logits(canvas, 1 + request.prompt.size() + std::size_t(i));
      l[kMask] = -std::numeric_limits<float>::infinity();
      double top = -1e300, sum = 0, tempered = 0;
      for (const float v : l) top = std::max(top, double(v));
      for (const float v : l) sum += std::exp(double(v) - top);
      std::vector<double> lp;
      for (const float v : l) lp.push_back(double(v) - top - std::log(sum));
      int token = 0;
      if (o.temperature == 0) {
        for (int v = 0; v < kVocab; ++v)
          if (lp[std::size_t(v)] > lp[std::size_t(token)]) token = v;
      } else {
        for (const double v : lp) tempered += std::exp(v / o.temperature);
        const double u = uniform(draw(stream_key(o.seed, "generate.token", std::uint64_t(s)),
                                      request.id, std::uint32_t(i)));
        double cumulative = 0;
        while (token < kVocab - 1) {
          cumulative += std::exp(lp[std::size_t(token)] / o.temperature) / tempered;
          if (u < cumulative) break;
          ++token;
        }
      }
      c[i] = token;
      cs[i] = float(lp[std::size_t(token)]);
    }

    const bool linear = o.schedule == RateSchedule::linear;
    const long double rate = linear ? (long double)(o.steps - s) / o.steps
                                    : std::cos(std::numbers::pi_v<long double> / 2 * s / o.steps);
    const int k = int(std::floor(n * rate + 1e-12L));
    std::map<int, double> key;
    std::multiset<double> keys;
    for (int i = 0; i < n; ++i) {
      key[i] = cs[i];
      if (o.stochastic > 0 && s < o.steps)
        key[i] += o.stochastic * double(rate) *
                  gumbel(draw(stream_key(o.seed, "generate.route", std::uint64_t(s)), request.id,
                              std::uint32_t(i)));
      keys.insert(key[i]);
    }
    std::set<int> low, v1fail, to_mask, to_tok, next;
    for (int i = 0; i < n; ++i) {
      if (key[i] < *std::next(keys.begin(), k)) low.insert(i);
      const bool same_and_less = c[i] == x[std::size_t(i)] && cs[i] < score[i];
      if (low.count(i) && (o.routing == Routing::uncond || same_and_less)) v1fail.insert(i);
      if (!noisy.count(i) && v1fail.count(i)) to_mask.insert(i);
      if (noisy.count(i) && low.count(i)) to_mask.insert(i);
      if (noisy.count(i) && !low.count(i)) to_tok.insert(i);
      if ((noisy.count(i) || v1fail.count(i)) && low.count(i)) next.insert(i);
    }
    for (const int i : to_mask) {
      x[std::size_t(i)] = kMask;
      score[i] = -std::numeric_limits<float>::infinity();
    }
    for (const int i : to_tok) {
      x[std::size_t(i)] = c[i];
      score[i] = cs[i];
    }
    noisy = next;
    result.after_step.push_back(x);
  }
  return result;
}

Request request_of(std::int32_t length, std::uint64_t id) {
  Ids prompt;
  for (std::uint64_t i = 0; i < id % 5; ++i) prompt.push_back(4 + std::int32_t(i * id % 8));
  return {prompt, length, id};
}

struct Trace {
  std::vector<std::vector<Ids>> after_step;
  StepObserver observer() {
    return [this](std::int32_t step, const std::vector<Ids>& responses) {
      ASSERT_EQ(static_cast<std::size_t>(step), after_step.size() + 1);
      after_step.push_back(responses);
    };
  }
};

// Every mode, by its parts.
class Modes
    : public testing::TestWithParam<
          std::tuple<Routing, RateSchedule, double /*stochastic*/, double /*temperature*/>> {
 protected:
  SamplerOptions options(std::int32_t steps) const {
    SamplerOptions o;
    std::tie(o.routing, o.schedule, o.stochastic, o.temperature) = GetParam();
    o.steps = steps;
    o.seed = 99;
    o.mask_id = kMask;
    return o;
  }
};

TEST_P(Modes, EveryStepEqualsTheSlowReference) {
  for (const bool coarse : {false, true})
    for (const std::int32_t steps : {1, 2, 3, 6, 10, 25}) {
      const std::vector<Request> requests = {request_of(7, 3), request_of(20, 4), request_of(1, 11),
                                             request_of(12, 7)};
      for (const bool stop : {false, true}) {
        SamplerOptions o = options(steps);
        o.stop_when_done = stop;
        Oracle oracle{{coarse}};
        Trace trace;
        const auto responses = sample(requests, kVocab, o, oracle.function(), trace.observer());
        for (std::size_t r = 0; r < requests.size(); ++r) {
          const Reference slow = slow_sample(requests[r], o, oracle.model);
          for (std::size_t s = 0; s < trace.after_step.size(); ++s)
            ASSERT_EQ(trace.after_step[s][r], slow.after_step[s])
                << "request " << r << " step " << s + 1 << " of " << steps;
          ASSERT_EQ(responses[r].ids, slow.after_step.back());
          for (std::size_t i = 0; i < responses[r].ids.size(); ++i) {
            ASSERT_NE(responses[r].ids[i], kMask);
            ASSERT_FLOAT_EQ(responses[r].score[i], slow.score.at(static_cast<int>(i)));
          }
        }
      }
    }
}

TEST_P(Modes, StoppingEarlyChangesNothingButTheWork) {
  const std::vector<Request> requests = {request_of(3, 21), request_of(5, 22)};
  SamplerOptions o = options(40);
  Oracle early, late;
  const auto a = sample(requests, kVocab, o, early.function());
  o.stop_when_done = false;
  const auto b = sample(requests, kVocab, o, late.function());
  for (std::size_t r = 0; r < requests.size(); ++r) {
    EXPECT_EQ(a[r].ids, b[r].ids);
    EXPECT_EQ(a[r].score, b[r].score);
    EXPECT_LT(a[r].steps_run, 40);
    EXPECT_EQ(b[r].steps_run, 40);
  }
  EXPECT_EQ(late.calls, 40);
  EXPECT_EQ(late.rows, 40 * 8);
  EXPECT_LT(early.rows, late.rows);
}

TEST_P(Modes, ARequestDoesNotDependOnItsBatch) {
  std::vector<Request> requests;
  for (std::uint64_t id = 0; id < 9; ++id)
    requests.push_back(request_of(static_cast<std::int32_t>(id * 3 % 14), id));
  const SamplerOptions o = options(8);
  Oracle oracle;
  const auto together = sample(requests, kVocab, o, oracle.function());
  const auto batched = sample_all(requests, kVocab, o, 40, oracle.function());
  for (std::size_t r = 0; r < requests.size(); ++r) {
    const auto alone = sample({requests[r]}, kVocab, o, oracle.function());
    for (const Response& other : {together[r], batched[r]}) {
      EXPECT_EQ(alone[0].ids, other.ids);
      EXPECT_EQ(alone[0].score, other.score);
      EXPECT_EQ(alone[0].mean_log_prob, other.mean_log_prob);
      EXPECT_EQ(alone[0].steps_run, other.steps_run);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, Modes,
    testing::Combine(testing::Values(Routing::uncond, Routing::cond),
                     testing::Values(RateSchedule::cosine, RateSchedule::linear),
                     testing::Values(0.0, 1.0, 5.0), testing::Values(0.0, 0.3, 1.0)));

// Masked positions after each step of one uncond request without ties.
std::vector<std::int64_t> masked_counts(std::int32_t n, std::int32_t steps, RateSchedule schedule) {
  SamplerOptions o;
  o.steps = steps;
  o.schedule = schedule;
  o.mask_id = kMask;
  o.stop_when_done = false;
  Oracle oracle;
  std::vector<std::int64_t> counts;
  sample({request_of(n, 2)}, kVocab, o, oracle.function(),
         [&](std::int32_t, const std::vector<Ids>& responses) {
           counts.push_back(std::count(responses[0].begin(), responses[0].end(), kMask));
         });
  return counts;
}

TEST(Schedule, CosineCountsOfTheMethodPage) {
  EXPECT_EQ(masked_counts(20, 10, RateSchedule::cosine),
            (std::vector<std::int64_t>{19, 19, 17, 16, 14, 11, 9, 6, 3, 0}));
}

TEST(Schedule, CountsAreExactWhereFloatingPointWouldRoundBelow) {
  EXPECT_EQ(masked_counts(10, 10, RateSchedule::linear),  // 10 * (1 - 0.9) is 0.9999...
            (std::vector<std::int64_t>{9, 8, 7, 6, 5, 4, 3, 2, 1, 0}));
  EXPECT_EQ(masked_counts(14, 3, RateSchedule::cosine), (std::vector<std::int64_t>{12, 7, 0}));
  EXPECT_EQ(masked_counts(5, 1, RateSchedule::cosine), (std::vector<std::int64_t>{0}));
}

TEST(Sampler, AnUnchangedCanvasIsNotShownAgain) {
  SamplerOptions o;
  o.steps = 200;
  o.mask_id = kMask;
  std::int64_t calls = 0;
  // A model without context: the canvas changes only when the number of masks does.
  const LogitsFunction logits = [&](const CanvasBatch&, std::span<const std::int32_t> wanted,
                                    std::span<float> out) {
    ++calls;
    for (std::size_t w = 0; w < wanted.size(); ++w) {
      const auto values = FakeModel{}.logits({}, static_cast<std::size_t>(wanted[w]));
      std::copy(values.begin(), values.end(), &out[w * kVocab]);
    }
  };
  const auto responses = sample({request_of(5, 1)}, kVocab, o, logits);
  EXPECT_EQ(calls, 5);  // 4, 3, 2, 1, 0 masks are left
  o.stop_when_done = false;
  EXPECT_EQ(sample({request_of(5, 1)}, kVocab, o, logits)[0].ids, responses[0].ids);
  EXPECT_EQ(calls, 5 + 200);
}

TEST(Sampler, EmptyRequestsCostNothing) {
  SamplerOptions o;
  o.mask_id = kMask;
  Oracle oracle;
  const auto responses = sample({request_of(0, 1), request_of(0, 2)}, kVocab, o, oracle.function());
  EXPECT_EQ(oracle.calls, 0);
  ASSERT_EQ(responses.size(), 2u);
  EXPECT_TRUE(responses[0].ids.empty());
  EXPECT_EQ(responses[0].steps_run, 0);
  EXPECT_EQ(responses[0].mean_log_prob, 0);
  EXPECT_TRUE(sample({}, kVocab, o, oracle.function()).empty());
}

TEST(Sampler, MeanLogProbLeavesSpecialTokensOut) {
  SamplerOptions o;
  o.steps = 1;
  o.mask_id = kMask;
  // Token 2 (</s>) wins at the first position, token 5 at the second.
  const LogitsFunction logits = [](const CanvasBatch&, std::span<const std::int32_t>,
                                   std::span<float> out) {
    std::fill(out.begin(), out.end(), 0.0f);
    out[2] = 3;
    out[kVocab + 5] = 1;
  };
  const auto responses = sample({{{}, 2, 0}}, kVocab, o, logits);
  EXPECT_EQ(responses[0].ids, (Ids{2, 5}));
  const double log_p = 1 - std::log(std::exp(1.0) + 11);  // 12 classes without the mask
  EXPECT_NEAR(responses[0].score[1], log_p, 1e-6);
  EXPECT_NEAR(responses[0].mean_log_prob, log_p, 1e-6);
}

TEST(Sampler, TemperatureDrawsFromTheTemperedDistribution) {
  const std::vector<float> logits = {0.3f, -1.0f, 1.2f, 0.0f, 9.0f};  // the last is the mask
  SamplerOptions o;
  o.steps = 1;
  o.temperature = 0.7;
  o.mask_id = 4;
  o.seed = 5;
  std::vector<Request> requests;
  for (std::uint64_t id = 0; id < 40000; ++id) requests.push_back({{}, 1, id});
  const auto responses =
      sample(requests, 5, o,
             [&](const CanvasBatch&, std::span<const std::int32_t> wanted, std::span<float> out) {
               for (std::size_t w = 0; w < wanted.size(); ++w)
                 std::copy(logits.begin(), logits.end(), &out[w * 5]);
             });
  std::array<double, 5> count{}, weight{};
  for (const Response& response : responses) ++count[std::size_t(response.ids[0])];
  double total = 0, plain = 0;
  for (std::size_t v = 0; v < 4; ++v) {
    total += weight[v] = std::exp(logits[v] / 0.7);
    plain += std::exp(logits[v]);
  }
  double chi_square = 0;
  for (std::size_t v = 0; v < 4; ++v) {
    const double expected = 40000 * weight[v] / total;
    chi_square += (count[v] - expected) * (count[v] - expected) / expected;
  }
  EXPECT_LT(chi_square, 16.27);  // 3 degrees of freedom, p = 0.001
  EXPECT_EQ(count[4], 0);
  const std::size_t token = std::size_t(responses[0].ids[0]);
  EXPECT_NEAR(responses[0].score[0], logits[token] - std::log(plain), 1e-6);  // untempered
}

TEST(Sampler, GumbelNoiseHasTheRightMoments) {
  double sum = 0, squares = 0;
  const int n = 200000;
  for (int i = 0; i < n; ++i) {
    const double g = gumbel(draw(stream_key(1, kRouteStream, 1), std::uint64_t(i), 0));
    sum += g;
    squares += g * g;
  }
  const double mean = sum / n, variance = squares / n - mean * mean;
  EXPECT_NEAR(mean, 0.5772, 0.01);
  EXPECT_NEAR(variance, std::numbers::pi * std::numbers::pi / 6, 0.03);
  EXPECT_TRUE(std::isfinite(gumbel(Philox4{})));
  EXPECT_TRUE(std::isfinite(gumbel(Philox4{{~0u, ~0u, ~0u, ~0u}})));
}

TEST(Sampler, BadInputIsOneClearError) {
  const auto try_with = [](auto change) {
    SamplerOptions o;
    o.mask_id = kMask;
    Request request = request_of(3, 1);
    change(o, request);
    Oracle oracle;
    sample({request}, kVocab, o, oracle.function());
  };
  EXPECT_NO_THROW(try_with([](SamplerOptions&, Request&) {}));
  EXPECT_THROW(try_with([](SamplerOptions& o, Request&) { o.steps = 0; }), ConfigError);
  EXPECT_THROW(try_with([](SamplerOptions& o, Request&) { o.mask_id = kVocab; }), ConfigError);
  EXPECT_THROW(try_with([](SamplerOptions& o, Request&) { o.temperature = -1; }), ConfigError);
  EXPECT_THROW(try_with([](SamplerOptions& o, Request&) { o.stochastic = std::nan(""); }),
               ConfigError);
  EXPECT_THROW(try_with([](SamplerOptions&, Request& r) { r.length = -1; }), ConfigError);

  SamplerOptions o;
  o.mask_id = kMask;
  const auto broken = [](float value) {
    return [value](const CanvasBatch&, std::span<const std::int32_t>, std::span<float> out) {
      std::fill(out.begin(), out.end(), 0.0f);
      out[3] = value;
    };
  };
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_THROW(sample({request_of(2, 1)}, kVocab, o, broken(std::nanf(""))), NumericError);
  EXPECT_THROW(sample({request_of(2, 1)}, kVocab, o, broken(inf)), NumericError);
  EXPECT_NO_THROW(sample({request_of(2, 1)}, kVocab, o, broken(-inf)));  // a banned token
}

TEST(Batching, SimilarLengthsTogetherUnderTheBudget) {
  std::vector<Request> requests;
  for (std::uint64_t id = 0; id < 50; ++id)
    requests.push_back(request_of(static_cast<std::int32_t>(mix64(id) % 30), id));
  requests.push_back(request_of(200, 50));  // longer than the budget: alone
  std::set<std::size_t> seen;
  std::int64_t previous_cols = std::numeric_limits<std::int64_t>::max();
  for (const auto& batch : make_batches(requests, 100)) {
    const std::int64_t cols = canvas_length(requests[batch.front()]);
    EXPECT_TRUE(batch.size() == 1 || static_cast<std::int64_t>(batch.size()) * cols <= 100);
    EXPECT_LE(cols, previous_cols);
    previous_cols = canvas_length(requests[batch.back()]);
    for (const std::size_t index : batch) {
      EXPECT_TRUE(seen.insert(index).second);
      EXPECT_LE(canvas_length(requests[index]), cols);
    }
  }
  EXPECT_EQ(seen.size(), requests.size());
  EXPECT_TRUE(make_batches({}, 100).empty());
  EXPECT_THROW(make_batches(requests, 0), ConfigError);
}

TEST(Batching, ProgressCountsUpToAllRequests) {
  std::vector<Request> requests;
  for (std::uint64_t id = 0; id < 10; ++id) requests.push_back(request_of(4, id));
  SamplerOptions o;
  o.mask_id = kMask;
  Oracle oracle;
  std::size_t last = 0, calls = 0;
  sample_all(requests, kVocab, o, 30, oracle.function(), [&](std::size_t finished) {
    EXPECT_GT(finished, last);
    last = finished;
    ++calls;
  });
  EXPECT_EQ(last, 10u);
  EXPECT_GT(calls, 1u);
}

}  // namespace
}  // namespace demist::generate
