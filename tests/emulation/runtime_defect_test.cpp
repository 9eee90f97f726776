// Wrong use of the CUDA runtime must be found, by a refusal or by a wrong result. For the emulated
// device only: a real one may crash, or let it pass.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "tests/emulation/device_buffer.hpp"
#include "tests/emulation/emulator.hpp"
#include "tests/emulation/sanitizers.hpp"
#include "tests/emulation/streams.hpp"

namespace demist::cuda::test {
namespace {

constexpr std::size_t kCount = 256, kBytes = kCount * sizeof(int);

class RuntimeDefects : public testing::Test {
 protected:
  void SetUp() override {
    for (cudaStream_t& stream : streams_)
      ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    ASSERT_EQ(cudaMallocHost(reinterpret_cast<void**>(&pinned_), kBytes), cudaSuccess);
    std::fill_n(pinned_, kCount, 3);
  }
  void TearDown() override {
    emu::options().seed = seed_;
    for (cudaStream_t stream : streams_) EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
    EXPECT_EQ(cudaFreeHost(pinned_), cudaSuccess);
    cudaGetLastError();
  }
  cudaError_t copy(void* to, const void* from, cudaMemcpyKind kind, int stream = 0) {
    return cudaMemcpyAsync(to, from, kBytes, kind, streams_[stream]);
  }
  const std::uint64_t seed_ = emu::options().seed;
  cudaStream_t streams_[2] = {};
  int* pinned_ = nullptr;
};

TEST_F(RuntimeDefects, AMissingEventWaitShows) {
  emu::options().seed = 0;
  const DeviceBuffer<int> from(kCount), to(kCount);
  ASSERT_EQ(copy(from.data(), pinned_, cudaMemcpyHostToDevice, 0), cudaSuccess);
  ASSERT_EQ(copy(to.data(), from.data(), cudaMemcpyDeviceToDevice, 1), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(streams_[1]), cudaSuccess);
  EXPECT_EQ(to.host(), std::vector<int>(kCount, -1));
}

TEST_F(RuntimeDefects, PinnedMemoryWrittenTooEarlyShows) {
  emu::options().seed = 0;
  const DeviceBuffer<int> device(kCount);
  ASSERT_EQ(copy(device.data(), pinned_, cudaMemcpyHostToDevice), cudaSuccess);
  std::fill_n(pinned_, kCount, 4);  // the copy may not have happened
  EXPECT_EQ(device.host()[0], 4);
}

TEST_F(RuntimeDefects, AResultReadTooEarlyShows) {
  emu::options().seed = 0;
  const DeviceBuffer<int> device(std::vector<int>(kCount, 8));
  ASSERT_EQ(copy(pinned_, device.data(), cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(pinned_[0], -1);
  ASSERT_EQ(cudaStreamSynchronize(streams_[0]), cudaSuccess);
  EXPECT_EQ(pinned_[0], 8);
}

TEST_F(RuntimeDefects, FreshMemoryIsPoison) {
  EXPECT_EQ(DeviceBuffer<int>::unwritten(kCount).host(), std::vector<int>(kCount, -1));
}

TEST_F(RuntimeDefects, PlacesAreChecked) {
  std::vector<int> host(kCount);
  const DeviceBuffer<int> device(kCount);
  EXPECT_EQ(copy(host.data(), pinned_, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(copy(device.data(), host.data(), cudaMemcpyDeviceToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(copy(device.data(), device.data(), cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(copy(pinned_, host.data(), cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemsetAsync(host.data(), 0, kBytes, streams_[0]), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST_F(RuntimeDefects, EndsAreChecked) {
  const DeviceBuffer<int> device(kCount);
  EXPECT_EQ(copy(device.data() + 1, pinned_, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(copy(pinned_, device.data() + 1, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemsetAsync(device.data(), 0, kBytes + 1, streams_[0]), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy2DAsync(device.data(), 8, pinned_, 8, 16, 2, cudaMemcpyHostToDevice, nullptr),
            cudaErrorInvalidPitchValue);
}

TEST_F(RuntimeDefects, MemoryFreedBeforeItsTurnIsNamed) {
  emu::options().seed = 0;
  int* data = nullptr;
  ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&data), kBytes), cudaSuccess);
  ASSERT_EQ(cudaFreeAsync(data, streams_[0]), cudaSuccess);
  ASSERT_EQ(copy(data, pinned_, cudaMemcpyHostToDevice, 0), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(streams_[0]), cudaErrorLaunchFailure);
  EXPECT_NE(emu::take_fault().find("freed before the copy ran"), std::string::npos);
}

TEST_F(RuntimeDefects, HandlesMustLive) {
  cudaStream_t gone = nullptr;
  ASSERT_EQ(cudaStreamCreate(&gone), cudaSuccess);
  ASSERT_EQ(cudaStreamDestroy(gone), cudaSuccess);
  const DeviceBuffer<int> device(kCount);
  EXPECT_EQ(cudaMemsetAsync(device.data(), 0, kBytes, gone), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaStreamSynchronize(gone), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaStreamDestroy(gone), cudaErrorInvalidResourceHandle);
  cudaEvent_t event = nullptr;
  ASSERT_EQ(cudaEventCreate(&event), cudaSuccess);
  float ms = 0;
  EXPECT_EQ(cudaEventElapsedTime(&ms, event, event), cudaErrorInvalidResourceHandle);
  ASSERT_EQ(cudaEventDestroy(event), cudaSuccess);
  EXPECT_EQ(cudaEventRecord(event, streams_[0]), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaStreamWaitEvent(streams_[0], event, 0), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaSetDevice(99), cudaErrorInvalidDevice);
}

TEST_F(RuntimeDefects, TheHostMayNotFollowADevicePointer) {
  if (emu::asan_is_on()) GTEST_SKIP() << "blocks lie on the heap there, with not a byte to spare";
  const DeviceBuffer<int> written(std::vector<int>(kCount, 8));
  const auto fresh = DeviceBuffer<int>::unwritten(kCount);
  int* freed = nullptr;
  ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&freed), kBytes), cudaSuccess);
  ASSERT_EQ(cudaFree(freed), cudaSuccess);
  EXPECT_EQ(written.host()[0], 8);
  for (volatile int* p : {written.data(), fresh.data(), freed}) {
    EXPECT_DEATH(static_cast<void>(*p), "");
    EXPECT_DEATH(*p = 1, "");
  }
}

TEST_F(RuntimeDefects, FreesAreChecked) {
  int local = 0;
  const DeviceBuffer<int> device(kCount);
  EXPECT_EQ(cudaFree(&local), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFree(device.data() + 1), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFree(pinned_), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFreeHost(device.data()), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFreeAsync(&local, streams_[0]), cudaErrorInvalidValue);
  void* huge = nullptr;
  EXPECT_EQ(cudaMalloc(&huge, std::size_t{1} << 40), cudaErrorMemoryAllocation);
}

}  // namespace
}  // namespace demist::cuda::test
