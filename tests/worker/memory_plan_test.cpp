// The plan says what the classes allocate, for any layout; and a plan that does not fit is refused.
// SPDX-License-Identifier: Apache-2.0
#include "worker/memory_plan.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <limits>

#include "core/host_memory.hpp"
#include "tests/support/rank_of.hpp"
#include "tests/support/temporary_folder.hpp"
#include "worker/model/model.hpp"
#include "worker/optimizer/gradient_reducer.hpp"
#include "worker/optimizer/sharded_adamw.hpp"

namespace demist {
namespace {

MemoryRequest small(DType compute) {
  MemoryRequest request;
  request.model.layers = 3;
  request.model.hidden = 64;
  request.model.ffn = 160;
  request.model.heads = 8;
  request.model.vocab = 1001;
  request.model.positions = 66;
  request.compute = compute;
  request.micro_batches = 3;
  request.tokens = 7 * 33;
  request.sequences = 7;
  request.targets = 7 * 6;
  return request;
}

// What the classes hold of host memory when a trainer makes them.
std::size_t allocated(const MemoryRequest& r) {
  const auto backend = make_cpu_backend();
  ParallelGroups groups;
  groups.layout = r.layout;
  groups.tensor = std::make_unique<test::RankOf>(r.layout.tensor_rank, r.layout.tensor_size);
  groups.data = std::make_unique<test::RankOf>(r.layout.data_rank, r.layout.data_size);
  groups.world = make_local_communicator();
  const ParameterTable table(r.model, r.layout.tensor_size, r.layout.tensor_rank);
  const ShardedAdamW optimizer(r.model, table, *backend, groups, r.compute, {});
  const Model model(r.model, table, *backend, *groups.tensor, r.compute,
                    {r.tokens, r.targets, true, r.recompute});
  const auto reducer = r.reduction == Reduction::exact
                           ? make_exact_reducer(table, *backend, groups, r.micro_batches)
                           : make_fast_reducer(table, *backend, groups);
  const auto gradients = static_cast<std::size_t>(table.size() + optimizer.shard_size());
  return optimizer.bytes() + model.bytes() + reducer->bytes() + gradients * sizeof(float);
}

TEST(MemoryPlan, IsWhatTheClassesAllocate) {
  for (const DType compute : {DType::f32, DType::bf16})
    for (const Reduction reduction : {Reduction::exact, Reduction::fast})
      for (const Recompute recompute : {Recompute::none, Recompute::gelu, Recompute::layer})
        for (const auto& [tensor, data] : {std::pair{1, 1}, {2, 1}, {1, 3}, {4, 8}}) {
          MemoryRequest request = small(compute);
          request.reduction = reduction;
          request.recompute = recompute;
          request.layout = {tensor, tensor - 1, data, data / 2};
          const MemoryPlan plan = plan_memory(request);
          // Terms of sums are received later, and states are copied when they are saved.
          EXPECT_EQ(plan.total() - plan.exchange - plan.checkpoint, allocated(request))
              << name_of(compute) << ", mode " << static_cast<int>(recompute) << ", " << tensor
              << " x " << data;
        }
}

TEST(MemoryPlan, OneMicroBatchHasNoSum) {
  MemoryRequest request = small(DType::bf16);
  request.micro_batches = 1;
  EXPECT_EQ(plan_memory(request).total() - plan_memory(request).checkpoint, allocated(request));
  EXPECT_LT(plan_memory(request).sums, 10000u);  // tables of pieces only
}

TEST(MemoryPlan, PartsAddUp) {
  MemoryRequest request = small(DType::bf16);
  request.on_device = true;
  request.layout = {2, 0, 4, 0};
  const MemoryPlan plan = plan_memory(request);
  std::size_t sum = 0;
  for (const MemoryPlan::Part& part : plan.parts()) sum += part.bytes;
  EXPECT_EQ(sum, plan.total());
  EXPECT_EQ(plan.from_start, (std::size_t{32} << 20) + plan.exchange);
}

TEST(MemoryPlan, MostTokensAreTheLastThatFit) {
  MemoryRequest request = small(DType::bf16);
  const auto total = [&](std::int64_t sequences) {
    request.sequences = sequences;
    request.tokens = sequences * 32;
    request.targets = sequences * 5;
    return plan_memory(request).total();
  };
  const std::size_t limit = total(13);
  EXPECT_EQ(most_tokens(request, 32, 5, limit), 13 * 32);
  EXPECT_EQ(most_tokens(request, 32, 5, limit - 1), 12 * 32);
  EXPECT_EQ(most_tokens(request, 32, 5, total(1) - 1), 0);
}

constexpr std::size_t kLeftToLibraries = std::size_t{512} << 20;  // of a device

// As much memory as a test wants, and none to be had.
class Scarce final : public Memory {
 public:
  explicit Scarce(std::size_t available) : available_(available) {}
  void* allocate(std::size_t) override { throw InternalError("allocated before the plan"); }
  void release(void*) noexcept override {}
  std::size_t available() const override { return available_; }

 private:
  std::size_t available_;
};

std::string refusal(const MemoryRequest& request, std::size_t available) {
  Scarce memory(available);
  try {
    require_memory(mpi::Comm(), request, memory);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::environment);
    return error.what();
  }
  return "";
}

TEST(RequireMemory, NamesWhatIsMissingAndWhatHelps) {
  MemoryRequest request = small(DType::bf16);
  request.model.layers = 12;
  const std::size_t none = plan_memory(request).total();
  EXPECT_EQ(refusal(request, none), "");
  const std::string little = refusal(request, none - 1000);
  EXPECT_NE(little.find("1 kB more than is free"), std::string::npos) << little;
  EXPECT_NE(little.find("set parallel.recompute: GELU"), std::string::npos) << little;
  request.recompute = Recompute::gelu;
  const std::string more = refusal(request, plan_memory(request).total() - 1);
  EXPECT_NE(more.find("set parallel.recompute: LAYER"), std::string::npos) << more;
  request.recompute = Recompute::layer;
  const std::string tokens = refusal(request, plan_memory(request).total() - 1);
  EXPECT_NE(tokens.find("batch.max_tokens to at most 198"), std::string::npos) << tokens;
  const std::string all = refusal(request, plan_memory(request).optimizer);
  EXPECT_NE(all.find("raise parallel.tensor"), std::string::npos) << all;
}

// cuDNN keeps dP of a whole micro-batch, 2 bytes a score, and 4 bytes a row of them; our fused
// kernels 16 bytes a row.
TEST(RequireMemory, CountsAttentionAsItIsComputed) {
  MemoryRequest request = small(DType::bf16);
  request.model.hidden = 512;
  request.model.attention_dropout = 0;
  request.model.positions = 258;
  request.sequences = 60;
  request.columns = 256;
  request.tokens = 60 * 256;
  request.on_device = true;
  const auto total = [&](AttentionPath path) {
    request.attention = path;
    return plan_memory(request).total();
  };
  const std::size_t rows = std::size_t{60} * 8 * 256;
  const std::size_t own = total(AttentionPath::own);
  EXPECT_GE(total(AttentionPath::cudnn), own + rows * (2 * 256 + 4) - rows * 16);
  EXPECT_LE(total(AttentionPath::cudnn), own + rows * (2 * 256 + 4));
  EXPECT_GT(total(AttentionPath::unfused), own);
  request.attention = AttentionPath::cudnn;
  const std::size_t enough = own - plan_memory(request).from_start + kLeftToLibraries;
  EXPECT_NE(refusal(request, enough).find("set parallel.attention: OWN"), std::string::npos);
  EXPECT_EQ(refusal(request, enough - 1).find("attention: OWN"), std::string::npos);
}

// What a device has from the start is there already; half a gigabyte is left to the libraries.
TEST(RequireMemory, KnowsWhatADeviceHasAndNeeds) {
  MemoryRequest request = small(DType::bf16);
  request.on_device = true;
  const MemoryPlan plan = plan_memory(request);
  const std::size_t enough = plan.total() - plan.from_start + kLeftToLibraries;
  EXPECT_EQ(refusal(request, enough), "");
  EXPECT_NE(refusal(request, enough - 1).find("GPU memory"), std::string::npos);
}

// /proc and /sys/fs/cgroup of a pretended machine.
class HostMemoryTest : public testing::Test {
 protected:
  void write(const std::string& file, const std::string& text) {
    const auto path = root_.path() / file;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  std::size_t available() const { return available_host_memory(root_.path()); }

 private:
  const test::TemporaryFolder root_;
};

TEST_F(HostMemoryTest, TakesTheSmallestOfKernelAndGroups) {
  EXPECT_EQ(available(), std::numeric_limits<std::size_t>::max());
  write("proc/meminfo", "MemTotal:  9000 kB\nMemFree:  10 kB\nMemAvailable:  8000 kB\n");
  EXPECT_EQ(available(), 8000u * 1024);
  write("proc/self/cgroup", "0::/job/step\n");
  write("sys/fs/cgroup/job/memory.max", "5000000\n");
  write("sys/fs/cgroup/job/memory.current", "2000000\n");
  write("sys/fs/cgroup/job/memory.stat", "anon 1\ninactive_file 500000\n");
  write("sys/fs/cgroup/job/step/memory.max", "max\n");
  write("sys/fs/cgroup/job/step/memory.current", "1000000\n");
  EXPECT_EQ(available(), 3500000u);
  write("proc/self/cgroup", "9:cpu,memory:/slurm\n1:name=systemd:/\n");
  write("sys/fs/cgroup/memory/slurm/memory.limit_in_bytes", "100\n");
  write("sys/fs/cgroup/memory/slurm/memory.usage_in_bytes", "130\n");
  EXPECT_EQ(available(), 0u);
}

}  // namespace
}  // namespace demist
