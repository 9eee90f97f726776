// Activations that are computed again give the gradients, and the loss, of activations that were
// kept: bit for bit, with dropout, in both layouts and types.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstring>

#include "core/philox.hpp"
#include "tests/support/random_source.hpp"
#include "worker/model/model.hpp"

namespace demist {
namespace {

struct Case {
  DType compute;
  NormPlacement norm;
  std::string name() const {
    return std::string(name_of(compute)) + (norm == NormPlacement::post ? "Post" : "Pre");
  }
};

ModelConfig config_for(NormPlacement norm) {
  ModelConfig config;
  config.layers = 3;  // the last layer is not computed again
  config.hidden = 32;
  config.ffn = 64;
  config.heads = 4;
  config.vocab = 61;
  config.positions = 40;
  config.norm = norm;
  config.hidden_dropout = 0.2f;
  config.attention_dropout = 0.1f;
  return config;
}

// One forward and backward pass of a model with random weights.
class Pass {
 public:
  Pass(const Case& c, Recompute recompute)
      : config_(config_for(c.norm)),
        table_(config_, 1, 0),
        weights_(static_cast<std::size_t>(table_.size())),
        grads_(static_cast<std::size_t>(table_.size()), 0.0f),
        matrices_(c.compute, 1, table_.matrices_end()),
        model_(config_, table_, *backend_, *tensor_, c.compute,
               {source_.max_tokens(), source_.max_targets(), true, recompute}) {
    for (std::size_t i = 0; i < weights_.size(); ++i)
      weights_[i] = 0.3f * (static_cast<float>(uniform(draw(3, i, 0))) - 0.5f);
    const auto end = static_cast<std::size_t>(table_.matrices_end());
    backend_->convert(matrices_.view(), vector_view(std::span<const float>(weights_).first(end)));
    data::MicroBatch batch = source_.make(0, 0);
    batch.id_groups = data::group_tokens(batch.ids);
    batch.position_groups = data::group_tokens(batch.positions);
    float* const vectors = weights_.data() + end;
    model_.forward_backward(
        make_views(config_, table_, matrices_.view().data, c.compute, vectors),
        make_views(config_, table_, grads_.data(), DType::f32, grads_.data() + end), batch, 99);
    loss_ = model_.take_loss();
  }
  double loss() const { return loss_; }
  const std::vector<float>& grads() const { return grads_; }
  std::size_t bytes() const { return model_.bytes(); }

 private:
  const ModelConfig config_;
  const test::RandomSource source_{61, 1, true, 3, 24};
  const std::unique_ptr<Backend> backend_ = make_cpu_backend();
  const std::unique_ptr<Communicator> tensor_ = make_local_communicator();
  const ParameterTable table_;
  std::vector<float> weights_, grads_;
  Tensor matrices_;
  Model model_;
  double loss_ = 0;
};

class RecomputeTest : public testing::TestWithParam<Case> {};

TEST_P(RecomputeTest, GivesTheSameBits) {
  const Pass kept(GetParam(), Recompute::none);
  EXPECT_GT(kept.loss(), 0);
  for (const Recompute mode : {Recompute::gelu, Recompute::layer}) {
    const Pass again(GetParam(), mode);
    EXPECT_EQ(again.loss(), kept.loss());
    ASSERT_EQ(
        std::memcmp(again.grads().data(), kept.grads().data(), kept.grads().size() * sizeof(float)),
        0)
        << "mode " << static_cast<int>(mode);
    EXPECT_LT(again.bytes(), kept.bytes());
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, RecomputeTest,
                         testing::Values(Case{DType::f32, NormPlacement::post},
                                         Case{DType::f32, NormPlacement::pre},
                                         Case{DType::bf16, NormPlacement::post},
                                         Case{DType::bf16, NormPlacement::pre}),
                         [](const auto& c) { return c.param.name(); });

}  // namespace
}  // namespace demist
