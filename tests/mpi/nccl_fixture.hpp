// A communicator of all ranks and a stream, for tests of NCCL.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <nccl.h>

#include <span>
#include <thread>

#include "tests/emulation/device_buffer.hpp"
#include "tests/support/mpi_main.hpp"

namespace demist::test {

using cuda::test::DeviceBuffer;

inline ncclResult_t await(ncclComm_t comm) {
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
  int rank() const { return world().rank(); }
  int size() const { return world().size(); }

  cudaStream_t stream_ = nullptr;
  ncclComm_t comm_ = nullptr;
};

}  // namespace demist::test
