// NCCL's call forms against plain expectations, on the emulated device. The tests before the faults
// know nothing of the emulation.
// SPDX-License-Identifier: Apache-2.0
#include <cuda_bf16.h>
#include <gtest/gtest.h>
#include <nccl.h>

#include <cstdint>
#include <cstring>
#include <numeric>
#include <thread>
#include <vector>

#include "tests/emulation/device_buffer.hpp"
#include "tests/emulation/emulator.hpp"
#include "tests/emulation/streams.hpp"
#include "tests/support/mpi_main.hpp"

namespace demist {
namespace {

using cuda::test::DeviceBuffer;
using test::world;

ncclResult_t await(ncclComm_t comm) {
  ncclResult_t state = ncclInProgress;
  while (state == ncclInProgress) {
    EXPECT_EQ(ncclCommGetAsyncError(comm, &state), ncclSuccess);
    std::this_thread::yield();
  }
  return state;
}

class Nccl : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess);
    comm_ = make(true);
  }
  void TearDown() override {
    EXPECT_EQ(comm_ == nullptr ? ncclSuccess : ncclCommDestroy(comm_), ncclSuccess);
    EXPECT_EQ(cudaStreamDestroy(stream_), cudaSuccess);
  }
  static ncclUniqueId shared_id() {
    ncclUniqueId id{};
    EXPECT_EQ(ncclGetUniqueId(&id), ncclSuccess);  // rank 0's counts
    world().broadcast(std::as_writable_bytes(std::span(id.internal)), 0);
    return id;
  }
  static ncclComm_t make(bool blocking) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = blocking ? 1 : 0;
    ncclComm_t comm = nullptr;
    const ncclResult_t result =
        ncclCommInitRankConfig(&comm, world().size(), shared_id(), world().rank(), &config);
    EXPECT_TRUE(result == ncclSuccess || (!blocking && result == ncclInProgress));
    EXPECT_EQ(await(comm), ncclSuccess);
    return comm;
  }
  void synchronize() { ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess); }
  // A collective that nobody else may overtake or fall behind.
  int rank() const { return world().rank(); }
  int size() const { return world().size(); }

  cudaStream_t stream_ = nullptr;
  ncclComm_t comm_ = nullptr;
};

template <class T>
T number(double value) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    return __float2bfloat16(static_cast<float>(value));
  else
    return static_cast<T>(value);
}

// Small integers: exact in every type and every order.
template <class T>
std::vector<T> values_of(int rank, std::size_t count) {
  std::vector<T> values;
  for (std::size_t i = 0; i < count; ++i)
    values.push_back(
        number<T>(static_cast<double>((i * 7 + static_cast<std::size_t>(rank) * 5) % 23) - 11));
  return values;
}

template <class T>
T reduced(std::size_t i, std::size_t count, int size, ncclRedOp_t operation) {
  double sum = 0, largest = -1e9;
  for (int rank = 0; rank < size; ++rank) {
    const auto value = static_cast<double>(static_cast<float>(values_of<T>(rank, count)[i]));
    sum += value;
    largest = std::max(largest, value);
  }
  return number<T>(operation == ncclSum ? sum : largest);
}

template <class T>
void expect_equal(const std::vector<T>& got, const std::vector<T>& want) {
  ASSERT_EQ(got.size(), want.size());
  EXPECT_EQ(std::memcmp(got.data(), want.data(), got.size() * sizeof(T)), 0);
}

struct Typed {
  ncclComm_t comm;
  cudaStream_t stream;
  int rank, size;

  template <class T>
  void all_reduce(ncclDataType_t type, ncclRedOp_t operation, bool in_place) const {
    const std::size_t count = 37;
    const DeviceBuffer<T> from(values_of<T>(rank, count)), to(count);
    T* target = in_place ? from.data() : to.data();
    ASSERT_EQ(ncclAllReduce(from.data(), target, count, type, operation, comm, stream),
              ncclSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    std::vector<T> want;
    for (std::size_t i = 0; i < count; ++i) want.push_back(reduced<T>(i, count, size, operation));
    expect_equal((in_place ? from : to).host(), want);
  }

  template <class T>
  void reduce_scatter(ncclDataType_t type, ncclRedOp_t operation, bool in_place) const {
    const std::size_t part = 11, all = part * static_cast<std::size_t>(size);
    const DeviceBuffer<T> from(values_of<T>(rank, all)), to(part);
    T* target = in_place ? from.data() + static_cast<std::size_t>(rank) * part : to.data();
    ASSERT_EQ(ncclReduceScatter(from.data(), target, part, type, operation, comm, stream),
              ncclSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    std::vector<T> got = (in_place ? from : to).host(), want;
    if (in_place) got = {got.begin() + rank * 11, got.begin() + (rank + 1) * 11};
    for (std::size_t i = 0; i < part; ++i)
      want.push_back(reduced<T>(static_cast<std::size_t>(rank) * part + i, all, size, operation));
    expect_equal(got, want);
  }

  template <class T>
  void both(ncclDataType_t type) const {
    for (const ncclRedOp_t operation : {ncclSum, ncclMax})
      for (const bool in_place : {false, true}) {
        all_reduce<T>(type, operation, in_place);
        reduce_scatter<T>(type, operation, in_place);
      }
  }
};

TEST_F(Nccl, ReducesEveryType) {
  const Typed typed{comm_, stream_, rank(), size()};
  typed.both<float>(ncclFloat32);
  typed.both<double>(ncclFloat64);
  typed.both<std::int32_t>(ncclInt32);
  typed.both<std::int64_t>(ncclInt64);
  typed.both<__nv_bfloat16>(ncclBfloat16);
}

TEST_F(Nccl, Int64SumsAreExactAndWrap) {
  const std::int64_t big = (std::int64_t{1} << 62) + 12345 + rank();
  const DeviceBuffer<std::int64_t> value(std::vector<std::int64_t>{big});
  ASSERT_EQ(ncclAllReduce(value.data(), value.data(), 1, ncclInt64, ncclSum, comm_, stream_),
            ncclSuccess);
  synchronize();
  std::uint64_t want = 0;
  for (int r = 0; r < size(); ++r)
    want += static_cast<std::uint64_t>((std::int64_t{1} << 62) + 12345 + r);
  EXPECT_EQ(value.host()[0], static_cast<std::int64_t>(want));
}

TEST_F(Nccl, GathersInRankOrder) {
  const std::size_t count = 5;
  std::vector<int> want;
  for (int r = 0; r < size(); ++r)
    for (const int value : values_of<int>(r, count)) want.push_back(value);
  const DeviceBuffer<int> from(values_of<int>(rank(), count)), to(want.size());
  ASSERT_EQ(ncclAllGather(from.data(), to.data(), count, ncclInt32, comm_, stream_), ncclSuccess);
  synchronize();
  EXPECT_EQ(to.host(), want);
  const DeviceBuffer<int> place(want.size());
  int* own = place.data() + static_cast<std::size_t>(rank()) * count;
  ASSERT_EQ(
      cudaMemcpyAsync(own, from.data(), count * sizeof(int), cudaMemcpyDeviceToDevice, stream_),
      cudaSuccess);
  ASSERT_EQ(ncclAllGather(own, place.data(), count, ncclInt32, comm_, stream_), ncclSuccess);
  synchronize();
  EXPECT_EQ(place.host(), want);
}

TEST_F(Nccl, BroadcastsFromEveryRoot) {
  for (int root = 0; root < size(); ++root) {
    const DeviceBuffer<float> from(values_of<float>(rank(), 9)), to(9);
    ASSERT_EQ(ncclBroadcast(from.data(), to.data(), 9, ncclFloat32, root, comm_, stream_),
              ncclSuccess);
    synchronize();
    EXPECT_EQ(to.host(), values_of<float>(root, 9));
  }
}

TEST_F(Nccl, ExchangesParts) {
  const std::size_t part = 3;
  std::vector<int> mine, want;
  for (int r = 0; r < size(); ++r)
    for (int i = 0; i < 3; ++i) {
      mine.push_back(rank() * 100 + r * 10 + i);
      want.push_back(r * 100 + rank() * 10 + i);
    }
  const DeviceBuffer<int> from(mine), to(mine.size()), again(mine.size());
  ASSERT_EQ(ncclAlltoAll(from.data(), to.data(), part, ncclInt32, comm_, stream_), ncclSuccess);
  synchronize();
  EXPECT_EQ(to.host(), want);
  // The same by sends and receives, which go on side by side in a group, also to oneself.
  ASSERT_EQ(ncclGroupStart(), ncclSuccess);
  for (int peer = 0; peer < size(); ++peer) {
    const std::size_t offset = static_cast<std::size_t>(peer) * part;
    ASSERT_EQ(ncclSend(from.data() + offset, part, ncclInt32, peer, comm_, stream_), ncclSuccess);
    ASSERT_EQ(ncclRecv(again.data() + offset, part, ncclInt32, peer, comm_, stream_), ncclSuccess);
  }
  ASSERT_EQ(ncclGroupEnd(), ncclSuccess);
  synchronize();
  EXPECT_EQ(again.host(), want);
}

TEST_F(Nccl, PassesOnAlongTheRanks) {
  const DeviceBuffer<int> value(std::vector<int>{rank() == 0 ? 42 : -1});
  if (rank() > 0) {
    ASSERT_EQ(ncclRecv(value.data(), 1, ncclInt32, rank() - 1, comm_, stream_), ncclSuccess);
  }
  if (rank() + 1 < size()) {
    ASSERT_EQ(ncclSend(value.data(), 1, ncclInt32, rank() + 1, comm_, stream_), ncclSuccess);
  }
  synchronize();
  EXPECT_EQ(value.host()[0], 42);
}

TEST_F(Nccl, WorkOnTwoStreamsKeepsTheOrderOfCalls) {
  cudaStream_t other = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking), cudaSuccess);
  const DeviceBuffer<int> first(std::vector<int>{1}), second(std::vector<int>{10});
  ASSERT_EQ(ncclAllReduce(first.data(), first.data(), 1, ncclInt32, ncclSum, comm_, stream_),
            ncclSuccess);
  ASSERT_EQ(ncclAllReduce(second.data(), second.data(), 1, ncclInt32, ncclSum, comm_, other),
            ncclSuccess);
  // Ranks drain their streams in different orders; nobody waits for ever.
  ASSERT_EQ(cudaStreamSynchronize(rank() % 2 == 0 ? stream_ : other), cudaSuccess);
  EXPECT_EQ(first.host()[0], size());
  EXPECT_EQ(second.host()[0], 10 * size());
  ASSERT_EQ(cudaStreamDestroy(other), cudaSuccess);
}

TEST_F(Nccl, SplitsByColorInOrderOfKeys) {
  ncclComm_t half = nullptr;
  const int color = rank() % 2;
  ASSERT_EQ(ncclCommSplit(comm_, color, -rank(), &half, nullptr), ncclSuccess);
  int count = 0, place = 0;
  ASSERT_EQ(ncclCommCount(half, &count), ncclSuccess);
  ASSERT_EQ(ncclCommUserRank(half, &place), ncclSuccess);
  EXPECT_EQ(count, (size() + 1 - color) / 2);
  EXPECT_EQ(place, count - 1 - rank() / 2);
  const DeviceBuffer<int> sum(std::vector<int>{rank()});
  ASSERT_EQ(ncclAllReduce(sum.data(), sum.data(), 1, ncclInt32, ncclSum, half, stream_),
            ncclSuccess);
  synchronize();
  int want = 0;
  for (int r = color; r < size(); r += 2) want += r;
  EXPECT_EQ(sum.host()[0], want);
  ASSERT_EQ(ncclCommDestroy(half), ncclSuccess);

  ncclComm_t only_first = nullptr;
  ASSERT_EQ(ncclCommSplit(comm_, rank() == 0 ? 0 : NCCL_SPLIT_NOCOLOR, 0, &only_first, nullptr),
            ncclSuccess);
  EXPECT_EQ(only_first != nullptr, rank() == 0);
  if (rank() == 0) {
    ASSERT_EQ(ncclCommDestroy(only_first), ncclSuccess);
  }
}

TEST_F(Nccl, NonBlockingCommunicatorsWorkWhenPolled) {
  ncclComm_t comm = make(false), part = nullptr;
  const ncclResult_t split = ncclCommSplit(comm, 0, rank(), &part, nullptr);
  EXPECT_TRUE(split == ncclSuccess || split == ncclInProgress);
  ASSERT_EQ(await(part), ncclSuccess);
  const DeviceBuffer<int> sum(std::vector<int>{1});
  for (int i = 0; i < 3; ++i) {
    const ncclResult_t result =
        ncclAllReduce(sum.data(), sum.data(), 1, ncclInt32, ncclSum, part, stream_);
    EXPECT_TRUE(result == ncclSuccess || result == ncclInProgress);
    ASSERT_EQ(await(part), ncclSuccess);
  }
  synchronize();
  EXPECT_EQ(sum.host()[0], size() * size() * size());
  ASSERT_EQ(ncclCommFinalize(part), ncclSuccess);
  ASSERT_EQ(await(part), ncclSuccess);
  ASSERT_EQ(ncclCommDestroy(part), ncclSuccess);
  ASSERT_EQ(ncclCommDestroy(comm), ncclSuccess);
}

// ---------------------------------------------------------------- faults that the emulation finds

// A fault leaves messages behind, so these tests throw their communicator away.
class NcclFault : public Nccl {
 protected:
  void SetUp() override {
    Nccl::SetUp();
    patience_ = emu::options().patience_s;
  }
  void TearDown() override {
    emu::options().patience_s = patience_;
    world().barrier();
    EXPECT_EQ(ncclCommAbort(comm_), ncclSuccess);
    comm_ = nullptr;
    Nccl::TearDown();
  }
  double patience_ = 0;
};

TEST_F(NcclFault, DifferentCountsAreNamed) {
  if (size() == 1) GTEST_SKIP() << "needs two ranks";
  const DeviceBuffer<float> values(std::vector<float>(8, 1.0f));
  const std::size_t count = rank() == 0 ? 8 : 7;
  ASSERT_EQ(
      ncclAllReduce(values.data(), values.data(), count, ncclFloat32, ncclSum, comm_, stream_),
      ncclSuccess);
  const cudaError_t error = cudaStreamSynchronize(stream_);
  const std::string text = emu::take_fault();
  if (rank() < 2) {
    EXPECT_EQ(error, cudaErrorLaunchFailure);
    EXPECT_NE(text.find("AllReduce of 8 elements"), std::string::npos) << text;
    EXPECT_NE(text.find("AllReduce of 7 elements"), std::string::npos) << text;
  }
}

TEST_F(NcclFault, DifferentCallsAreNamed) {
  if (size() == 1) GTEST_SKIP() << "needs two ranks";
  const DeviceBuffer<float> values(std::vector<float>(8, 1.0f)), all(8 * world().size());
  if (rank() == 0) {
    ASSERT_EQ(ncclAllReduce(values.data(), values.data(), 8, ncclFloat32, ncclSum, comm_, stream_),
              ncclSuccess);
  } else {
    ASSERT_EQ(ncclAllGather(values.data(), all.data(), 8, ncclFloat32, comm_, stream_),
              ncclSuccess);
  }
  const cudaError_t error = cudaStreamSynchronize(stream_);
  const std::string text = emu::take_fault();
  if (rank() < 2) {
    EXPECT_EQ(error, cudaErrorLaunchFailure);
    EXPECT_NE(text.find("AllReduce"), std::string::npos) << text;
    EXPECT_NE(text.find("AllGather"), std::string::npos) << text;
  }
}

TEST_F(NcclFault, AMissingRankIsNamedAfterAWhile) {
  if (size() == 1) GTEST_SKIP() << "needs two ranks";
  emu::options().patience_s = 0.3;
  const DeviceBuffer<int> value(std::vector<int>{1});
  if (rank() == 0) return;  // never calls
  ASSERT_EQ(ncclAllReduce(value.data(), value.data(), 1, ncclInt32, ncclSum, comm_, stream_),
            ncclSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaErrorLaunchFailure);
  const std::string text = emu::take_fault();
  EXPECT_NE(text.find("waits in AllReduce"), std::string::npos) << text;
  EXPECT_NE(text.find("for rank 0"), std::string::npos) << text;
}

TEST_F(NcclFault, AWatchdogCanAbort) {
  if (size() == 1) GTEST_SKIP() << "needs two ranks";
  const DeviceBuffer<int> value(std::vector<int>{1});
  ncclComm_t doomed = make(true);
  if (rank() != 0) {
    ASSERT_EQ(ncclAllReduce(value.data(), value.data(), 1, ncclInt32, ncclSum, doomed, stream_),
              ncclSuccess);
    std::jthread watchdog([doomed] {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      EXPECT_EQ(ncclCommAbort(doomed), ncclSuccess);
    });
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  } else {
    EXPECT_EQ(ncclCommAbort(doomed), ncclSuccess);
  }
}

TEST_F(NcclFault, WrongArgumentsAreRefused) {
  std::vector<int> host(4);
  const DeviceBuffer<int> values(std::vector<int>{1, 2, 3, 4});
  const auto reduce = [&](const void* from, void* to, std::size_t count, ncclRedOp_t operation) {
    return ncclAllReduce(from, to, count, ncclInt32, operation, comm_, stream_);
  };
  EXPECT_EQ(reduce(host.data(), values.data(), 4, ncclSum), ncclInvalidArgument);
  EXPECT_EQ(reduce(values.data(), values.data(), 5, ncclSum), ncclInvalidArgument);
  EXPECT_EQ(reduce(values.data(), values.data() + 1, 3, ncclSum), ncclInvalidArgument);
  EXPECT_EQ(reduce(values.data(), values.data(), 4, ncclProd), ncclInvalidArgument);
  EXPECT_EQ(ncclBroadcast(values.data(), values.data(), 4, ncclInt32, size(), comm_, stream_),
            ncclInvalidArgument);
  EXPECT_EQ(ncclGroupEnd(), ncclInvalidUsage);
  ncclComm_t comm = nullptr;
  EXPECT_EQ(ncclCommInitRank(&comm, 2, {}, 2), ncclInvalidArgument);
}

TEST_F(NcclFault, RanksMustAgreeOnTheSize) {
  if (size() == 1) GTEST_SKIP() << "needs two ranks";
  ncclComm_t comm = nullptr;
  emu::options().patience_s = 0.3;
  const int claimed = rank() == 0 ? size() : size() + 1;
  EXPECT_NE(ncclCommInitRank(&comm, claimed, shared_id(), rank()), ncclSuccess);
}

TEST_F(NcclFault, AnUnpolledCommunicatorIsRefused) {
  emu::options().seed = 1;
  ncclComm_t comm = make(false);
  const DeviceBuffer<int> value(std::vector<int>{1});
  const auto reduce = [&] {
    return ncclAllReduce(value.data(), value.data(), 1, ncclInt32, ncclSum, comm, stream_);
  };
  EXPECT_EQ(reduce(), ncclInProgress);
  EXPECT_EQ(reduce(), ncclInvalidUsage);
  EXPECT_EQ(await(comm), ncclSuccess);
  synchronize();
  EXPECT_EQ(ncclCommDestroy(comm), ncclSuccess);
  emu::options().seed = 0;
}

}  // namespace
}  // namespace demist

int main(int argc, char** argv) { return demist::test::run_mpi_tests(argc, argv); }
