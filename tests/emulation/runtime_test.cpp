// The CUDA runtime's call forms that the product uses. Nothing here knows the emulation.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/runtime.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "tests/emulation/device_buffer.hpp"
#include "tests/emulation/primitive_kernels.hpp"

namespace demist::cuda::test {
namespace {

constexpr std::size_t kCount = 1024;

std::vector<int> counted(int first) {
  std::vector<int> values(kCount);
  std::iota(values.begin(), values.end(), first);
  return values;
}

// Pinned host memory.
struct Pinned {
  Pinned() {
    EXPECT_EQ(cudaMallocHost(reinterpret_cast<void**>(&data), kCount * sizeof(int)), cudaSuccess);
  }
  ~Pinned() { EXPECT_EQ(cudaFreeHost(data), cudaSuccess); }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  std::vector<int> copy() const { return {data, data + kCount}; }
  void set(int first) {
    const auto values = counted(first);
    std::copy(values.begin(), values.end(), data);
  }
  int* data = nullptr;
};

class Runtime : public testing::Test {
 protected:
  void SetUp() override {
    for (cudaStream_t& stream : streams_)
      ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    ASSERT_EQ(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), cudaSuccess);
  }
  void TearDown() override {
    EXPECT_EQ(cudaEventDestroy(event_), cudaSuccess);
    for (cudaStream_t stream : streams_) EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
    EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  }
  static constexpr std::size_t kBytes = kCount * sizeof(int);
  cudaStream_t streams_[2] = {};
  cudaEvent_t event_ = nullptr;
};

TEST_F(Runtime, CopiesInTheOrderOfAStream) {
  Pinned host, back;
  const DeviceBuffer<int> first(kCount), second(kCount);
  host.set(5);
  const cudaStream_t stream = streams_[0];
  ASSERT_EQ(cudaMemsetAsync(first.data(), 0, kBytes, stream), cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(first.data(), host.data, kBytes, cudaMemcpyHostToDevice, stream),
            cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(second.data(), first.data(), kBytes, cudaMemcpyDeviceToDevice, stream),
            cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(back.data, second.data(), kBytes, cudaMemcpyDefault, stream),
            cudaSuccess);
  ASSERT_EQ(cudaMemsetAsync(second.data(), 0xff, kBytes, stream), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(back.copy(), counted(5));
  EXPECT_EQ(second.host(), std::vector<int>(kCount, -1));
}

TEST_F(Runtime, PageableMemoryIsReadBeforeTheCallReturns) {
  auto host = counted(1);
  const DeviceBuffer<int> device(kCount);
  ASSERT_EQ(
      cudaMemcpyAsync(device.data(), host.data(), kBytes, cudaMemcpyHostToDevice, streams_[0]),
      cudaSuccess);
  host.assign(kCount, 0);
  ASSERT_EQ(cudaStreamSynchronize(streams_[0]), cudaSuccess);
  EXPECT_EQ(device.host(), counted(1));
}

TEST_F(Runtime, EventsOrderStreams) {
  Pinned host, back;
  host.set(7);
  const DeviceBuffer<int> device(kCount);
  ASSERT_EQ(cudaStreamWaitEvent(streams_[1], event_, 0), cudaSuccess);  // never recorded: no wait
  ASSERT_EQ(cudaMemcpyAsync(device.data(), host.data, kBytes, cudaMemcpyHostToDevice, streams_[0]),
            cudaSuccess);
  ASSERT_EQ(cudaEventRecord(event_, streams_[0]), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(streams_[1], event_, 0), cudaSuccess);
  // A later record does not change what the wait was for.
  ASSERT_EQ(cudaEventRecord(event_, streams_[1]), cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(back.data, device.data(), kBytes, cudaMemcpyDeviceToHost, streams_[1]),
            cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(streams_[1]), cudaSuccess);
  EXPECT_EQ(back.copy(), counted(7));
}

TEST_F(Runtime, QueriesEndWithSuccess) {
  Pinned host;
  const DeviceBuffer<int> device(kCount);
  ASSERT_EQ(cudaMemcpyAsync(device.data(), host.data, kBytes, cudaMemcpyHostToDevice, streams_[0]),
            cudaSuccess);
  ASSERT_EQ(cudaEventRecord(event_, streams_[0]), cudaSuccess);
  cudaError_t state = cudaErrorNotReady;
  while (state == cudaErrorNotReady) state = cudaEventQuery(event_);
  EXPECT_EQ(state, cudaSuccess);
  state = cudaErrorNotReady;
  while (state == cudaErrorNotReady) state = cudaStreamQuery(streams_[0]);
  EXPECT_EQ(state, cudaSuccess);
  EXPECT_EQ(cudaEventSynchronize(event_), cudaSuccess);
}

TEST_F(Runtime, KernelsAndCopiesShareAStream) {
  const auto in = counted(100);
  Pinned host, back;
  host.set(100);
  const DeviceBuffer<int> from(kCount), to(2 * kCount);
  const cudaStream_t stream = streams_[0];
  ASSERT_EQ(cudaMemcpyAsync(from.data(), host.data, kBytes, cudaMemcpyHostToDevice, stream),
            cudaSuccess);
  reverse_blocks(to.data(), from.data(), static_cast<int>(kCount), stream);
  ASSERT_EQ(cudaMemcpyAsync(back.data, to.data(), kBytes, cudaMemcpyDeviceToHost, stream),
            cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(back.copy(), (std::vector<int>(in.rbegin(), in.rend())));
}

TEST_F(Runtime, MemoryComesAndGoesInOrder) {
  int* data = nullptr;
  Pinned back;
  const cudaStream_t stream = streams_[0];
  ASSERT_EQ(cudaMallocAsync(reinterpret_cast<void**>(&data), kBytes, stream), cudaSuccess);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(data) % 256, 0u);
  ASSERT_EQ(cudaMemsetAsync(data, 1, kBytes, stream), cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(back.data, data, kBytes, cudaMemcpyDeviceToHost, stream), cudaSuccess);
  ASSERT_EQ(cudaFreeAsync(data, stream), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(back.copy(), std::vector<int>(kCount, 0x01010101));
  EXPECT_EQ(cudaFree(nullptr), cudaSuccess);
}

TEST_F(Runtime, RowsAreCopiedWithPitches) {
  // 8 rows of 16 out of rows of 32, into rows of 20.
  const DeviceBuffer<int> device(8 * 32);
  std::vector<int> in(8 * 32), out(8 * 20, -5);
  std::iota(in.begin(), in.end(), 0);
  const std::size_t width = 16 * sizeof(int);
  ASSERT_EQ(cudaMemcpy(device.data(), in.data(), in.size() * sizeof(int), cudaMemcpyHostToDevice),
            cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);  // pageable memory: it may be under way still
  ASSERT_EQ(cudaMemcpy2DAsync(out.data(), 20 * sizeof(int), device.data(), 32 * sizeof(int), width,
                              8, cudaMemcpyDeviceToHost, streams_[0]),
            cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(streams_[0]), cudaSuccess);
  for (int r = 0; r < 8; ++r)
    for (int c = 0; c < 20; ++c) EXPECT_EQ(out[r * 20 + c], c < 16 ? r * 32 + c : -5);
}

TEST_F(Runtime, HostFunctionsRunInOrder) {
  struct State {
    const int* data;
    int seen;
  };
  Pinned back;
  const DeviceBuffer<int> device(counted(40));
  State state{back.data, 0};
  ASSERT_EQ(cudaMemcpyAsync(back.data, device.data(), kBytes, cudaMemcpyDeviceToHost, streams_[0]),
            cudaSuccess);
  const auto look = [](void* p) {
    auto* own = static_cast<State*>(p);
    own->seen = own->data[1];
  };
  ASSERT_EQ(cudaLaunchHostFunc(streams_[0], look, &state), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(streams_[0]), cudaSuccess);
  EXPECT_EQ(state.seen, 41);
}

TEST_F(Runtime, TimesAreMeasuredBetweenEvents) {
  cudaEvent_t start = nullptr, end = nullptr;
  ASSERT_EQ(cudaEventCreate(&start), cudaSuccess);
  ASSERT_EQ(cudaEventCreate(&end), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(start, streams_[0]), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(end, streams_[0]), cudaSuccess);
  ASSERT_EQ(cudaEventSynchronize(end), cudaSuccess);
  float ms = -1;
  ASSERT_EQ(cudaEventElapsedTime(&ms, start, end), cudaSuccess);
  EXPECT_GE(ms, 0.0f);
  ASSERT_EQ(cudaEventDestroy(start), cudaSuccess);
  ASSERT_EQ(cudaEventDestroy(end), cudaSuccess);
}

TEST_F(Runtime, DevicesDescribeThemselves) {
  int count = 0, device = -1, value = 0;
  ASSERT_EQ(cudaGetDeviceCount(&count), cudaSuccess);
  ASSERT_GE(count, 1);
  ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
  ASSERT_EQ(cudaGetDevice(&device), cudaSuccess);
  EXPECT_EQ(device, 0);
  cudaDeviceProp properties;
  ASSERT_EQ(cudaGetDeviceProperties(&properties, 0), cudaSuccess);
  EXPECT_GE(properties.major, 8);
  EXPECT_EQ(properties.warpSize, 32);
  EXPECT_NE(std::strlen(properties.name), 0u);
  ASSERT_EQ(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, 0), cudaSuccess);
  EXPECT_EQ(value, properties.multiProcessorCount);
  std::size_t free = 0, total = 0;
  ASSERT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
  EXPECT_LE(free, total);
  EXPECT_GT(free, 0u);
}

TEST_F(Runtime, AnUrgentStreamGoesFirst) {
  const Stream normal, urgent(Stream::Kind::urgent);
  int least = 0, greatest = 0, found = 0;
  ASSERT_EQ(cudaDeviceGetStreamPriorityRange(&least, &greatest), cudaSuccess);
  EXPECT_LT(greatest, least);
  ASSERT_EQ(cudaStreamGetPriority(normal.get(), &found), cudaSuccess);
  EXPECT_EQ(found, least);
  ASSERT_EQ(cudaStreamGetPriority(urgent.get(), &found), cudaSuccess);
  EXPECT_EQ(found, greatest);
}

TEST_F(Runtime, PointersTellWhereTheyLead) {
  const Pinned pinned;
  const DeviceBuffer<int> device(4);
  int local = 0;
  cudaPointerAttributes attributes;
  ASSERT_EQ(cudaPointerGetAttributes(&attributes, device.data() + 1), cudaSuccess);
  EXPECT_EQ(attributes.type, cudaMemoryTypeDevice);
  ASSERT_EQ(cudaPointerGetAttributes(&attributes, pinned.data), cudaSuccess);
  EXPECT_EQ(attributes.type, cudaMemoryTypeHost);
  ASSERT_EQ(cudaPointerGetAttributes(&attributes, &local), cudaSuccess);
  EXPECT_EQ(attributes.type, cudaMemoryTypeUnregistered);
}

TEST_F(Runtime, TheDefaultStreamKeepsStepWithBlockingStreamsOnly) {
  cudaStream_t blocking = nullptr;
  ASSERT_EQ(cudaStreamCreate(&blocking), cudaSuccess);
  Pinned host;
  host.set(9);
  const DeviceBuffer<int> device(kCount), copy(kCount);
  ASSERT_EQ(cudaMemcpyAsync(device.data(), host.data, kBytes, cudaMemcpyHostToDevice, blocking),
            cudaSuccess);
  ASSERT_EQ(cudaMemcpy(copy.data(), device.data(), kBytes, cudaMemcpyDeviceToDevice), cudaSuccess);
  EXPECT_EQ(copy.host(), counted(9));
  ASSERT_EQ(cudaStreamDestroy(blocking), cudaSuccess);
}

}  // namespace
}  // namespace demist::cuda::test
