// A model cut over tensor-parallel ranks computes what one rank computes.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "tests/support/mpi_main.hpp"
#include "tests/support/random_source.hpp"
#include "tests/support/shared_folder.hpp"
#include "worker/checkpoint/checkpoint.hpp"
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
  std::map<std::string, std::vector<float>> parameters;  // after the last step
};

std::map<std::string, std::vector<float>> parameters_of(const Trainer& trainer,
                                                        const std::filesystem::path& root) {
  trainer.save(root, 1);
  const checkpoint::Checkpoint saved = checkpoint::open_any(root);
  std::map<std::string, std::vector<float>> parameters;
  for (std::size_t t = 0; t < saved.tensors().size(); ++t) {
    std::vector<float> values(static_cast<std::size_t>(saved.tensors()[t].size()));
    saved.read({t, checkpoint::Kind::parameter, 0, values});
    parameters.emplace(saved.tensors()[t].name, std::move(values));
  }
  return parameters;
}

// Relative to the tensor's own size: the root of the mean square of what differs.
double relative_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    difference += (double{a.at(i)} - b[i]) * (double{a.at(i)} - b[i]);
    norm += double{b[i]} * b[i];
  }
  return std::sqrt(difference / norm);
}

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
  const test::SharedFolder folder;
  const bool alone = comm.size() < test::world().size();  // each rank trains for itself
  curve.parameters = parameters_of(
      trainer, alone ? folder.path() / std::to_string(test::world().rank()) : folder.path());
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
    EXPECT_EQ(many.parameters.size(), one.parameters.size());
    for (const auto& [name, values] : one.parameters) {
      // A key's bias moves all scores of a query alike: its gradient is zero but for rounding,
      // which is all that Adam then follows.
      if (name.ends_with(".key.bias")) continue;
      EXPECT_LT(relative_difference(many.parameters.at(name), values), 1e-5)
          << tensor_size << " " << name;
    }
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
