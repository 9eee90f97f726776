// NCCL's call forms against plain expectations. Nothing here knows the emulation.
// SPDX-License-Identifier: Apache-2.0
#include <cuda_bf16.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "tests/mpi/nccl_fixture.hpp"

// New in NCCL 2.28; null where this machine has an older one.
extern "C" [[gnu::weak]] ncclResult_t ncclAlltoAll(const void* from, void* to, std::size_t count,
                                                   ncclDataType_t type, ncclComm_t comm,
                                                   cudaStream_t stream);

namespace demist::test {
namespace {

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

  // To the last rank; the others need no place for it.
  template <class T>
  void reduce(ncclDataType_t type, ncclRedOp_t operation, bool in_place) const {
    const std::size_t count = 37;
    const int root = size - 1;
    const DeviceBuffer<T> from(values_of<T>(rank, count)), to(count);
    T* target = rank != root ? nullptr : in_place ? from.data() : to.data();
    ASSERT_EQ(ncclReduce(from.data(), target, count, type, operation, root, comm, stream),
              ncclSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    std::vector<T> want = values_of<T>(rank, count);
    for (std::size_t i = 0; rank == root && i < count; ++i)
      want[i] = reduced<T>(i, count, size, operation);
    expect_equal((rank != root || in_place ? from : to).host(), want);
  }

  template <class T>
  void both(ncclDataType_t type) const {
    for (const ncclRedOp_t operation : {ncclSum, ncclMax})
      for (const bool in_place : {false, true}) {
        all_reduce<T>(type, operation, in_place);
        reduce<T>(type, operation, in_place);
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

// Past the ends of the range, differently at each place.
std::int64_t large(int rank, std::int64_t i) {
  return (std::int64_t{1} << 62) + 12345 * (i + 1) + rank;
}
struct Large {
  std::vector<std::int64_t> terms, sums;
  Large(int rank, int size, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) {
      std::uint64_t sum = 0;
      for (int r = 0; r < size; ++r) sum += static_cast<std::uint64_t>(large(r, i));
      sums.push_back(static_cast<std::int64_t>(sum));
      terms.push_back(large(rank, i));
    }
  }
};

TEST_F(Nccl, Int64SumsAreExactAndWrap) {
  const Large all(rank(), size(), 3 * size());
  const DeviceBuffer<std::int64_t> everywhere(all.terms), from(all.terms), part(3);
  ASSERT_EQ(ncclAllReduce(everywhere.data(), everywhere.data(), all.terms.size(), ncclInt64,
                          ncclSum, comm_, stream_),
            ncclSuccess);
  ASSERT_EQ(ncclReduceScatter(from.data(), part.data(), 3, ncclInt64, ncclSum, comm_, stream_),
            ncclSuccess);
  synchronize();
  EXPECT_EQ(everywhere.host(), all.sums);
  const auto mine = all.sums.begin() + 3 * rank();
  EXPECT_EQ(part.host(), std::vector<std::int64_t>(mine, mine + 3));
}

// Slices of different lengths, each to its owner and side by side, in place at every other rank;
// what does not belong to a rank stays as it is there.
TEST_F(Nccl, Int64SlicesGoToTheirOwnersInAGroup) {
  const std::int64_t ranks = size(), total = ranks * (ranks + 1) / 2;
  const Large all(rank(), size(), total);
  const DeviceBuffer<std::int64_t> in(all.terms), apart(static_cast<std::size_t>(rank()) + 1);
  const bool in_place = rank() % 2 == 0;
  const auto start = [](std::int64_t r) { return r * (r + 1) / 2; };
  std::int64_t* out = in_place ? in.data() + start(rank()) : apart.data();
  ASSERT_EQ(ncclGroupStart(), ncclSuccess);
  for (int r = 0; r < size(); ++r) {
    ASSERT_EQ(ncclReduce(in.data() + start(r), r == rank() ? out : nullptr,
                         static_cast<std::size_t>(r) + 1, ncclInt64, ncclSum, r, comm_, stream_),
              ncclSuccess);
  }
  ASSERT_EQ(ncclGroupEnd(), ncclSuccess);
  synchronize();
  std::vector<std::int64_t> want = all.terms;
  const auto sums = all.sums.begin() + start(rank());
  const std::vector<std::int64_t> mine(sums, sums + rank() + 1);
  if (in_place) std::copy(mine.begin(), mine.end(), want.begin() + start(rank()));
  EXPECT_EQ(in.host(), want);
  if (!in_place) {
    EXPECT_EQ(apart.host(), mine);
  }
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

// Part r of rank q's values is 100 q + 10 r and on.
struct Parts {
  static constexpr std::size_t kPart = 3;
  std::vector<int> sent, received;
  Parts(int rank, int size) {
    for (int r = 0; r < size; ++r)
      for (int i = 0; i < static_cast<int>(kPart); ++i) {
        sent.push_back(rank * 100 + r * 10 + i);
        received.push_back(r * 100 + rank * 10 + i);
      }
  }
};

TEST_F(Nccl, ExchangesParts) {
  if (ncclAlltoAll == nullptr) GTEST_SKIP() << "NCCL before 2.28";
  const Parts parts(rank(), size());
  const DeviceBuffer<int> from(parts.sent), to(parts.sent.size());
  ASSERT_EQ(ncclAlltoAll(from.data(), to.data(), Parts::kPart, ncclInt32, comm_, stream_),
            ncclSuccess);
  synchronize();
  EXPECT_EQ(to.host(), parts.received);
}

// The same by sends and receives, which go on side by side in a group, also to oneself.
TEST_F(Nccl, ExchangesPartsInAGroup) {
  const Parts parts(rank(), size());
  const DeviceBuffer<int> from(parts.sent), to(parts.sent.size());
  ASSERT_EQ(ncclGroupStart(), ncclSuccess);
  for (int peer = 0; peer < size(); ++peer) {
    const std::size_t offset = static_cast<std::size_t>(peer) * Parts::kPart;
    ASSERT_EQ(ncclSend(from.data() + offset, Parts::kPart, ncclInt32, peer, comm_, stream_),
              ncclSuccess);
    ASSERT_EQ(ncclRecv(to.data() + offset, Parts::kPart, ncclInt32, peer, comm_, stream_),
              ncclSuccess);
  }
  ASSERT_EQ(ncclGroupEnd(), ncclSuccess);
  synchronize();
  EXPECT_EQ(to.host(), parts.received);
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

bool accepted(ncclResult_t result) { return result == ncclSuccess || result == ncclInProgress; }

TEST_F(Nccl, NonBlockingCommunicatorsWorkWhenPolled) {
  ncclComm_t comm = make(false), part = nullptr;
  EXPECT_TRUE(accepted(ncclCommSplit(comm, 0, rank(), &part, nullptr)));
  ASSERT_EQ(await(comm), ncclSuccess);
  ASSERT_EQ(await(part), ncclSuccess);
  const DeviceBuffer<int> sum(std::vector<int>{1});
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(
        accepted(ncclAllReduce(sum.data(), sum.data(), 1, ncclInt32, ncclSum, part, stream_)));
    ASSERT_EQ(await(part), ncclSuccess);
  }
  synchronize();
  EXPECT_EQ(sum.host()[0], size() * size() * size());
  EXPECT_TRUE(accepted(ncclCommFinalize(part)));
  ASSERT_EQ(await(part), ncclSuccess);
  EXPECT_TRUE(accepted(ncclCommDestroy(part)));
  EXPECT_TRUE(accepted(ncclCommDestroy(comm)));
}

// A rank that nobody can complete: also on one device, this is an abort of something under way.
TEST_F(Nccl, AbortEndsAStartThatWaitsForAPeer) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  ncclComm_t doomed = nullptr;
  EXPECT_TRUE(accepted(ncclCommInitRankConfig(&doomed, size() + 1, shared_id(), rank(), &config)));
  ASSERT_NE(doomed, nullptr);
  for (int i = 0; i < 20; ++i) {
    ncclResult_t state = ncclSuccess;
    ASSERT_EQ(ncclCommGetAsyncError(doomed, &state), ncclSuccess);
    ASSERT_EQ(state, ncclInProgress);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(ncclCommAbort(doomed), ncclSuccess);
  const DeviceBuffer<int> sum(std::vector<int>{1});
  ASSERT_EQ(ncclAllReduce(sum.data(), sum.data(), 1, ncclInt32, ncclSum, comm_, stream_),
            ncclSuccess);
  synchronize();
  EXPECT_EQ(sum.host()[0], size());
}

// From another thread, as the watchdog does it, while the stream waits for a sum that rank 0 never
// joins.
TEST_F(Nccl, AbortEndsASumThatARankDoesNotJoin) {
  const DeviceBuffer<int> value(std::vector<int>{1});
  ncclComm_t doomed = make(true);
  if (rank() == 0) {
    EXPECT_EQ(ncclCommAbort(doomed), ncclSuccess);
    return;
  }
  ASSERT_EQ(ncclAllReduce(value.data(), value.data(), 1, ncclInt32, ncclSum, doomed, stream_),
            ncclSuccess);
  std::jthread watchdog([doomed] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_EQ(ncclCommAbort(doomed), ncclSuccess);
  });
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
}

}  // namespace
}  // namespace demist::test

int main(int argc, char** argv) { return demist::test::run_mpi_tests(argc, argv); }
