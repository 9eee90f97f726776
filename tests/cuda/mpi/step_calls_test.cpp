// What a training step asks of CUDA besides its work: docs/ARCHITECTURE.md says what.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "kernels/cuda/cuda_backend.hpp"
#include "tests/emulation/counters.hpp"
#include "tests/emulation/nccl_operation.hpp"
#include "tests/support/mpi_main.hpp"
#include "tests/support/random_source.hpp"
#include "tests/support/shared_folder.hpp"
#include "tests/support/tiny_trainer.hpp"
#include "worker/optimizer/sharded_adamw.hpp"
#include "worker/parallel/cuda_device.hpp"
#include "worker/parallel/nccl_communicator.hpp"

namespace demist {
namespace {

constexpr std::int32_t kMicroBatches = 4;
constexpr std::int64_t kShapes = 2;  // steps after which shapes come again

// Shapes repeat, as those of buckets do.
class RepeatingSource final : public data::Source {
 public:
  explicit RepeatingSource(bool rdm) : inner_(test::kTinyVocab, kMicroBatches, rdm, 2, 24) {}
  std::int32_t micro_batches() const override { return inner_.micro_batches(); }
  std::int64_t max_tokens() const override { return inner_.max_tokens(); }
  std::int64_t max_targets() const override { return inner_.max_targets(); }
  data::MicroBatch make(std::int64_t step, std::int32_t index) const override {
    return inner_.make(step % kShapes, index);
  }

 private:
  test::RandomSource inner_;
};

struct Case {
  DType compute;
  NormPlacement norm;
  bool rdm;
  Reduction reduction;
  std::string name() const {
    return std::string(name_of(compute)) + (norm == NormPlacement::post ? "Post" : "Pre") +
           (rdm ? "Rdm" : "Mlm") + (reduction == Reduction::exact ? "Exact" : "Fast");
  }
};

TrainerConfig config_for(const Case& c, int tensor_size) {
  TrainerConfig config = test::tiny_trainer();
  config.model.hidden = 128;
  config.model.norm = c.norm;
  config.reduction = c.reduction;
  config.compute = c.compute;
  config.tensor_parallel = tensor_size;
  return config;
}

class StepCalls : public testing::TestWithParam<Case> {
 protected:
  std::unique_ptr<Trainer> make(int tensor_size) {
    groups_ = test::world().size() / tensor_size;
    auto trainer = std::make_unique<Trainer>(test::world(), config_for(GetParam(), tensor_size),
                                             std::make_shared<RepeatingSource>(GetParam().rdm),
                                             make_cuda_device(test::world()));
    trainer->initialize();
    return trainer;
  }
  void step(Trainer& trainer) const {
    StepPlan plan{trainer.step(), {}};
    for (std::int32_t i = 0; i < kMicroBatches; ++i) plan.owner.push_back(i % groups_);
    trainer.announce(plan);
    EXPECT_TRUE(trainer.run_step().applied());
  }
  emu::Counters calls_of_step(Trainer& trainer) const {
    const emu::Counters before = emu::counters();
    step(trainer);
    return emu::counters() - before;
  }

  int groups_ = 1;
};

TEST_P(StepCalls, AreThoseOfTheDocument) {
  for (int tensor_size = 1; tensor_size <= std::min(2, test::world().size()); ++tensor_size) {
    const auto trainer = make(tensor_size);
    const std::int64_t own = kMicroBatches / groups_;
    const std::int64_t scales = GetParam().reduction == Reduction::exact ? 1 : 0;
    for (std::int64_t s = 0; s < kShapes; ++s) step(*trainer);
    for (std::int64_t s = 0; s < 2 * kShapes; ++s) {
      emu::Counters calls = calls_of_step(*trainer);
      EXPECT_GT(calls.launches, 40);  // the step was made: with one micro-batch a rank it takes 48
      calls.launches = 0;
      emu::Counters documented;
      documented.synchronizations = 2;
      documented.event_waits = own + own + scales;
      EXPECT_EQ(calls, documented) << to_text(calls) << "\nin step " << s << " with " << tensor_size
                                   << " tensor-parallel ranks; expected\n"
                                   << to_text(documented);
    }
  }
}

// Its buffers are made by the first one; the copy waits for nobody.
TEST_P(StepCalls, ASaveStopsNoStep) {
  const test::SharedFolder root;
  const auto trainer = make(1);
  for (std::int64_t s = 0; s < kShapes; ++s) step(*trainer);
  checkpoint::BackgroundSave save(test::world(), root.path(), {.last = 2});
  for (int i = 0; i < 2; ++i) {
    const emu::Counters before = emu::counters();
    trainer->begin_save(save, std::nullopt);
    const emu::Counters calls = emu::counters() - before;
    EXPECT_EQ(calls.synchronizations + calls.event_waits + calls.pageable_copies, 0)
        << to_text(calls);
    EXPECT_EQ(calls.objects, 0) << to_text(calls);
    EXPECT_EQ(calls.allocations, i == 0 ? 3 : 0) << to_text(calls);
    step(*trainer);
    checkpoint::throw_if_failed(test::world(), *save.finish());
  }
}

// Steps go on while the state is on its way out of the device.
TEST_P(StepCalls, ASaveHoldsTheStateOfItsStep) {
  const test::SharedFolder root, other;
  const auto trainer = make(1);
  step(*trainer);
  trainer->save(other.path(), 1);
  checkpoint::BackgroundSave save(test::world(), root.path(), {.last = 1});
  trainer->begin_save(save, std::nullopt);
  for (std::int64_t s = 0; s < kShapes; ++s) step(*trainer);
  checkpoint::throw_if_failed(test::world(), *save.finish());
  EXPECT_EQ(checkpoint::open_any(root.path()).hash(), checkpoint::open_any(other.path()).hash());
}

INSTANTIATE_TEST_SUITE_P(
    Cases, StepCalls,
    testing::Values(Case{DType::f32, NormPlacement::post, false, Reduction::exact},
                    Case{DType::f32, NormPlacement::pre, true, Reduction::fast},
                    Case{DType::bf16, NormPlacement::post, true, Reduction::exact},
                    Case{DType::bf16, NormPlacement::pre, false, Reduction::exact}),
    [](const auto& c) { return c.param.name(); });

// One kernel a bucket, however many tensors there are.
TEST(UpdateCalls, DoNotGrowWithTheTensors) {
  if (test::world().rank() > 0) return;
  for (const std::int64_t layers : {1, 5}) {
    TrainerConfig config = config_for({DType::bf16, NormPlacement::post, false, {}}, 1);
    config.model.layers = layers;
    cuda::CudaBackend backend;
    ParallelGroups groups;
    groups.tensor = make_local_communicator();
    groups.data = make_local_communicator();
    groups.world = make_local_communicator();
    const ParameterTable table(config.model, 1, 0);
    ShardedAdamW optimizer(config.model, table, backend, groups, config.compute, config.optimizer);
    optimizer.initialize(1);
    optimizer.publish();
    Buffer<float> gradient(static_cast<std::size_t>(optimizer.shard_size()), backend.memory());
    backend.zero(gradient.data(), gradient.bytes());
    const std::int64_t before = emu::counters().launches;
    optimizer.update(gradient.span(), 1, 0);
    EXPECT_EQ(emu::counters().launches - before, std::ssize(table.buckets()));
  }
}

// Integers are left to NCCL: no kernel of ours, no messages between pairs.
TEST(SumCalls, OfIntegersAreNccls) {
  if (test::world().size() == 1) GTEST_SKIP() << "needs two ranks";
  cuda::CudaBackend backend;
  const auto comm = make_nccl_communicator(test::world(), backend);
  const auto ranks = static_cast<std::size_t>(comm->size());
  const bool first = comm->rank() == 0;
  Buffer<std::int64_t> in(3 * ranks, backend.memory()), out(first ? 4 : 3, backend.memory());
  backend.zero(in.data(), in.bytes());
  std::vector<std::int64_t> starts;
  for (std::size_t r = 0; r <= ranks; ++r) starts.push_back(static_cast<std::int64_t>(3 * r));
  const std::span<const std::int64_t> terms(in.span());
  const auto added = [&](emu::Kind kind, auto&& call) {
    const std::int64_t before = emu::nccl_calls(kind);
    call();
    return emu::nccl_calls(kind) - before;
  };
  const emu::Counters before = emu::counters();
  const std::int64_t messages = added(emu::Kind::point_to_point, [&] {
    EXPECT_EQ(added(emu::Kind::reduce_scatter,
                    [&] { comm->reduce_scatter_sum(out.span().first(3), terms, starts); }),
              1);
    starts[1] = 4;  // longer than the second
    const std::size_t mine = first ? 4 : comm->rank() == 1 ? 2 : 3;
    EXPECT_EQ(added(emu::Kind::reduce,
                    [&] { comm->reduce_scatter_sum(out.span().first(mine), terms, starts); }),
              comm->size());
    EXPECT_EQ(added(emu::Kind::all_reduce, [&] { comm->all_reduce_sum(in.span()); }), 1);
  });
  EXPECT_EQ(messages, 0);
  EXPECT_EQ(emu::counters() - before, emu::Counters()) << to_text(emu::counters() - before);
  comm->barrier();
}

}  // namespace
}  // namespace demist

int main(int argc, char** argv) { return demist::test::run_mpi_tests(argc, argv); }
