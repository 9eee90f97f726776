// Whole training steps on the emulated device against the CPU backend, over tensor-parallel and
// data-parallel ranks; and the promise of `reduction: EXACT` on the device.
// SPDX-License-Identifier: Apache-2.0
#include "worker/trainer.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/cuda/work_sizes.hpp"
#include "tests/cuda/tolerance.hpp"
#include "tests/support/mpi_main.hpp"
#include "tests/support/random_source.hpp"
#include "tests/support/shared_folder.hpp"
#include "worker/parallel/cuda_device.hpp"

namespace demist {
namespace {

constexpr std::int32_t kMicroBatches = 3;  // groups get unequal shares
constexpr int kMostTensorRanks = 4;        // a head each
constexpr std::int64_t kSteps = 20, kExactSteps = 8;

struct Case {
  DType compute;
  NormPlacement norm;
  bool rdm;
  std::string name() const {
    return std::string(name_of(compute)) + (norm == NormPlacement::post ? "Post" : "Pre") +
           (rdm ? "Rdm" : "Mlm");
  }
  double loss_tolerance() const { return cuda::test::kTrainingLoss.of(compute); }
};

// Heads of 64, so that bf16 takes the fused attention kernels at any tensor-parallel size.
TrainerConfig config_for(const Case& c, int tensor_size) {
  TrainerConfig config;
  config.stage = "test";
  config.model.layers = c.rdm ? 2 : 1;
  config.model.hidden = 256;
  config.model.ffn = 64;
  config.model.heads = 4;
  config.model.vocab = 83;  // odd: the vocabulary's last part is padded
  config.model.positions = 40;
  config.model.norm = c.norm;
  config.optimizer.schedule = {ScheduleKind::linear, 1e-3, 0, 2, 40};
  config.compute = c.compute;
  config.seed = 11;
  config.tensor_parallel = tensor_size;
  return config;
}

std::shared_ptr<data::Source> source_for(const Case& c) {
  return std::make_shared<test::RandomSource>(83, kMicroBatches, c.rdm, 2, 24);
}

StepPlan plan_for(std::int64_t step, int groups) {
  StepPlan plan{step, {}};
  for (std::int32_t i = 0; i < kMicroBatches; ++i) plan.owner.push_back(i % groups);
  return plan;
}

std::vector<double> losses(Trainer& trainer, int groups, std::int64_t steps) {
  std::vector<double> curve;
  for (std::int64_t s = 0; s < steps; ++s) {
    trainer.announce(plan_for(s, groups));
    const StepReport report = trainer.run_step();
    if (!report.applied())
      throw NumericError("step " + std::to_string(s) + " with " + std::to_string(groups) +
                         " groups is not finite");
    curve.push_back(report.loss);
  }
  return curve;
}

class CudaTraining : public testing::TestWithParam<Case> {};

TEST_P(CudaTraining, LearnsAsTheCpuDoes) {
  const mpi::Comm& world = test::world();
  std::vector<double> want;
  double want_held_out = 0;
  {
    Trainer cpu(test::self(), config_for(GetParam(), 1), source_for(GetParam()), make_cpu_device());
    cpu.initialize();
    want = losses(cpu, 1, kSteps);
    want_held_out = cpu.held_out_loss(*source_for(GetParam()), 3);
  }
  for (int tensor_size = 1; tensor_size <= std::min(kMostTensorRanks, world.size());
       tensor_size *= 2) {
    if (world.size() / tensor_size > 2) continue;  // more groups: OneHashForAnyNumberOfGroups
    Trainer trainer(world, config_for(GetParam(), tensor_size), source_for(GetParam()),
                    make_cuda_device(world));
    trainer.initialize();
    const std::vector<double> got = losses(trainer, world.size() / tensor_size, kSteps);
    for (std::size_t i = 0; i < want.size(); ++i)
      EXPECT_NEAR(got[i], want[i], GetParam().loss_tolerance() * want[i])
          << "step " << i << ", tensor parallel " << tensor_size;
    EXPECT_LT(got.back(), cuda::test::kLearned * got.front()) << "it does not learn";
    EXPECT_NEAR(trainer.held_out_loss(*source_for(GetParam()), 3), want_held_out,
                GetParam().loss_tolerance() * want_held_out);
  }
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const DType compute : {DType::f32, DType::bf16})
    for (const NormPlacement norm : {NormPlacement::post, NormPlacement::pre})
      for (const bool rdm : {false, true}) cases.push_back({compute, norm, rdm});
  return cases;
}
INSTANTIATE_TEST_SUITE_P(AllCases, CudaTraining, testing::ValuesIn(all_cases()),
                         [](const auto& c) { return c.param.name(); });

class CudaTrainer : public testing::TestWithParam<Case> {};

TEST_P(CudaTrainer, OneHashForAnyNumberOfGroups) {
  const mpi::Comm& world = test::world();
  std::string reference;
  for (int groups = 1; groups <= world.size(); groups *= 2) {
    const test::SharedFolder root;
    const mpi::Comm comm = world.split(world.rank() < groups ? 0 : 1, world.rank());
    if (world.rank() < groups) {
      Trainer trainer(comm, config_for(GetParam(), 1), source_for(GetParam()),
                      make_cuda_device(comm));
      trainer.initialize();
      losses(trainer, groups, kExactSteps);
      trainer.save(root.path(), 1);
      const std::string hash = checkpoint::open_any(root.path()).hash();
      if (groups == 1) reference = hash;
      EXPECT_EQ(hash, reference) << groups << " groups";
    }
    world.barrier();
    reference = world.broadcast(reference, 0);
  }
}

// Layers that fill a bucket each: the gradients of the upper one leave while those of the lower one
// are computed.
TEST(CudaBuckets, LeaveUnderTheBackwardPass) {
  const mpi::Comm& world = test::world();
  if (world.size() != 2) GTEST_SKIP() << "needs two groups";
  const Case c{DType::bf16, NormPlacement::post, false};
  TrainerConfig config = config_for(c, 1);
  config.model.layers = 2;
  config.model.hidden = 640;  // 4.9 M elements a layer
  config.model.ffn = 2560;
  config.model.heads = 10;
  ASSERT_EQ(ParameterTable(config.model, 1, 0).buckets().size(), 4u);
  const auto train = [&](const mpi::Comm& comm, Device device) {
    const test::SharedFolder shared;
    const test::TemporaryFolder own;
    const auto& root = comm.size() == 1 ? own.path() : shared.path();
    Trainer trainer(comm, config, source_for(c), std::move(device));
    trainer.initialize();
    const std::vector<double> curve = losses(trainer, comm.size(), 2);
    trainer.save(root, 1);
    return std::pair(curve, checkpoint::open_any(root).hash());
  };
  const auto [want, other] = train(test::self(), make_cpu_device());
  const auto [alone, hash_alone] = train(test::self(), make_cuda_device(test::self()));
  const auto [together, hash_together] = train(world, make_cuda_device(world));
  EXPECT_EQ(hash_alone, hash_together);
  EXPECT_EQ(alone, together);
  for (std::size_t i = 0; i < want.size(); ++i)
    EXPECT_NEAR(together[i], want[i], c.loss_tolerance() * want[i]) << "step " << i;
}

#ifdef DEMIST_EMULATED
// To the byte. A real device rounds allocations up and loads kernels when they are first called;
// there gpu-check compares plan and device, for models that are larger than that.
TEST_P(CudaTrainer, AllocatesWhatWasPlannedAndNothingInAStep) {
  const mpi::Comm& world = test::world();
  if (world.size() > 2) GTEST_SKIP() << "nothing that two ranks do not show";
  for (const AttentionPath attention : {AttentionPath::own, AttentionPath::unfused})
    for (int tensor_size = 1; tensor_size <= world.size(); ++tensor_size) {
      Device device = make_cuda_device(world);
      Memory& memory = device.backend->memory();
      const std::size_t before = memory.available();
      TrainerConfig config = config_for(GetParam(), tensor_size);
      config.recompute = Recompute::gelu;
      config.attention = attention;
      Trainer trainer(world, config, source_for(GetParam()), std::move(device));
      // The products' workspace came with the device.
      const std::size_t planned = trainer.planned_bytes() - cuda::kGemmWorkspaceBytes;
      EXPECT_EQ(before - memory.available(), planned);
      trainer.initialize();
      losses(trainer, world.size() / tensor_size, 1);
      EXPECT_EQ(before - memory.available(), planned)
          << "tensor parallel " << tensor_size << ", attention " << name_of(attention);
    }
}
#endif

TEST_P(CudaTrainer, RefusesHeadsThatAreNotAligned) {
  TrainerConfig config = config_for(GetParam(), 1);
  config.model.heads = 128;
  const mpi::Comm& world = test::world();
  EXPECT_THROW(Trainer(world, config, source_for(GetParam()), make_cuda_device(world)),
               AgreedError);
}

TEST_P(CudaTrainer, RecomputingChangesNoBit) {
  const mpi::Comm& world = test::world();
  if (world.size() != 2) GTEST_SKIP() << "nothing that two ranks do not show";
  std::string kept;
  for (const Recompute mode : {Recompute::none, Recompute::gelu, Recompute::layer}) {
    TrainerConfig config = config_for(GetParam(), world.size());
    config.model.layers = 2;
    config.model.hidden = 128;
    config.model.heads = 2;
    config.recompute = mode;
    Trainer trainer(world, config, source_for(GetParam()), make_cuda_device(world));
    trainer.initialize();
    losses(trainer, 1, 1);
    const test::SharedFolder root;
    trainer.save(root.path(), 1);
    const std::string hash = checkpoint::open_any(root.path()).hash();
    if (mode == Recompute::none) kept = hash;
    EXPECT_EQ(hash, kept) << "mode " << static_cast<int>(mode);
  }
}

// The checkpoint of a GPU run goes on on a CPU, and the other way round.
TEST_P(CudaTrainer, StateMovesBetweenDevices) {
  const mpi::Comm& world = test::world();
  if (world.size() > 2) GTEST_SKIP() << "nothing that two ranks do not show";
  const test::SharedFolder root;
  const auto with = [&](bool cuda) {
    return std::make_unique<Trainer>(world, config_for(GetParam(), 1), source_for(GetParam()),
                                     cuda ? make_cuda_device(world) : make_cpu_device());
  };
  const auto first = with(true);
  first->initialize();
  losses(*first, world.size(), 2);
  first->save(root.path(), 1);
  const std::string saved = checkpoint::open_any(root.path()).hash();
  for (const bool cuda : {false, true}) {
    const auto second = with(cuda);
    second->resume(checkpoint::open_any(root.path()));
    second->save(root.path(), 1);
    EXPECT_EQ(checkpoint::open_any(root.path()).hash(), saved);
  }
}

// The logits that `demist generate` decodes, without MPI, as it runs.
TEST_P(CudaTrainer, AnswersAsTheCpuDoes) {
  if (test::world().rank() > 0) return;
  const test::TemporaryFolder root;
  Trainer cpu(test::self(), config_for(GetParam(), 1), source_for(GetParam()), make_cpu_device());
  cpu.initialize();
  losses(cpu, 1, 2);
  cpu.save(root.path(), 1);
  const std::vector<std::int32_t> ids{5, 9, 4, 4, 7, 2, 8, 4, 1, 1}, length{5, 3}, wanted{2, 3, 7};
  const auto logits = [&](std::unique_ptr<Backend> backend) {
    std::vector<float> found(wanted.size() * 83);
    InferenceModel model(checkpoint::open_any(root.path()), GetParam().compute, std::move(backend));
    model.logits(2, 5, ids, length, wanted, found);
    return std::vector<double>(found.begin(), found.end());
  };
  EXPECT_LE(test::relative_error(logits(make_cuda_device(mpi::Comm()).backend),
                                 logits(make_cpu_device().backend)),
            cuda::test::kLogits.of(GetParam().compute));
}

INSTANTIATE_TEST_SUITE_P(Cases, CudaTrainer,
                         testing::Values(Case{DType::f32, NormPlacement::post, false},
                                         Case{DType::f32, NormPlacement::pre, true},
                                         Case{DType::bf16, NormPlacement::post, true},
                                         Case{DType::bf16, NormPlacement::pre, false}),
                         [](const auto& c) { return c.param.name(); });

}  // namespace
}  // namespace demist

int main(int argc, char** argv) { return demist::test::run_mpi_tests(argc, argv); }
