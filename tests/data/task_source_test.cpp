// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <thread>

#include "core/error.hpp"
#include "data/layout.hpp"
#include "data/source.hpp"
#include "data/task_batches.hpp"
#include "tests/data/batches.hpp"

namespace demist::data {
namespace {

constexpr std::int32_t kMask = 99999;

// Example e of task t: prompt of 2 + e % 13 ids and response of 1 + e % 7, all 1000 (t + 1) + e.
Task make_task(int examples, std::int32_t task) {
  Task made;
  for (std::int32_t e = 0; e < examples; ++e) {
    const std::int32_t id = 1000 * (task + 1) + e;
    made.examples.push_back({std::vector<std::int32_t>(static_cast<std::size_t>(2 + e % 13), id),
                             std::vector<std::int32_t>(static_cast<std::size_t>(1 + e % 7), id)});
  }
  return made;
}

TaskOptions small_options() {
  TaskOptions options;
  options.batch = {.micro_batches = 3, .max_tokens = 128, .sequence_length = 32};
  options.seed = 3;
  options.mask_id = kMask;
  return options;
}

std::unique_ptr<Source> one_task(int examples, const TaskOptions& options) {
  std::vector<Task> tasks{make_task(examples, 0)};
  return make_task_source(std::move(tasks), {}, options);
}

// Micro-batch number i of a stage.
MicroBatch nth(const Source& source, std::int64_t i) {
  return source.make(i / source.micro_batches(),
                     static_cast<std::int32_t>(i % source.micro_batches()));
}

TEST(TaskSource, RowsAreBosPromptResponseEosPadding) {
  const auto source = one_task(40, small_options());
  const MicroBatch batch = source->make(0, 0);
  const auto ids = clean_ids(batch);
  std::int64_t real = 0;
  for (std::int64_t row = 0; row < batch.rows; ++row) {
    const std::int32_t e = ids[static_cast<std::size_t>(row * batch.cols + 1)] - 1000;
    const std::int64_t prompt = 1 + 2 + e % 13, length = prompt + 1 + e % 7 + 1;
    real += length;
    for (std::int64_t c = 0; c < batch.cols; ++c) {
      const auto token = static_cast<std::size_t>(row * batch.cols + c);
      const std::int32_t expected = c == 0            ? 0
                                    : c < length - 1  ? 1000 + e
                                    : c == length - 1 ? 2
                                                      : 1;
      EXPECT_EQ(ids[token], expected);
      EXPECT_EQ(batch.positions[token], c < length ? c + 2 : 1);
      EXPECT_EQ(batch.key_begin[token], 0);
      EXPECT_EQ(batch.key_end[token], length);
      EXPECT_TRUE(batch.ids[token] != kMask || (c >= prompt && c < length));
    }
  }
  EXPECT_EQ(batch.real_tokens, real);
}

TEST(TaskSource, ResponsesAreNoisedToTheirLastToken) {
  TaskOptions options = small_options();
  options.noise.steps = 1;  // everything that may be masked is
  const MicroBatch batch = one_task(40, options)->make(0, 0);
  std::map<std::int64_t, std::vector<std::int32_t>> targets;
  std::map<std::int64_t, double> weight;
  for (std::size_t t = 0; t < batch.target_row.size(); ++t) {
    targets[batch.target_row[t] / batch.cols].push_back(batch.target_id[t]);
    weight[batch.target_row[t] / batch.cols] += batch.weight[t];
  }
  ASSERT_EQ(static_cast<std::int64_t>(targets.size()), batch.rows);
  for (auto& [row, ids] : targets) {
    const std::int32_t e = ids[0] - 1000;
    EXPECT_EQ(ids.size(), static_cast<std::size_t>(1 + e % 7 + 1));
    EXPECT_EQ(ids.back(), 2);
    EXPECT_NEAR(weight[row], 1.0 / static_cast<double>(batch.rows), 1e-6);  // rows weigh alike
  }
}

TEST(TaskSource, AnEpochHoldsEveryExampleOnceUnderTheBudget) {
  for (const bool coupled : {true, false}) {
    TaskOptions options = small_options();
    options.noise.coupled = coupled;
    const auto source = one_task(157, options);
    const std::int64_t copies = coupled ? 2 : 1;
    std::vector<std::vector<std::int32_t>> epochs;
    std::set<std::uint64_t> names;
    std::size_t rows = 0;
    std::int64_t most = 0, batches = 0;
    while (epochs.size() < 3) {
      epochs.emplace_back();
      while (epochs.back().size() < 157) {
        const MicroBatch batch = nth(*source, batches++);
        EXPECT_LE(batch.rows * batch.cols, 128);
        EXPECT_EQ(batch.cols % 8, 0);
        EXPECT_LE(static_cast<std::int64_t>(batch.target_row.size()), source->max_targets());
        most = std::max(most, batch.rows * batch.cols);
        const auto ids = clean_ids(batch);
        for (std::int64_t row = 0; row < batch.rows; row += copies)
          epochs.back().push_back(ids[static_cast<std::size_t>(row * batch.cols + 1)]);
        names.insert(batch.sample.begin(), batch.sample.end());
        rows += batch.sample.size();
      }
      const std::set<std::int32_t> seen(epochs.back().begin(), epochs.back().end());
      EXPECT_EQ(seen.size(), 157u);
    }
    EXPECT_EQ(most, source->max_tokens());
    EXPECT_EQ(names.size(), rows);  // names never repeat
    EXPECT_NE(epochs[0], epochs[1]);
  }
}

TEST(TaskSource, IsAPureFunctionOfStepAndIndex) {
  const auto make = [](std::uint64_t seed) {
    TaskOptions options = small_options();
    options.seed = seed;
    return make_task_source({make_task(60, 0), make_task(35, 1)}, {3, 1}, options);
  };
  const auto one = make(3), two = make(3);
  std::vector<MicroBatch> forward, backward(60);
  for (std::int64_t i = 0; i < 60; ++i) forward.push_back(nth(*one, i));
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (std::size_t i = 60; i-- > 0;)
        if (i % 4 == t) backward[i] = nth(*two, static_cast<std::int64_t>(i));
    });
  for (auto& thread : threads) thread.join();
  for (std::size_t i = 0; i < 60; ++i) expect_equal(forward[i], backward[i]);
  EXPECT_NE(make(4)->make(0, 0).ids, forward[0].ids);
}

TEST(TaskSource, MixturesFollowTheirRatiosAndFinishEachTasksEpochs) {
  std::vector<Task> tasks{make_task(40, 0), make_task(90, 1), make_task(8, 2)};
  const auto source = make_task_source(std::move(tasks), {0.5, 0.3, 0.2}, small_options());
  std::vector<double> batches(3, 0);
  std::map<std::int32_t, int> seen;
  for (std::int64_t i = 0; i < 300; ++i) {
    const MicroBatch batch = nth(*source, i);
    const auto ids = clean_ids(batch);
    std::set<std::int32_t> of;
    for (std::int64_t row = 0; row < batch.rows; row += 2) {
      const std::int32_t id = ids[static_cast<std::size_t>(row * batch.cols + 1)];
      ++seen[id];
      of.insert(id / 1000 - 1);
    }
    ASSERT_EQ(of.size(), 1u);  // a micro-batch has one task
    ++batches[static_cast<std::size_t>(*of.begin())];
    EXPECT_NEAR(batches[0], 0.5 * static_cast<double>(i + 1), 1.01);
    EXPECT_NEAR(batches[1], 0.3 * static_cast<double>(i + 1), 1.51);
  }
  // Within a task, no example is ever two epochs ahead of another.
  for (int task = 1; task <= 3; ++task) {
    int least = 1000, most = 0;
    const int examples = task == 1 ? 40 : task == 2 ? 90 : 8;
    for (int e = 0; e < examples; ++e) {
      least = std::min(least, seen[1000 * task + e]);
      most = std::max(most, seen[1000 * task + e]);
    }
    EXPECT_GT(least, 0);
    EXPECT_LE(most - least, 1);
  }
}

TEST(TaskSource, TimesAreStratifiedOverTheWholeStep) {
  TaskOptions options = small_options();
  options.noise = {.steps = 1000, .coupled = false};
  const auto source = one_task(100, options);
  for (std::int64_t step = 0; step < 30; ++step) {
    // Recover each row's time from its weight (T - t + 1) / (rows N), and its stratum.
    std::vector<double> times;
    std::size_t rows = 0;
    for (std::int32_t index = 0; index < 3; ++index) {
      const MicroBatch batch = source->make(step, index);
      rows += static_cast<std::size_t>(batch.rows);
      const auto ids = clean_ids(batch);
      std::map<std::int64_t, double> by_row;
      for (std::size_t t = 0; t < batch.target_row.size(); ++t) {
        const std::int64_t row = batch.target_row[t] / batch.cols;
        const int e = ids[static_cast<std::size_t>(row * batch.cols + 1)] - 1000;
        const double n = 1 + e % 7 + 1;
        by_row[row] = 1001 - std::round(batch.weight[t] * n * static_cast<double>(batch.rows));
      }
      for (const auto& [row, time] : by_row) times.push_back(time);
    }
    std::sort(times.begin(), times.end());
    // Sorted times of distinct strata: the j-th and the (j + 2)-th are a stratum apart at least.
    for (std::size_t j = 2; j < times.size(); ++j)
      EXPECT_GE(times[j] - times[j - 2], 1000.0 / static_cast<double>(rows) - 2);
  }
}

TEST(TaskSource, BadInputIsOneClearError) {
  const TaskOptions options = small_options();
  EXPECT_THROW(make_task_source({}, {}, options), ConfigError);
  EXPECT_THROW(make_task_source({Task{}}, {}, options), DataError);
  EXPECT_THROW(make_task_source({make_task(3, 0), make_task(3, 1)}, {1}, options), ConfigError);
  EXPECT_THROW(make_task_source({make_task(3, 0), make_task(3, 1)}, {1, 0}, options), ConfigError);
  TaskOptions tight = options;
  tight.batch.max_tokens = 40;  // a pair of 21 tokens needs 2 x 24
  EXPECT_THROW(one_task(40, tight), ConfigError);
  tight = options;
  tight.batch.sequence_length = 10;
  EXPECT_THROW(one_task(40, tight), DataError);
  tight = options;
  tight.batch.micro_batches = 0;
  EXPECT_THROW(one_task(40, tight), ConfigError);
}

TEST(TaskBatches, ShapesAreFewAndPaddingIsSmall) {
  std::vector<std::int64_t> lengths;
  for (std::int64_t i = 0; i < 5000; ++i) lengths.push_back(5 + i * i % 91);
  const TaskBatches batches(lengths, 1024, 2, 1);
  std::int64_t tokens = 0, real = 0;
  std::set<std::pair<std::int64_t, std::int64_t>> shapes;
  for (std::uint64_t b = 0; b < batches.count(); ++b) {
    shapes.emplace(batches.samples(b), batches.cols(b));
    tokens += batches.samples(b) * batches.cols(b);
    for (const std::uint32_t example : batches.examples(b)) real += lengths[example];
  }
  EXPECT_LE(shapes.size(), 30u);
  EXPECT_GT(static_cast<double>(real) / static_cast<double>(tokens), 0.9);
}

TEST(TaskBatches, CompanyChangesBetweenEpochs) {
  const std::vector<std::int64_t> lengths(100, 10);
  const TaskBatches batches(lengths, 160, 1, 1);
  ASSERT_EQ(batches.count(), 10u);
  const auto company = [&](std::uint64_t epoch) {
    std::set<std::set<std::uint32_t>> sets;
    for (std::uint64_t b = 0; b < 10; ++b) {
      const auto members = batches.examples(epoch * 10 + b);
      sets.emplace(members.begin(), members.end());
    }
    return sets;
  };
  EXPECT_NE(company(0), company(1));
}

}  // namespace
}  // namespace demist::data
