// Wrong use of NCCL must be found and named. For the emulated device only: the real library waits
// for ever, or mixes up what it sums.
// SPDX-License-Identifier: Apache-2.0
#include <string>
#include <vector>

#include "tests/emulation/emulator.hpp"
#include "tests/emulation/streams.hpp"
#include "tests/mpi/nccl_fixture.hpp"

namespace demist::test {
namespace {

// A fault leaves messages behind, so these tests throw their communicator away.
class NcclDefects : public Nccl {
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

TEST_F(NcclDefects, DifferentCountsAreNamed) {
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

TEST_F(NcclDefects, DifferentCallsAreNamed) {
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

TEST_F(NcclDefects, AMissingRankIsNamedAfterAWhile) {
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

TEST_F(NcclDefects, WrongArgumentsAreRefused) {
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
  EXPECT_EQ(ncclReduce(values.data(), values.data(), 4, ncclInt32, ncclSum, size(), comm_, stream_),
            ncclInvalidArgument);
  EXPECT_EQ(ncclGroupEnd(), ncclInvalidUsage);
  ncclComm_t comm = nullptr;
  EXPECT_EQ(ncclCommInitRank(&comm, 2, {}, 2), ncclInvalidArgument);
}

TEST_F(NcclDefects, RanksMustAgreeOnTheSize) {
  if (size() == 1) GTEST_SKIP() << "needs two ranks";
  ncclComm_t comm = nullptr;
  emu::options().patience_s = 0.3;
  const int claimed = rank() == 0 ? size() : size() + 1;
  EXPECT_NE(ncclCommInitRank(&comm, claimed, shared_id(), rank()), ncclSuccess);
}

TEST_F(NcclDefects, AnUnpolledCommunicatorIsRefused) {
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
  EXPECT_EQ(ncclCommFinalize(comm), ncclInProgress);
  EXPECT_EQ(ncclCommDestroy(comm), ncclInvalidUsage);
  EXPECT_EQ(await(comm), ncclSuccess);
  EXPECT_EQ(ncclCommDestroy(comm), ncclSuccess);
  emu::options().seed = 0;
}

}  // namespace
}  // namespace demist::test

int main(int argc, char** argv) { return demist::test::run_mpi_tests(argc, argv); }
