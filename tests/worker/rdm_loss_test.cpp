// The loss that a model trains on, from pairs to Model::loss, against the slow reference.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>

#include "core/philox.hpp"
#include "data/noising.hpp"
#include "data/tokenizer.hpp"
#include "kernels/backend.hpp"
#include "tests/support/rdm_reference.hpp"
#include "worker/model/model.hpp"

namespace demist {
namespace {

constexpr std::int32_t kVocab = 37, kMask = kVocab - 1;
constexpr std::uint64_t kSeed = 11;
constexpr std::size_t kPairs = 6;
const char* const kStream = "adapt";

// Pair i: its prompt begins with token 4 + i, which names it.
data::Task pairs() {
  data::Task task;
  const std::uint64_t key = stream_key(kSeed, "pairs", 0);
  const auto some = [&](std::size_t pair, std::uint32_t place) {
    return static_cast<std::int32_t>(10 + uniform_int(draw(key, pair, place), kMask - 10));
  };
  for (std::size_t i = 0; i < kPairs; ++i) {
    data::TaskExample example{{static_cast<std::int32_t>(4 + i)}, {}};
    for (std::uint32_t c = 0; c < 1 + i % 3; ++c) example.prompt.push_back(some(i, c));
    for (std::uint32_t c = 0; c < 2 + i; ++c) example.response.push_back(some(i, 100 + c));
    task.examples.push_back(std::move(example));
  }
  return task;
}

// The reference's view of a micro-batch: clean sequences, and for each copy its time and masks.
std::vector<reference::RdmSequence> sequences_of(const data::MicroBatch& batch,
                                                 const data::RdmNoise& noise,
                                                 const data::Task& task) {
  const std::int64_t copies = noise.coupled ? 2 : 1, samples = batch.rows / copies;
  const data::StepTimes times(
      noise,
      stream_key(kSeed, std::string(kStream) + "/time", static_cast<std::uint64_t>(batch.step)),
      static_cast<std::uint64_t>(samples));
  std::vector<reference::RdmSequence> sequences;
  for (std::int64_t s = 0; s < samples; ++s) {
    const auto first = static_cast<std::size_t>(s * copies * batch.cols);
    const auto name = static_cast<std::size_t>(batch.ids[first + 1] - 4);
    const data::TaskExample& example = task.examples.at(name);
    reference::RdmSequence sequence;
    sequence.ids = {data::SpecialIds::bos};
    sequence.ids.insert(sequence.ids.end(), example.prompt.begin(), example.prompt.end());
    sequence.response.assign(sequence.ids.size(), false);
    sequence.ids.insert(sequence.ids.end(), example.response.begin(), example.response.end());
    sequence.ids.push_back(data::SpecialIds::eos);
    sequence.response.resize(sequence.ids.size(), true);
    const data::TimePair pair = times(static_cast<std::uint64_t>(s));
    for (std::int64_t copy = 0; copy < copies; ++copy) {
      reference::NoisedCopy noised{copy == 0 ? pair.late : pair.early, {}};
      for (std::size_t i = 0; i < sequence.ids.size(); ++i)
        noised.masked.push_back(
            batch.ids[first + static_cast<std::size_t>(copy * batch.cols) + i] == kMask);
      sequence.copies.push_back(std::move(noised));
    }
    sequences.push_back(std::move(sequence));
  }
  return sequences;
}

// A small model with random weights, wide enough that its answers differ from place to place.
class SmallModel {
 public:
  SmallModel()
      : backend_(make_cpu_backend()),
        tensor_(make_local_communicator()),
        table_(config(), 1, 0),
        arena_(static_cast<std::size_t>(table_.size())),
        model_(config(), table_, *backend_, *tensor_, DType::f32, {512, 256, true}) {
    const std::uint64_t key = stream_key(kSeed, "weights", 0);
    for (std::size_t i = 0; i < arena_.size(); ++i)
      arena_[i] = static_cast<float>(uniform(draw(key, i, 0)) - 0.5);
    views_ = make_views(config(), table_, arena_.data(), DType::f32,
                        arena_.data() + table_.matrices_end());
  }

  double loss(const data::MicroBatch& batch) { return model_.loss(views_, batch); }

  // log p of every token of the vocabulary at every place of the batch, in double precision.
  std::vector<double> log_probabilities(const data::MicroBatch& batch) {
    std::vector<std::int32_t> all(batch.ids.size());
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::int32_t>(i);
    std::vector<float> logits(all.size() * kVocab);
    model_.logits(views_,
                  {{batch.rows, batch.cols, batch.sample},
                   {batch.key_begin, batch.key_end},
                   batch.ids,
                   batch.positions,
                   {},
                   {}},
                  all, logits);
    std::vector<double> log_p(logits.begin(), logits.end());
    for (std::size_t row = 0; row < all.size(); ++row) {
      const std::span<double> values = std::span(log_p).subspan(row * kVocab, kVocab);
      double sum = 0;
      for (const double value : values) sum += std::exp(value);
      for (double& value : values) value -= std::log(sum);
    }
    return log_p;
  }

 private:
  static ModelConfig config() {
    ModelConfig config;
    config.layers = 2;
    config.hidden = 32;
    config.ffn = 64;
    config.heads = 2;
    config.vocab = kVocab;
    config.positions = 40;
    return config;
  }
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Communicator> tensor_;
  ParameterTable table_;
  std::vector<float> arena_;
  Model model_;
  ModelViews views_;
};

class RdmLoss : public testing::TestWithParam<std::tuple<data::TimeWeight, bool, float>> {};

TEST_P(RdmLoss, OfTheProductIsThePapers) {
  const auto [weight, coupled, smoothing] = GetParam();
  data::RdmNoise noise;
  noise.weight = weight;
  noise.coupled = coupled;
  noise.label_smoothing = smoothing;
  const data::Task task = pairs();
  data::TaskOptions options{{1, 512, 16}, noise, kSeed, kStream, kMask};
  const auto source = data::make_task_source({task}, {1.0}, options);
  SmallModel model;
  for (const std::int64_t step : {0, 1, 2}) {
    data::MicroBatch batch = source->make(step, 0);
    ASSERT_EQ(batch.rows, static_cast<std::int64_t>(kPairs) * (coupled ? 2 : 1));
    batch.id_groups = data::group_tokens(batch.ids);
    batch.position_groups = data::group_tokens(batch.positions);
    const std::vector<double> log_p = model.log_probabilities(batch);
    const std::size_t copies = coupled ? 2 : 1;
    const double expected = reference::rdm_loss(
        sequences_of(batch, noise, task),
        {noise.steps, weight, static_cast<double>(smoothing), kVocab},
        [&](std::size_t sequence, std::size_t copy, std::size_t position, std::int32_t token) {
          const std::size_t row = sequence * copies + copy;
          return log_p[(row * static_cast<std::size_t>(batch.cols) + position) * kVocab +
                       static_cast<std::size_t>(token)];
        });
    ASSERT_GT(expected, 1);
    EXPECT_NEAR(model.loss(batch) / static_cast<double>(batch.normalizer), expected,
                1e-5 * expected);
  }
}

INSTANTIATE_TEST_SUITE_P(All, RdmLoss,
                         testing::Combine(testing::Values(data::TimeWeight::linear,
                                                          data::TimeWeight::reciprocal,
                                                          data::TimeWeight::constant),
                                          testing::Bool(), testing::Values(0.0f, 0.1f)));

}  // namespace
}  // namespace demist
