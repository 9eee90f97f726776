// Starts of NCCL to which some rank does not come, or in which it fails: all others end within the
// limit, and name it.
// SPDX-License-Identifier: Apache-2.0
#include "worker/parallel/nccl_start.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "tests/emulation/nccl_faults.hpp"
#include "tests/support/mpi_main.hpp"
#include "worker/parallel/nccl_communicator.hpp"

namespace demist {
namespace {

constexpr NcclLimits kShort{.start = std::chrono::seconds(2)};

class NcclStart : public testing::Test {
 protected:
  void SetUp() override {
    if (test::world().size() == 1) GTEST_SKIP() << "needs two ranks";
  }
  void TearDown() override {
    emu::nccl_faults().stall_start = false;
    emu::nccl_faults().refuse_start = ncclSuccess;
    EXPECT_EQ(emu::living_communicators(), 0u);
    // What was sent to a rank that did not come.
    test::world().barrier();
    for (const int tag : {kGiftTag, kHereTag, kSaidTag, kVerdictTag})
      while (comm_.has_message(mpi::Comm::any_source, tag))
        comm_.receive(mpi::Comm::any_source, tag);
  }
  // What this rank's start comes to.
  mpi::Outcome start() {
    cuda::CudaBackend backend;
    return mpi::attempt([&] { make_nccl_communicator(comm_, backend, kShort); });
  }
  int last() const { return comm_.size() - 1; }

  const mpi::Comm comm_ = test::world().duplicate();
};

TEST_F(NcclStart, NamesTheRankThatDoesNotCome) {
  if (comm_.rank() == last()) return;
  const mpi::Outcome outcome = start();
  EXPECT_EQ(outcome.code, ExitCode::environment);
  EXPECT_TRUE(outcome.agreed);
  EXPECT_NE(outcome.message.find("rank " + std::to_string(last()) + " did not come within 2 s"),
            std::string::npos)
      << outcome.message;
}

TEST_F(NcclStart, NamesTheFirstRankIfItDoesNotCome) {
  if (comm_.rank() == 0) return;
  const mpi::Outcome outcome = start();
  EXPECT_EQ(outcome.code, ExitCode::environment);
  EXPECT_NE(outcome.message.find("rank 0 did not come"), std::string::npos) << outcome.message;
}

TEST_F(NcclStart, NamesTheRankThatDoesNotGetThrough) {
  emu::nccl_faults().stall_start = comm_.rank() == last();
  const mpi::Outcome outcome = start();
  EXPECT_EQ(outcome.code, ExitCode::environment);
  EXPECT_NE(outcome.message.find("rank " + std::to_string(last()) + " did not get through"),
            std::string::npos)
      << outcome.message;
}

// Nobody waits for the limit then.
TEST_F(NcclStart, NamesTheRankThatIsRefused) {
  if (comm_.rank() == last()) emu::nccl_faults().refuse_start = ncclSystemError;
  cuda::CudaBackend backend;
  const mpi::Outcome outcome = mpi::attempt(
      [&] { make_nccl_communicator(comm_, backend, {.start = std::chrono::hours(1)}); });
  EXPECT_EQ(outcome.code, ExitCode::environment);
  EXPECT_NE(outcome.message.find("rank " + std::to_string(last()) + ": unhandled system error"),
            std::string::npos)
      << outcome.message;
}

// The names are those of the job, not of the group.
TEST_F(NcclStart, NamesRanksAsTheJobDoes) {
  const int size = comm_.size();
  const mpi::Comm group = comm_.split(comm_.rank() < size / 2 ? 0 : 1, -comm_.rank());
  for (int r = 0; r < group.size(); ++r)
    EXPECT_EQ(group.rank_in_job(r), (comm_.rank() < size / 2 ? size / 2 : size) - 1 - r);
}

// An error that NCCL reports after a start that went well.
TEST_F(NcclStart, ALaterErrorIsThrown) {
  cuda::CudaBackend backend;
  const auto comm = make_nccl_communicator(comm_, backend);
  Buffer<float> values(8, backend.memory());
  comm->all_reduce_sum(values.span());
  comm->barrier();
  emu::nccl_faults().broken = ncclRemoteError;
  const mpi::Outcome outcome = mpi::attempt([&] { comm->all_reduce_sum(values.span()); });
  EXPECT_EQ(outcome.code, ExitCode::suspect);
  EXPECT_NE(outcome.message.find("remote process exited"), std::string::npos) << outcome.message;
  emu::nccl_faults().broken = ncclSuccess;
  comm->abort();
}

}  // namespace
}  // namespace demist

int main(int argc, char** argv) { return demist::test::run_mpi_tests(argc, argv); }
