// Kernels that are wrong must be found wrong: by their results, by a named fault, or by a
// sanitizer. For the emulated device only. SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdlib>
#include <numeric>

#include "core/error.hpp"
#include "tests/emulation/defect_kernels.hpp"
#include "tests/emulation/device_buffer.hpp"
#include "tests/emulation/emulator.hpp"
#include "tests/emulation/sanitizers.hpp"
#include "tests/emulation/streams.hpp"

namespace demist::cuda::test {
namespace {

bool under_asan() { return __asan_unpoison_memory_region != nullptr; }
bool under_tsan() { return __tsan_acquire != nullptr; }

// What the kernel leaves, and the fault that it ended with.
struct Outcome {
  bool right = false;
  std::string fault;
};

Outcome run(Defect defect) {
  std::vector<int> in(64);
  std::iota(in.begin(), in.end(), 100);
  const DeviceBuffer<int> device_in(in);
  auto device_out = DeviceBuffer<int>(64);
  run_defect(defect, device_out.data(), device_in.data(), nullptr);
  const cudaError_t error = cudaDeviceSynchronize();
  Outcome outcome{.fault = emu::take_fault()};
  EXPECT_EQ(error != cudaSuccess, !outcome.fault.empty());
  const std::vector<int> out = device_out.host();
  outcome.right = outcome.fault.empty() && std::equal(out.begin(), out.end(), in.rbegin());
  return outcome;
}

class Defects : public testing::Test {
 protected:
  void SetUp() override { testing::FLAGS_gtest_death_test_style = "fast"; }
  void TearDown() override { emu::options().seed = seed_; }
  const std::uint64_t seed_ = emu::options().seed;
};

int seeds_that_find(Defect defect) {
  int found = 0;
  for (emu::options().seed = 0; emu::options().seed < 8; ++emu::options().seed)
    found += run(defect).right ? 0 : 1;
  return found;
}

void expect_race(Defect defect) {
  EXPECT_EXIT(
      {
        run(defect);
        std::exit(0);
      },
      testing::ExitedWithCode(66), "data race(.|\n)*defect_kernels.cu");
}

TEST_F(Defects, ACleanKernelIsClean) { EXPECT_EQ(seeds_that_find(Defect::none), 0); }

TEST_F(Defects, AReadBeforeTheWriteIsFound) {
  if (under_tsan()) return expect_race(Defect::read_before_write);
  EXPECT_EQ(seeds_that_find(Defect::read_before_write), 8);  // poison: in every order
}

TEST_F(Defects, AnOverwriteIsFound) {
  if (under_tsan()) return expect_race(Defect::overwrite);
  EXPECT_GE(seeds_that_find(Defect::overwrite), 4);  // in many orders
}

TEST_F(Defects, AWarpWithoutSynchronizationIsFound) {
  if (under_tsan()) return expect_race(Defect::warp_without_sync);
  EXPECT_EQ(seeds_that_find(Defect::warp_without_sync), 8);
}

TEST_F(Defects, ARaceIsFoundWhateverItsResult) {
  if (!under_tsan()) GTEST_SKIP() << "ThreadSanitizer's";
  expect_race(Defect::unordered_write);
}

TEST_F(Defects, AnAsynchronousCopyMustBeAwaited) {
  if (under_tsan()) return expect_race(Defect::copy_not_awaited);
  EXPECT_EQ(seeds_that_find(Defect::copy_not_awaited), 8);
}

TEST_F(Defects, AnAsynchronousCopyMustNotOvertakeReaders) {
  if (under_tsan()) return expect_race(Defect::copy_overtakes_read);
  EXPECT_GE(seeds_that_find(Defect::copy_overtakes_read), 4);
}

void expect_fault(Defect defect, const std::vector<std::string>& words) {
  const std::string fault = run(defect).fault;
  for (const std::string& word : words)
    EXPECT_NE(fault.find(word), std::string::npos) << word << " in: " << fault;
}

TEST_F(Defects, DivergenceIsNamed) {
  expect_fault(Defect::divergent_barriers,
               {"barrier divergence", "while others wait at", "defect_kernels.cu:", "thread (",
                "block (0,0,0)", "kernel launched at", "seed "});
  expect_fault(Defect::early_exit,
               {"1 of 64 threads have exited", "63 wait at __syncthreads", "defect_kernels.cu:"});
  expect_fault(Defect::lane_outside_mask, {"__syncwarp", "the lane is not in its mask"});
  expect_fault(Defect::mixed_collectives,
               {"warp divergence", "__shfl_xor_sync", "while other lanes wait at"});
  expect_fault(Defect::partial_warp_mma, {"mma.sync", "fewer than 32 threads"});
}

TEST_F(Defects, AlignmentIsChecked) {
  expect_fault(Defect::misaligned_vector, {"__ldg", "no multiple of 16", "thread (3,0,0)"});
  expect_fault(Defect::unaligned_matrix_row, {"ldmatrix", "no multiple of 16"});
}

TEST_F(Defects, SharedMemoryIsLimited) {
  expect_fault(Defect::no_dynamic_shared, {"asked for no shared bytes"});
  expect_fault(Defect::too_much_shared, {"bytes of shared memory, the limit is"});
}

TEST_F(Defects, BoundsAreChecked) {
  if (!under_asan()) GTEST_SKIP() << "AddressSanitizer's";
  for (const Defect defect : {Defect::read_past_end, Defect::write_past_end,
                              Defect::shared_past_end, Defect::dynamic_shared_past_end})
    EXPECT_DEATH(run(defect), "heap-buffer-overflow(.|\n)*defect_kernels.cu")
        << static_cast<int>(defect);
}

TEST_F(Defects, FreedMemoryIsNoticed) {
  if (!under_asan()) GTEST_SKIP() << "AddressSanitizer's";
  int* freed = nullptr;
  ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&freed), 256), cudaSuccess);
  ASSERT_EQ(cudaFree(freed), cudaSuccess);
  const DeviceBuffer<int> out(64);
  EXPECT_DEATH(
      {
        run_defect(Defect::none, out.data(), freed, nullptr);
        cudaDeviceSynchronize();
      },
      "heap-use-after-free(.|\n)*defect_kernels.cu");
}

TEST_F(Defects, AFaultSticksAsOnADevice) {
  EXPECT_FALSE(run(Defect::early_exit).fault.empty());
  const DeviceBuffer<int> in(64), out(64);
  run_defect(Defect::early_exit, out.data(), in.data(), nullptr);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
  EXPECT_EQ(cudaStreamSynchronize(nullptr), cudaErrorLaunchFailure);
  EXPECT_EQ(cudaGetLastError(), cudaErrorLaunchFailure);
  EXPECT_EQ(cudaGetLastError(), cudaErrorLaunchFailure);
  EXPECT_THROW(run_nothing(1, 1, 0, nullptr), EnvironmentError);
  EXPECT_FALSE(emu::take_fault().empty());
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST_F(Defects, LaunchesAreLimited) {
  EXPECT_NO_THROW(run_nothing(3, 1024, 48 * 1024, nullptr));
  EXPECT_NO_THROW(run_nothing(1, 1, 227 * 1024, nullptr));
  for (const dim3 block : {dim3(1025), dim3(0), dim3(1, 1, 65), dim3(32, 33)})
    EXPECT_THROW(run_nothing(1, block, 0, nullptr), EnvironmentError);
  for (const dim3 grid : {dim3(0), dim3(1, 65536), dim3(1, 1, 65536), dim3(0x80000000u)})
    EXPECT_THROW(run_nothing(grid, 1, 0, nullptr), EnvironmentError);
  EXPECT_THROW(run_nothing(1, 1, 227 * 1024 + 1, nullptr), EnvironmentError);
  try {
    run_nothing(0, 1, 0, nullptr);
  } catch (const EnvironmentError& error) {
    EXPECT_NE(std::string(error.what()).find("defect_kernels.cu:"), std::string::npos);
  }
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidConfiguration);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

}  // namespace
}  // namespace demist::cuda::test
