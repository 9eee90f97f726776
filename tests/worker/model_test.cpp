// The whole model against Hugging Face: logits, losses, and every gradient, padding included.
// SPDX-License-Identifier: Apache-2.0
#include "worker/model/model.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

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

double norm_of(std::span<const float> values) {
  double sum = 0;
  for (const double v : values) sum += v * v;
  return std::sqrt(sum);
}

// A model with golden weights in fp32 and room for gradients.
class GoldenModel {
 public:
  explicit GoldenModel(const std::string& name, float dropout = 0)
      : golden_(with_dropout(golden::load_model_case(fs::path(DEMIST_GOLDEN_DIR) / name), dropout)),
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
  std::span<float> weights_of(const Parameter& p) {
    return std::span(weight_arena_)
        .subspan(static_cast<std::size_t>(p.offset), static_cast<std::size_t>(p.local_size()));
  }
  const golden::ModelCase& golden() const { return golden_; }
  const ParameterTable& table() const { return table_; }
  Model& model() { return model_; }
  const ModelViews& weights() const { return weights_; }
  const ModelViews& grads() const { return grads_; }

 private:
  static golden::ModelCase with_dropout(golden::ModelCase golden, float dropout) {
    golden.config.hidden_dropout = golden.config.attention_dropout = dropout;
    return golden;
  }
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

// Gradients of a batch; returns its loss.
double train(GoldenModel& m, const data::MicroBatch& batch, std::uint64_t dropout_key) {
  m.model().forward_backward(m.weights(), m.grads(), batch, dropout_key);
  return m.model().take_loss();
}

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
  const double loss = train(m, b, 0);
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
  const double loss = train(m, m.batch(true), 0);
  const double expected = m.golden().expected.at("loss.weighted").values[0];
  EXPECT_NEAR(loss, expected, 1e-5 * expected);
  for (const auto& [name, tensor] : m.golden().weighted_gradients)
    EXPECT_LT(relative_error(m.gradient(name), tensor.values), 1e-5) << name;
}

// Hugging Face drops other elements, so with dropout the gradient is held against the loss itself:
// the central difference of each tensor along a random direction.
TEST_P(ModelGolden, GradientsWithDropoutMatchFiniteDifferences) {
  GoldenModel m(GetParam(), 0.3f);
  const data::MicroBatch b = m.batch(true);
  constexpr std::uint64_t kKey = 77;
  const double loss = train(m, b, kKey);
  EXPECT_GT(std::abs(loss - m.model().loss(m.weights(), b)), 1e-3 * loss) << "dropout is off";
  std::map<std::string, std::vector<float>> gradients;
  for (const Parameter& p : m.table().parameters()) {
    const std::span<const float> g = m.gradient(p.name);
    gradients[p.name].assign(g.begin(), g.end());
  }
  double largest = 0;
  for (const auto& [name, gradient] : gradients) largest = std::max(largest, norm_of(gradient));
  for (const Parameter& p : m.table().parameters()) {
    // Along the gradient itself the slope is its norm: nothing cancels.
    const std::vector<float>& direction = gradients[p.name];
    const double norm = norm_of(direction);
    if (norm < 1e-4 * largest) continue;  // vanishes identically (key biases), or nearly
    const double step = 2e-3 / norm;
    const auto loss_at = [&](double distance) {
      const std::span<float> values = m.weights_of(p);
      const std::vector<float> before(values.begin(), values.end());
      for (std::size_t i = 0; i < values.size(); ++i)
        values[i] += static_cast<float>(distance * direction[i]);
      const double result = train(m, b, kKey);
      std::ranges::copy(before, values.begin());
      return result;
    };
    const double slope = (loss_at(step) - loss_at(-step)) / (2 * step * norm);
    EXPECT_NEAR(slope, norm, 1e-2 * norm + 1e-4 * largest) << p.name;
  }
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
        for (const Parameter& p : table.parameters()) {
          if (p.split == Split::none && rank > 0) continue;
          auto& count = seen[p.name];
          count.resize(static_cast<std::size_t>(p.rows * p.cols));
          for (int d = 0; d < data_size; ++d)
            for (const ShardSlice& slice : table.shard(data_size, d))
              for (const auto& run : ParameterTable::runs(p, slice.begin, slice.end))
                for (std::int64_t i = 0; i < run.count; ++i)
                  ++count[static_cast<std::size_t>(run.logical + i)];
        }
      }
    }
    for (const auto& [name, counts] : seen)
      for (const int n : counts) ASSERT_EQ(n, 2) << name;
  }
}

TEST(ParameterTable, BucketsTileTheArena) {
  ModelConfig config;
  config.layers = 4;
  config.hidden = 640;  // 4.9 M elements a layer: two layers on four ranks make a bucket, not one
  config.ffn = 2560;
  config.heads = 4;
  config.vocab = 83;
  for (const auto& [tensor_size, layers] :
       {std::pair{1, std::vector<std::int64_t>{-1, 0, 1, 2, 3, -1}},
        std::pair{4, std::vector<std::int64_t>{-1, 0, -1}}}) {
    const ParameterTable table(config, tensor_size, 0);
    std::vector<std::int64_t> found;
    std::int64_t end = 0;
    for (const Bucket& bucket : table.buckets()) {
      EXPECT_EQ(bucket.begin, end);
      EXPECT_TRUE(bucket.end <= table.matrices_end() || bucket.begin >= table.matrices_end());
      end = bucket.end;
      found.push_back(bucket.first_layer);
    }
    EXPECT_EQ(end, table.size());
    EXPECT_EQ(found, layers);
    EXPECT_EQ(table.shard(1, 0).back().at, table.buckets().back().begin);
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
