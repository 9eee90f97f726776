// The whole model against Hugging Face: logits, losses, and every gradient, padding included.
// SPDX-License-Identifier: Apache-2.0
#include "worker/model/model.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "core/philox.hpp"
#include "tests/support/golden.hpp"

namespace demist {
namespace {

// |a - b| / |b| over all elements; NaN anywhere gives NaN, which fails every comparison.
double relative_error(std::span<const float> a, std::span<const double> b) {
  double difference = 0, norm = 0;
  EXPECT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(difference / std::max(norm, 1e-30));
}

// A model with golden weights in fp32 and room for gradients.
class GoldenModel {
 public:
  explicit GoldenModel(const std::string& name)
      : golden_(golden::load_model_case(fs::path(DEMIST_GOLDEN_DIR) / name)),
        backend_(make_cpu_backend()),
        tensor_(make_local_communicator()),
        table_(golden_.config, 1, 0),
        weight_arena_(static_cast<std::size_t>(table_.size())),
        grad_arena_(static_cast<std::size_t>(table_.size()), std::nanf("")),
        model_(golden_.config, table_, *backend_, *tensor_, DType::f32, {64, 32, true}) {
    for (const Parameter& p : table_.parameters()) {
      const auto& values = golden_.weights.at(p.name).values;
      std::copy(values.begin(), values.end(), weight_arena_.begin() + p.offset);
    }
    weights_ = views(weight_arena_);
    grads_ = views(grad_arena_);
  }

  data::MicroBatch batch(bool weighted) const {
    const auto& e = golden_.expected;
    data::MicroBatch b;
    b.rows = e.at("ids").shape[0];
    b.cols = e.at("ids").shape[1];
    b.ids = e.at("ids").as<std::int32_t>();
    b.positions = e.at("positions").as<std::int32_t>();
    for (std::int64_t i = 0; i < b.rows * b.cols; ++i) {
      b.key_begin.push_back(0);
      b.key_end.push_back(
          static_cast<std::int32_t>(e.at("length").values[static_cast<std::size_t>(i / b.cols)]));
    }
    b.sample = {5, 6, 7};
    b.target_row = e.at("target_row").as<std::int32_t>();
    b.target_id = e.at("target_id").as<std::int32_t>();
    b.weight.assign(b.target_id.size(), 1);
    b.smooth.assign(b.target_id.size(), 0);
    if (weighted) {
      b.weight = e.at("weight").as<float>();
      b.smooth = e.at("smooth").as<float>();
    }
    b.id_groups = data::group_tokens(b.ids);
    b.position_groups = data::group_tokens(b.positions);
    return b;
  }

  std::span<const float> gradient(const std::string& name) const {
    const Parameter& p = table_.find(name);
    return std::span(grad_arena_)
        .subspan(static_cast<std::size_t>(p.offset), static_cast<std::size_t>(p.local_size()));
  }
  const golden::ModelCase& golden() const { return golden_; }
  const ParameterTable& table() const { return table_; }
  Model& model() { return model_; }
  const ModelViews& weights() const { return weights_; }
  const ModelViews& grads() const { return grads_; }

 private:
  ModelViews views(std::vector<float>& arena) {
    return make_views(golden_.config, table_, arena.data(), DType::f32,
                      arena.data() + table_.matrices_end());
  }
  golden::ModelCase golden_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Communicator> tensor_;
  ParameterTable table_;
  std::vector<float> weight_arena_, grad_arena_;
  Model model_;
  ModelViews weights_, grads_;
};

class ModelGolden : public testing::TestWithParam<const char*> {};

TEST_P(ModelGolden, LogitsMatch) {
  GoldenModel m(GetParam());
  const data::MicroBatch b = m.batch(false);
  std::vector<float> logits(b.target_row.size() *
                            static_cast<std::size_t>(m.golden().config.vocab));
  m.model().logits(
      m.weights(),
      {{b.rows, b.cols, b.sample}, {b.key_begin, b.key_end}, b.ids, b.positions, {}, {}},
      b.target_row, logits);
  EXPECT_LT(relative_error(logits, m.golden().expected.at("logits").values), 1e-5);
}

TEST_P(ModelGolden, MeanLossAndAllGradientsMatch) {
  GoldenModel m(GetParam());
  data::MicroBatch b = m.batch(false);
  for (float& w : b.weight) w = 1.0f / static_cast<float>(b.weight.size());
  const double loss = m.model().forward_backward(m.weights(), m.grads(), b, 0);
  const double expected = m.golden().expected.at("loss.mean").values[0];
  EXPECT_NEAR(loss, expected, 1e-5 * expected);
  EXPECT_NEAR(m.model().loss(m.weights(), b), expected, 1e-5 * expected);
  double largest = 0;  // some gradients vanish identically (key biases): judge them by the others
  for (const auto& [name, tensor] : m.golden().gradients)
    for (const double g : tensor.values) largest = std::max(largest, std::abs(g));
  EXPECT_EQ(m.golden().gradients.size(), m.table().parameters().size());
  for (const auto& [name, tensor] : m.golden().gradients) {
    double norm = 0;
    for (const double g : tensor.values) norm += g * g;
    if (std::sqrt(norm) < 1e-6 * largest)
      for (const float g : m.gradient(name)) EXPECT_LT(std::abs(g), 1e-6 * largest) << name;
    else
      EXPECT_LT(relative_error(m.gradient(name), tensor.values), 1e-5) << name;
  }
}

TEST_P(ModelGolden, WeightsAndSmoothingMatch) {
  GoldenModel m(GetParam());
  const double loss = m.model().forward_backward(m.weights(), m.grads(), m.batch(true), 0);
  const double expected = m.golden().expected.at("loss.weighted").values[0];
  EXPECT_NEAR(loss, expected, 1e-5 * expected);
  for (const auto& [name, tensor] : m.golden().weighted_gradients)
    EXPECT_LT(relative_error(m.gradient(name), tensor.values), 1e-5) << name;
}

INSTANTIATE_TEST_SUITE_P(Layouts, ModelGolden, testing::Values("xlmr_post", "xlmr_pre"));

TEST(ParameterTable, RunsTileEveryTensorForAnyCut) {
  ModelConfig config;
  config.layers = 2;
  config.hidden = 64;
  config.ffn = 128;
  config.heads = 4;
  config.vocab = 83;
  for (const int tensor_size : {1, 2, 4}) {
    std::map<std::string, std::vector<int>> seen;
    for (int rank = 0; rank < tensor_size; ++rank) {
      const ParameterTable table(config, tensor_size, rank);
      for (const int data_size : {1, 3}) {
        const auto starts = table.shard_starts(data_size);
        EXPECT_EQ(starts.back(), table.size());
        for (const Parameter& p : table.parameters()) {
          if (p.split == Split::none && rank > 0) continue;
          auto& count = seen[p.name];
          count.resize(static_cast<std::size_t>(p.rows * p.cols));
          for (int d = 0; d < data_size; ++d)
            for (const auto& run : ParameterTable::runs(p, starts[static_cast<std::size_t>(d)],
                                                        starts[static_cast<std::size_t>(d) + 1]))
              for (std::int64_t i = 0; i < run.count; ++i)
                ++count[static_cast<std::size_t>(run.logical + i)];
        }
      }
    }
    for (const auto& [name, counts] : seen)
      for (const int n : counts) ASSERT_EQ(n, 2) << name;
  }
}

TEST(ParameterTable, RefusesASplitThatDoesNotDivide) {
  ModelConfig config;
  config.layers = 1;
  config.hidden = 48;
  config.ffn = 96;
  config.heads = 3;
  config.vocab = 50;
  EXPECT_THROW(ParameterTable(config, 2, 0), ConfigError);
}

}  // namespace
}  // namespace demist
