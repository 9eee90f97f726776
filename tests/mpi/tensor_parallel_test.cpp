// A model cut over tensor-parallel ranks computes what one rank computes.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/mpi_main.hpp"
#include "tests/support/random_source.hpp"
#include "tests/support/shared_folder.hpp"
#include "worker/trainer.hpp"

namespace demist {
namespace {

TrainerConfig config_for(int tensor_size, NormPlacement norm) {
  TrainerConfig config;
  config.stage = "test";
  config.model.layers = 2;
  config.model.hidden = 64;
  config.model.ffn = 128;
  config.model.heads = 4;
  config.model.vocab = 83;  // odd: the vocabulary's last part is padded
  config.model.positions = 40;
  config.model.norm = norm;
  config.optimizer.schedule = {ScheduleKind::constant, 1e-3, 0, 2, 20};
  config.compute = DType::f32;
  config.tensor_parallel = tensor_size;
  return config;
}

struct Curve {
  std::vector<double> loss, norm;
  double held_out = 0;
};

Curve train(const mpi::Comm& comm, int tensor_size, NormPlacement norm) {
  const auto source = std::make_shared<test::RandomSource>(83, 2, true);
  Trainer trainer(comm, config_for(tensor_size, norm), source, make_cpu_device());
  trainer.initialize();
  const int groups = comm.size() / tensor_size;
  Curve curve;
  for (std::int64_t s = 0; s < 10; ++s) {
    trainer.announce({s, {0, 1 % groups}});
    const StepReport report = trainer.run_step();
    curve.loss.push_back(report.loss);
    curve.norm.push_back(report.grad_norm);
  }
  curve.held_out = trainer.held_out_loss(*source, 3);
  return curve;
}

class TensorParallel : public testing::TestWithParam<NormPlacement> {};

TEST_P(TensorParallel, MatchesOneRank) {
  const mpi::Comm& world = test::world();
  const mpi::Comm self = world.split(world.rank(), 0);
  const Curve one = train(self, 1, GetParam());
  for (int tensor_size = 1; tensor_size <= world.size(); tensor_size *= 2) {
    if (world.size() % tensor_size != 0) continue;
    const Curve many = train(world, tensor_size, GetParam());
    for (std::size_t i = 0; i < one.loss.size(); ++i) {
      EXPECT_NEAR(many.loss[i], one.loss[i], 1e-5 * std::abs(one.loss[i]))
          << tensor_size << "@" << i;
      EXPECT_NEAR(many.norm[i], one.norm[i], 1e-4 * one.norm[i]) << tensor_size << "@" << i;
    }
    EXPECT_NEAR(many.held_out, one.held_out, 1e-5 * one.held_out);
  }
}

// LAYER sums over the tensor group again in the backward pass.
TEST_P(TensorParallel, RecomputingChangesNoBit) {
  const mpi::Comm& world = test::world();
  std::string kept;
  for (const Recompute mode : {Recompute::none, Recompute::gelu, Recompute::layer}) {
    TrainerConfig config = config_for(world.size(), GetParam());
    config.compute = DType::bf16;
    config.recompute = mode;
    const auto source = std::make_shared<test::RandomSource>(83, 2, true);
    Trainer trainer(world, config, source, make_cpu_device());
    trainer.initialize();
    for (std::int64_t s = 0; s < 4; ++s) {
      trainer.announce({s, {0, 0}});
      trainer.run_step();
    }
    const test::SharedFolder root;
    trainer.save(root.path(), 1);
    const std::string hash = checkpoint::open_any(root.path()).hash();
    if (mode == Recompute::none) kept = hash;
    EXPECT_EQ(hash, kept) << "mode " << static_cast<int>(mode);
  }
}

INSTANTIATE_TEST_SUITE_P(Norms, TensorParallel,
                         testing::Values(NormPlacement::post, NormPlacement::pre));

}  // namespace
}  // namespace demist

int main(int argc, char** argv) { return demist::test::run_mpi_tests(argc, argv); }
