// The sampler on the emulated device against the CPU backend: the same tokens, chosen or drawn.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "tests/cuda/tolerance.hpp"
#include "tests/support/mpi_main.hpp"
#include "tests/support/random_source.hpp"
#include "tests/support/shared_folder.hpp"
#include "worker/generate/sampler.hpp"
#include "worker/parallel/cuda_device.hpp"
#include "worker/trainer.hpp"

namespace demist {
namespace {

constexpr std::int32_t kVocab = 83, kMask = 82;

TrainerConfig config_for(NormPlacement norm, int tensor_size) {
  TrainerConfig config;
  config.stage = "test";
  config.model.layers = 2;
  config.model.hidden = 128;
  config.model.ffn = 64;
  config.model.heads = 2;
  config.model.vocab = kVocab;
  config.model.positions = 40;
  config.model.norm = norm;
  config.optimizer.schedule = {ScheduleKind::linear, 1e-2, 0, 2, 40};
  config.compute = DType::f32;
  config.seed = 5;
  config.tensor_parallel = tensor_size;
  return config;
}

std::vector<generate::Request> requests() {
  return {{{5, 9, 4, 30}, 9, 1}, {{7}, 14, 2}, {{8, 8, 61, 12, 40, 33}, 6, 3}, {{}, 11, 4}};
}

std::vector<generate::Response> answers(const checkpoint::Checkpoint& from, Device device,
                                        const generate::SamplerOptions& options) {
  InferenceModel model(from, DType::f32, std::move(device.backend));
  return generate::sample(requests(), kVocab, options,
                          [&](const generate::CanvasBatch& batch,
                              std::span<const std::int32_t> wanted, std::span<float> logits) {
                            model.logits(batch.rows, batch.cols, batch.ids, batch.length, wanted,
                                         logits);
                          });
}

class CudaGenerate : public testing::TestWithParam<NormPlacement> {};

// From the state of a group of as many ranks as there are.
TEST_P(CudaGenerate, GivesTheCpusTokens) {
  const mpi::Comm& world = test::world();
  const test::SharedFolder root;
  {
    Trainer trainer(world, config_for(GetParam(), world.size()),
                    std::make_shared<test::RandomSource>(kVocab, 1, true, 2, 24),
                    make_cuda_device(world));
    trainer.initialize();
    for (std::int64_t s = 0; s < 4; ++s) {
      trainer.announce({s, {0}});
      ASSERT_TRUE(trainer.run_step().applied());
    }
    trainer.save(root.path(), 1);
  }
  if (world.rank() > 0) return;
  const checkpoint::Checkpoint state = checkpoint::open_any(root.path());
  for (const double temperature : {0.0, 0.8})
    for (const auto routing : {generate::Routing::uncond, generate::Routing::cond}) {
      generate::SamplerOptions options;
      options.steps = 6;
      options.routing = routing;
      options.temperature = temperature;
      options.stochastic = temperature;
      options.seed = 17;
      options.mask_id = kMask;
      const auto want = answers(state, make_cpu_device(), options);
      const auto got = answers(state, make_cuda_device(mpi::Comm()), options);
      ASSERT_EQ(got.size(), want.size());
      for (std::size_t i = 0; i < want.size(); ++i) {
        EXPECT_EQ(got[i].ids, want[i].ids) << "request " << i << ", temperature " << temperature;
        EXPECT_EQ(got[i].steps_run, want[i].steps_run);
        EXPECT_NEAR(got[i].mean_log_prob, want[i].mean_log_prob, cuda::test::kMeanLogProb);
      }
      // Draws differ from the best tokens, or they would prove nothing.
      if (temperature == 0) continue;
      options.temperature = options.stochastic = 0;
      bool differs = false;
      const auto best = answers(state, make_cpu_device(), options);
      for (std::size_t i = 0; i < want.size(); ++i) differs |= best[i].ids != want[i].ids;
      EXPECT_TRUE(differs);
    }
}

INSTANTIATE_TEST_SUITE_P(Cases, CudaGenerate,
                         testing::Values(NormPlacement::post, NormPlacement::pre),
                         [](const auto& c) {
                           return c.param == NormPlacement::post ? "Post" : "Pre";
                         });

}  // namespace
}  // namespace demist

int main(int argc, char** argv) { return demist::test::run_mpi_tests(argc, argv); }
