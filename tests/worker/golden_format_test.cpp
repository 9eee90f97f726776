// Are the Hugging Face golden files what their readers think? A slow double-precision forward pass,
// written from method section 1.2 alone, must reproduce their logits and losses.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "tests/support/golden.hpp"

namespace demist {
namespace {

using golden::ModelCase;
using Row = std::vector<double>;
using Rows = std::vector<Row>;

class SlowModel {
 public:
  explicit SlowModel(const ModelCase& golden) : golden_(golden), c_(golden.config) {}

  // One sequence without padding -> logits of each of its tokens.
  Rows logits(const std::vector<int>& ids) const {
    Rows x;
    for (std::size_t k = 0; k < ids.size(); ++k) x.push_back(embed(ids[k], static_cast<int>(k)));
    for (std::int64_t i = 0; i < c_.layers; ++i) x = layer("layers." + std::to_string(i), x);
    Rows out;
    for (Row& row : x) out.push_back(head(pre() ? norm("final_norm", row) : row));
    return out;
  }

 private:
  bool pre() const { return c_.norm == NormPlacement::pre; }
  const Row& weight(const std::string& name) const { return golden_.weights.at(name).values; }

  Row norm(const std::string& name, const Row& x) const {
    const double n = static_cast<double>(x.size());
    const double mean = std::accumulate(x.begin(), x.end(), 0.0) / n;
    double variance = 0;
    for (const double v : x) variance += (v - mean) * (v - mean) / n;
    Row out;
    for (std::size_t j = 0; j < x.size(); ++j)
      out.push_back((x[j] - mean) / std::sqrt(variance + 1e-5) * weight(name + ".weight")[j] +
                    weight(name + ".bias")[j]);
    return out;
  }
  Row linear(const std::string& name, const Row& x) const {
    const Row& matrix = weight(name + ".weight");
    Row out = weight(name + ".bias");
    for (std::size_t o = 0; o < out.size(); ++o)
      for (std::size_t j = 0; j < x.size(); ++j) out[o] += matrix[o * x.size() + j] * x[j];
    return out;
  }
  static Row gelu(Row x) {
    for (double& v : x) v = v * 0.5 * (1 + std::erf(v / std::sqrt(2.0)));
    return x;
  }
  static Row add(Row a, const Row& b) {
    for (std::size_t j = 0; j < a.size(); ++j) a[j] += b[j];
    return a;
  }

  Row embed(int id, int k) const {
    const auto d = static_cast<std::size_t>(c_.hidden);
    Row out(d);
    for (std::size_t j = 0; j < d; ++j)
      out[j] = weight("embeddings.word.weight")[static_cast<std::size_t>(id) * d + j] +
               weight("embeddings.position.weight")[static_cast<std::size_t>(k + 2) * d + j] +
               weight("embeddings.token_type.weight")[j];
    return pre() ? out : norm("embeddings.norm", out);
  }

  Rows attention(const std::string& name, const Rows& x) const {
    Rows q, k, v, mixed(x.size(), Row(x[0].size(), 0.0)), out;
    for (const Row& row : x) {
      q.push_back(linear(name + ".query", row));
      k.push_back(linear(name + ".key", row));
      v.push_back(linear(name + ".value", row));
    }
    const auto h = static_cast<std::size_t>(c_.head_dim());
    for (std::size_t head = 0; head < x[0].size(); head += h)
      for (std::size_t t = 0; t < x.size(); ++t) attend(q[t], k, v, head, h, mixed[t]);
    for (const Row& row : mixed) out.push_back(linear(name + ".output", row));
    return out;
  }
  static void attend(const Row& q, const Rows& k, const Rows& v, std::size_t from, std::size_t h,
                     Row& out) {
    Row p;
    for (const Row& key : k) {
      double score = 0;
      for (std::size_t j = from; j < from + h; ++j) score += q[j] * key[j];
      p.push_back(std::exp(score / std::sqrt(static_cast<double>(h))));
    }
    const double sum = std::accumulate(p.begin(), p.end(), 0.0);
    for (std::size_t s = 0; s < p.size(); ++s)
      for (std::size_t j = from; j < from + h; ++j) out[j] += p[s] / sum * v[s][j];
  }

  Rows layer(const std::string& name, const Rows& x) const {
    Rows inner, out;
    for (const Row& row : x) inner.push_back(pre() ? norm(name + ".attention.norm", row) : row);
    inner = attention(name + ".attention", inner);
    for (std::size_t t = 0; t < x.size(); ++t) {
      Row h = add(inner[t], x[t]);
      if (!pre()) h = norm(name + ".attention.norm", h);
      const Row f = pre() ? norm(name + ".ffn.norm", h) : h;
      Row y = add(linear(name + ".ffn.out", gelu(linear(name + ".ffn.in", f))), h);
      out.push_back(pre() ? y : norm(name + ".ffn.norm", y));
    }
    return out;
  }

  Row head(const Row& x) const {
    const Row h = norm("head.norm", gelu(linear("head.dense", x)));
    Row out = weight("head.bias");
    for (std::size_t v = 0; v < out.size(); ++v)
      for (std::size_t j = 0; j < h.size(); ++j)
        out[v] += weight("embeddings.word.weight")[v * h.size() + j] * h[j];
    return out;
  }

  const ModelCase& golden_;
  const ModelConfig& c_;
};

// -log softmax(logits), all classes.
Row negative_log_softmax(const Row& logits) {
  double sum = 0;
  for (const double v : logits) sum += std::exp(v);
  Row out;
  for (const double v : logits) out.push_back(std::log(sum) - v);
  return out;
}

class Golden : public testing::TestWithParam<const char*> {
 protected:
  const ModelCase golden_ =
      golden::load_model_case(std::filesystem::path(DEMIST_GOLDEN_DIR) / GetParam());
  Row expected(const char* name) const { return golden_.expected.at(name).values; }
};

TEST_P(Golden, SlowModelGivesTheLogitsAndLosses) {
  const auto ids = golden_.expected.at("ids").as<int>();
  const auto lengths = golden_.expected.at("length").as<int>();
  const auto target_row = golden_.expected.at("target_row").as<std::size_t>();
  const auto target_id = golden_.expected.at("target_id").as<std::size_t>();
  const std::size_t columns = ids.size() / lengths.size();
  const SlowModel model(golden_);
  std::vector<Rows> logits;
  for (std::size_t r = 0; r < lengths.size(); ++r) {
    const auto first = ids.begin() + static_cast<std::ptrdiff_t>(r * columns);
    logits.push_back(model.logits({first, first + lengths[r]}));
  }
  double mean = 0, weighted = 0;
  const auto vocab = static_cast<std::size_t>(golden_.config.vocab);
  for (std::size_t k = 0; k < target_row.size(); ++k) {
    const Row& mine = logits[target_row[k] / columns][target_row[k] % columns];
    for (std::size_t v = 0; v < vocab; ++v)
      ASSERT_NEAR(mine[v], expected("logits")[k * vocab + v], 1e-10);
    const Row nll = negative_log_softmax(mine);
    EXPECT_NEAR(nll[target_id[k]], expected("cross_entropy")[k], 1e-10);
    mean += nll[target_id[k]] / static_cast<double>(target_row.size());
    weighted += expected("weight")[k] * nll[target_id[k]] +
                expected("smooth")[k] * std::accumulate(nll.begin(), nll.end(), 0.0) /
                    static_cast<double>(vocab);
  }
  EXPECT_NEAR(mean, expected("loss.mean")[0], 1e-10);
  EXPECT_NEAR(weighted, expected("loss.weighted")[0], 1e-9);
}

TEST_P(Golden, EveryParameterHasAGradientOfItsShape) {
  const std::size_t layer_tensors = 16, others = 10;
  EXPECT_EQ(golden_.weights.size(), 2 * layer_tensors + others);
  ASSERT_EQ(golden_.gradients.size(), golden_.weights.size());
  for (const auto& [name, weight] : golden_.weights) {
    EXPECT_EQ(golden_.gradients.at(name).shape, weight.shape) << name;
    EXPECT_EQ(golden_.gradients.at(name).values.size(), weight.values.size()) << name;
  }
  EXPECT_EQ(golden_.weighted_gradients.size(), 4u);
}

TEST_P(Golden, PositionsCountFromTwoAndPadsShareRowOne) {
  const auto ids = golden_.expected.at("ids").as<int>();
  const auto positions = golden_.expected.at("positions").as<int>();
  const auto lengths = golden_.expected.at("length").as<int>();
  const int columns = static_cast<int>(ids.size() / lengths.size());
  for (int i = 0; i < static_cast<int>(ids.size()); ++i) {
    const bool real = i % columns < lengths[static_cast<std::size_t>(i / columns)];
    EXPECT_EQ(ids[static_cast<std::size_t>(i)] != 1, real);
    EXPECT_EQ(positions[static_cast<std::size_t>(i)], real ? i % columns + 2 : 1);
  }
  const Row gradient = golden_.gradients.at("embeddings.position.weight").values;
  const auto d = static_cast<std::size_t>(golden_.config.hidden);
  for (std::size_t j = d; j < 2 * d; ++j) EXPECT_EQ(gradient[j], 0);
}

INSTANTIATE_TEST_SUITE_P(Models, Golden, testing::Values("xlmr_post", "xlmr_pre"));

TEST(GoldenNames, RefusesWhatIsNotAParameter) {
  EXPECT_THROW(golden::logical_name("roberta.pooler.dense.weight", NormPlacement::post),
               InternalError);
  EXPECT_THROW(golden::logical_name("roberta.embeddings.LayerNorm.weight", NormPlacement::pre),
               InternalError);
  EXPECT_EQ(golden::logical_name("roberta.encoder.layer.13.LayerNorm.bias", NormPlacement::pre),
            "layers.13.ffn.norm.bias");
}

}  // namespace
}  // namespace demist
