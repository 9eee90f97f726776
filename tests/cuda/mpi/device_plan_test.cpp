// The plan of a stage's products: one for all ranks, kept over stops, made anew on other devices.
// Under the emulator DEMIST_EMULATION_FASTEST makes another algorithm than the first one win.
// SPDX-License-Identifier: Apache-2.0
#include "worker/device_plan.hpp"

#include <gtest/gtest.h>

#include "core/error.hpp"
#include "core/file.hpp"
#include "tests/support/mpi_main.hpp"
#include "tests/support/random_source.hpp"
#include "tests/support/shared_folder.hpp"
#include "tests/support/tiny_trainer.hpp"
#include "worker/parallel/cuda_device.hpp"

namespace demist {
namespace {

constexpr std::int32_t kMicroBatches = 4;
constexpr std::int64_t kSteps = 3;

TrainerConfig config_for(int tensor_size) {
  TrainerConfig config = test::tiny_trainer();
  config.model.hidden = 64;
  config.model.ffn = 32;
  config.model.heads = 4;
  config.compute = DType::bf16;
  config.tensor_parallel = tensor_size;
  return config;
}

// A stage on the ranks of a communicator, in a folder that they share.
class Stage {
 public:
  Stage(const mpi::Comm& comm, std::filesystem::path folder, bool measure, int tensor_size = 1)
      : comm_(comm),
        folder_(std::move(folder)),
        groups_(comm.size() / tensor_size),
        trainer_(
            comm, config_for(tensor_size),
            std::make_shared<test::RandomSource>(test::kTinyVocab, kMicroBatches, false, 2, 16),
            make_cuda_device(comm)) {
    const bool goes_on = comm_.all_reduce_max(std::filesystem::exists(checkpoints()) ? 1 : 0) > 0;
    if (goes_on)
      trainer_.resume(checkpoint::open_any(checkpoints()));
    else
      trainer_.initialize();
    settle_device_plan(comm_, trainer_, {"test", plan_file(), measure, goes_on});
  }
  std::filesystem::path plan_file() const { return folder_ / "device_plan.json"; }
  std::filesystem::path checkpoints() const { return folder_ / "checkpoints"; }
  DevicePlan plan() const { return read_device_plan(plan_file()).value(); }

  void run_until(std::int64_t step) {
    while (trainer_.step() < step) {
      StepPlan plan{trainer_.step(), {}};
      for (std::int32_t i = 0; i < kMicroBatches; ++i) plan.owner.push_back(i % groups_);
      trainer_.announce(plan);
      ASSERT_TRUE(trainer_.run_step().applied());
    }
  }
  std::string save() {
    trainer_.save(checkpoints(), 2);
    return checkpoint::open_any(checkpoints()).hash();
  }

 private:
  const mpi::Comm& comm_;
  const std::filesystem::path folder_;
  const int groups_;
  Trainer trainer_;
};

const mpi::Comm& world() { return test::world(); }

// Rank 0 changes a file while the others wait.
template <class Change>
void on_first_rank(Change change) {
  world().barrier();
  if (world().rank() == 0) change();
  world().barrier();
}

TEST(DevicePlans, OnePlanForAllRanksAndOneHashAfterAStop) {
  const test::SharedFolder whole, cut;
  Stage through(world(), whole.path(), true);
#ifdef DEMIST_EMULATED
  EXPECT_GT(through.plan().products.size(), 8u);
#endif
  through.run_until(kSteps);
  const std::string hash = through.save();
  on_first_rank(
      [&] { std::filesystem::copy_file(through.plan_file(), cut.path() / "device_plan.json"); });
  {
    Stage first(world(), cut.path(), true);
    first.run_until(1);
    first.save();
  }
  Stage second(world(), cut.path(), true);
  second.run_until(kSteps);
  EXPECT_EQ(second.save(), hash);
}

// Micro-batches move between the ranks and find the same algorithms everywhere.
TEST(DevicePlans, OneHashForAnyNumberOfGroups) {
  const test::SharedFolder folder;
  std::string reference;
  for (int groups = 1; groups <= world().size(); groups *= 2) {
    const mpi::Comm comm = world().split(world().rank() < groups ? 0 : 1, world().rank());
    const auto path = folder.path() / std::to_string(groups);
    on_first_rank([&] {
      std::filesystem::create_directories(path);
      if (groups > 1)
        std::filesystem::copy_file(folder.path() / "1" / "device_plan.json",
                                   path / "device_plan.json");
    });
    if (world().rank() < groups) {
      Stage stage(comm, path, true);
      stage.run_until(kSteps);
      const std::string hash = stage.save();
      if (groups == 1) reference = hash;
      EXPECT_EQ(hash, reference) << groups << " groups";
    }
    world().barrier();
    reference = world().broadcast(reference, 0);
  }
}

// Ranks of a tensor group compute different parts of one product: they need not be equal for the
// sums to agree, but the plan names the products of all.
TEST(DevicePlans, TensorGroupsGoOnToTheSameHash) {
  const test::SharedFolder whole, cut;
  Stage through(world(), whole.path(), true, world().size());
  through.run_until(kSteps);
  const std::string hash = through.save();
  on_first_rank(
      [&] { std::filesystem::copy_file(through.plan_file(), cut.path() / "device_plan.json"); });
  {
    Stage first(world(), cut.path(), true, world().size());
    first.run_until(2);
    first.save();
  }
  Stage second(world(), cut.path(), true, world().size());
  second.run_until(kSteps);
  EXPECT_EQ(second.save(), hash);
}

#ifdef DEMIST_EMULATED
TEST(DevicePlans, MeasuredProductsHaveOtherBits) {
  const test::SharedFolder measured, plain;
  Stage one(world(), measured.path(), true), other(world(), plain.path(), false);
  EXPECT_FALSE(other.plan().measured);
  EXPECT_TRUE(other.plan().products.empty());
  one.run_until(1);
  other.run_until(1);
  EXPECT_NE(one.save(), other.save());
}
#endif

TEST(DevicePlans, AStageGoesOnAsItBegan) {
  const test::SharedFolder folder;
  {
    Stage first(world(), folder.path(), false);
    first.run_until(1);
    first.save();
  }
  testing::internal::CaptureStderr();
  const Stage second(world(), folder.path(), true);
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_FALSE(second.plan().measured);
  if (world().rank() == 0) {
    EXPECT_NE(said.find("keeps the library's first choice"), std::string::npos) << said;
  }
}

TEST(DevicePlans, AnotherDeviceIsSaidAndGetsAPlanOfItsOwn) {
  const test::SharedFolder folder;
  DevicePlan foreign;
  {
    Stage first(world(), folder.path(), true);
    first.run_until(1);
    first.save();
    foreign = first.plan();
  }
  const DeviceIdentity here = foreign.device;
  foreign.device.multiprocessors += 1;
  foreign.products = {{"a product", "of another GPU"}};
  const auto file = folder.path() / "device_plan.json";
  on_first_rank([&] { atomic_write(file, to_json(foreign)); });
  testing::internal::CaptureStderr();
  Stage second(world(), folder.path(), false);
  const std::string said = testing::internal::GetCapturedStderr();
  if (world().rank() == 0) {
    EXPECT_NE(said.find("was made on " + describe(foreign.device)), std::string::npos) << said;
  }
  EXPECT_EQ(second.plan().device, here);
  EXPECT_FALSE(second.plan().measured);
  EXPECT_TRUE(second.plan().products.empty());
  second.run_until(2);
}

TEST(DevicePlans, ADamagedPlanEndsAllRanks) {
  const test::SharedFolder folder;
  on_first_rank([&] { atomic_write(folder.path() / "device_plan.json", "{}"); });
  try {
    const Stage stage(world(), folder.path(), true);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::data);
    EXPECT_NE(std::string(error.what()).find("or delete it"), std::string::npos) << error.what();
  }
}

TEST(DevicePlans, ALookBackAdoptsAndWritesNothing) {
  const test::SharedFolder folder, nothing;
  const Stage stage(world(), folder.path(), true);
  Trainer trainer(
      world(), config_for(1),
      std::make_shared<test::RandomSource>(test::kTinyVocab, kMicroBatches, false, 2, 16),
      make_cuda_device(world()));
  adopt_device_plan(world(), trainer, nothing.path() / "device_plan.json");
  EXPECT_FALSE(std::filesystem::exists(nothing.path() / "device_plan.json"));
  DevicePlan broken = stage.plan();
  broken.products = {{"a product", "no algorithm"}};
  const auto file = nothing.path() / "broken.json";
  on_first_rank([&] { atomic_write(file, to_json(broken)); });
  EXPECT_THROW(adopt_device_plan(world(), trainer, file), Error) << "it was not adopted";
  broken.device.gpu = "another one";
  on_first_rank([&] { atomic_write(file, to_json(broken)); });
  EXPECT_NO_THROW(adopt_device_plan(world(), trainer, file));
}

}  // namespace
}  // namespace demist

int main(int argc, char** argv) { return demist::test::run_mpi_tests(argc, argv); }
