// What computes a stage's attention: the recipe's wish, one verdict for all ranks, and one choice
// from the first step to the last. A pretended cuDNN stands in for the real one: our own kernels,
// with a fault if need be.
// SPDX-License-Identifier: Apache-2.0
#include "worker/attention_choice.hpp"

#include <gtest/gtest.h>

#include "core/error.hpp"
#include "kernels/cuda/cuda_backend.hpp"
#include "tests/cuda/tolerance.hpp"
#include "tests/support/faulty_attention.hpp"
#include "tests/support/mpi_main.hpp"
#include "tests/support/random_source.hpp"
#include "tests/support/shared_folder.hpp"
#include "worker/device_plan.hpp"
#include "worker/parallel/cuda_device.hpp"

namespace demist {
namespace {

using cuda::test::AttentionFault;
using cuda::test::FaultyAttention;

constexpr std::int32_t kMicroBatches = 4;
constexpr std::int64_t kColumns = 128;

const mpi::Comm& world() { return test::world(); }

TrainerConfig config_with(float attention_dropout) {
  TrainerConfig config;
  config.stage = "test";
  config.model.layers = 1;
  config.model.hidden = 64;
  config.model.ffn = 32;
  config.model.heads = 1;  // of 64: the fused kernels'
  config.model.vocab = 83;
  config.model.positions = kColumns + 2;
  config.model.attention_dropout = attention_dropout;
  config.optimizer.schedule = {ScheduleKind::linear, 1e-3, 0, 2, 40};
  config.compute = DType::bf16;
  config.seed = 11;
  return config;
}

enum class Cudnn { absent, sound, faulty_on_last_rank };

// As train_stage does it.
class Stage {
 public:
  Stage(std::filesystem::path folder, AttentionWish wish, Cudnn cudnn = Cudnn::absent,
        float attention_dropout = 0)
      : folder_(std::move(folder)) {
    const auto source =
        std::make_shared<test::RandomSource>(83, kMicroBatches, false, 1, kColumns, true);
    Device device = make_cuda_device(world());
    pretend(*device.backend, cudnn);
    TrainerConfig config = config_with(attention_dropout);
    AttentionQuestion question = attention_question(config, *source, nullptr, world());
    question.plan_file = plan_file();
    question.wish = wish;
    choice_ = settle_attention(world(), *device.backend, question);
    config.attention = choice_.planned.path;
    trainer_.emplace(world(), config, source, std::move(device));
    const bool goes_on = world().all_reduce_max(std::filesystem::exists(checkpoints()) ? 1 : 0) > 0;
    if (goes_on)
      trainer_->resume(checkpoint::open_any(checkpoints()));
    else
      trainer_->initialize();
    settle_device_plan(world(), *trainer_, {"test", plan_file(), false, goes_on, choice_.planned});
  }
  std::filesystem::path plan_file() const { return folder_ / "device_plan.json"; }
  std::filesystem::path checkpoints() const { return folder_ / "checkpoints"; }
  PlannedAttention plan() const { return read_device_plan(plan_file()).value().attention; }
  const AttentionChoice& choice() const { return choice_; }
  Trainer& trainer() { return *trainer_; }

  double run_until(std::int64_t step) {
    double loss = 0;
    while (trainer_->step() < step) {
      StepPlan plan{trainer_->step(), {}};
      for (std::int32_t i = 0; i < kMicroBatches; ++i) plan.owner.push_back(i % world().size());
      trainer_->announce(plan);
      const StepReport report = trainer_->run_step();
      EXPECT_TRUE(report.applied());
      loss = report.loss;
    }
    return loss;
  }
  std::string save() {
    trainer_->save(checkpoints(), 2);
    return checkpoint::open_any(checkpoints()).hash();
  }

 private:
  static void pretend(Backend& backend, Cudnn cudnn) {
    if (cudnn == Cudnn::absent) return;
    auto& engines = *static_cast<cuda::CudaBackend&>(backend).attention_chooser();
    const bool faulty = cudnn == Cudnn::faulty_on_last_rank && world().rank() == world().size() - 1;
    engines.pretend_cudnn(
        std::make_unique<FaultyAttention>(
            engines.current(), faulty ? AttentionFault::not_a_number : AttentionFault::none),
        91900);
  }

  const std::filesystem::path folder_;
  AttentionChoice choice_;
  std::optional<Trainer> trainer_;
};

// All ranks throw it: `usage` where no other machine would do, `environment` where one might.
void expect_refusal(ExitCode code, const std::string& words, const std::function<void()>& begin) {
  try {
    begin();
    ADD_FAILURE() << "not refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
  }
}

TEST(AttentionChoices, WishesAreFulfilledOrRefused) {
  const test::SharedFolder a, b, c, d, e, f;
  EXPECT_EQ(Stage(a.path(), AttentionWish::unfused).plan().path, AttentionPath::unfused);
  EXPECT_EQ(Stage(b.path(), AttentionWish::own, Cudnn::sound).plan().path, AttentionPath::own);
  const Stage cudnn(c.path(), AttentionWish::cudnn, Cudnn::sound);
  EXPECT_EQ(cudnn.plan(), (PlannedAttention{AttentionPath::cudnn, "cuDNN 9.19.0"}));
  expect_refusal(ExitCode::usage, "-DDEMIST_CUDNN_FRONTEND",
                 [&] { Stage(d.path(), AttentionWish::cudnn); });
  expect_refusal(ExitCode::usage, "attention_dropout is 0.1",
                 [&] { Stage(e.path(), AttentionWish::cudnn, Cudnn::sound, 0.1f); });
  const std::string last = "rank " + std::to_string(world().size() - 1) + ": dQ of sequence 0";
  expect_refusal(ExitCode::environment, last,
                 [&] { Stage(f.path(), AttentionWish::cudnn, Cudnn::faulty_on_last_rank); });
  EXPECT_FALSE(std::filesystem::exists(f.path() / "device_plan.json"));
}

TEST(AttentionChoices, AutoTakesCudnnWhereItMay) {
  const test::SharedFolder a, b, c;
  EXPECT_EQ(Stage(a.path(), AttentionWish::automatic, Cudnn::sound).plan().path,
            AttentionPath::cudnn);
  EXPECT_EQ(Stage(b.path(), AttentionWish::automatic).plan().path, AttentionPath::own);
  const Stage dropping(c.path(), AttentionWish::automatic, Cudnn::sound, 0.1f);
  EXPECT_EQ(dropping.plan().path, AttentionPath::own);
  EXPECT_EQ(dropping.choice().fault, "");
}

TEST(AttentionChoices, OneFaultyRankDecidesForAll) {
  const test::SharedFolder folder;
  testing::internal::CaptureStderr();
  Stage stage(folder.path(), AttentionWish::automatic, Cudnn::faulty_on_last_rank);
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_EQ(stage.choice().planned.path, AttentionPath::own);
  EXPECT_EQ(stage.plan().path, AttentionPath::own);
  const std::string fault = "rank " + std::to_string(world().size() - 1) +
                            ": dQ of sequence 0, token 7 is not finite, or was not written";
  EXPECT_EQ(stage.choice().fault, fault);
  if (world().rank() == 0) {
    EXPECT_NE(said.find("attention OWN, as cuDNN is not used"), std::string::npos) << said;
    EXPECT_NE(said.find(fault), std::string::npos) << said;
  }
  stage.run_until(1);
}

TEST(AttentionChoices, UnfusedLearnsAsOwnDoes) {
  const test::SharedFolder a, b;
  for (const float dropout : {0.0f, 0.1f}) {
    const std::string name = std::to_string(dropout);
    Stage own(a.path() / name, AttentionWish::own, Cudnn::absent, dropout);
    Stage unfused(b.path() / name, AttentionWish::unfused, Cudnn::absent, dropout);
    const double expected = own.run_until(2);
    EXPECT_NEAR(unfused.run_until(2), expected, cuda::test::kPathLoss * expected);
    EXPECT_NE(own.save(), unfused.save()) << "another path has other bits";
  }
}

TEST(AttentionChoices, AStageGoesOnWithWhatItBeganWith) {
  const test::SharedFolder whole, cut;
  Stage through(whole.path(), AttentionWish::unfused);
  through.run_until(3);
  const std::string hash = through.save();
  {
    Stage first(cut.path(), AttentionWish::unfused);
    first.run_until(1);
    first.save();
  }
  testing::internal::CaptureStderr();
  Stage second(cut.path(), AttentionWish::own);
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_EQ(second.choice().planned.path, AttentionPath::unfused);
  if (world().rank() == 0) {
    EXPECT_NE(said.find("keeps attention UNFUSED"), std::string::npos) << said;
  }
  second.run_until(3);
  EXPECT_EQ(second.save(), hash);
  // Nor does a better library change it.
  EXPECT_EQ(Stage(cut.path(), AttentionWish::automatic, Cudnn::sound).plan().path,
            AttentionPath::unfused);
}

TEST(AttentionChoices, AKeptCudnnIsCheckedAgain) {
  const test::SharedFolder folder;
  {
    Stage first(folder.path(), AttentionWish::automatic, Cudnn::sound);
    first.run_until(1);
    first.save();
  }
  EXPECT_EQ(Stage(folder.path(), AttentionWish::automatic, Cudnn::sound).choice().planned.path,
            AttentionPath::cudnn);
  expect_refusal(ExitCode::environment, "which now fails its check", [&] {
    Stage(folder.path(), AttentionWish::automatic, Cudnn::faulty_on_last_rank);
  });
  // Without the library it cannot go on as it began, and says so.
  testing::internal::CaptureStderr();
  Stage without(folder.path(), AttentionWish::automatic);
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_EQ(without.plan(), PlannedAttention{});
  if (world().rank() == 0) {
    EXPECT_NE(said.find("computed by cuDNN 9.19.0, and here is none"), std::string::npos) << said;
  }
}

TEST(AttentionChoices, ALookBackFindsThePlan) {
  const test::SharedFolder folder;
  const Stage stage(folder.path(), AttentionWish::unfused);
  const Device device = make_cuda_device(world());
  EXPECT_EQ(planned_attention(world(), *device.backend, stage.plan_file()), AttentionPath::unfused);
  EXPECT_EQ(planned_attention(world(), *device.backend, folder.path() / "none"),
            AttentionPath::own);
  const auto cpu = make_cpu_backend();
  EXPECT_EQ(planned_attention(world(), *cpu, stage.plan_file()), AttentionPath::own);
}

TEST(AttentionChoices, CpusHaveOneWay) {
  const auto cpu = make_cpu_backend();
  AttentionQuestion question;
  question.stage = "test";
  for (const AttentionWish wish : {AttentionWish::automatic, AttentionWish::own}) {
    question.wish = wish;
    EXPECT_EQ(settle_attention(world(), *cpu, question).planned, PlannedAttention{});
  }
  for (const AttentionWish wish : {AttentionWish::unfused, AttentionWish::cudnn}) {
    question.wish = wish;
    expect_refusal(ExitCode::usage, "is for GPUs, and this run is on CPUs",
                   [&] { settle_attention(world(), *cpu, question); });
  }
}

}  // namespace
}  // namespace demist

int main(int argc, char** argv) { return demist::test::run_mpi_tests(argc, argv); }
