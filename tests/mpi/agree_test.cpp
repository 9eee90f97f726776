// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "core/mpi.hpp"
#include "tests/support/mpi_main.hpp"

namespace demist {
namespace {

TEST(Agree, SilentWhenAllSucceed) {
  mpi::together(test::world(), "nothing", [] {});
}

TEST(Agree, EveryRankThrowsTheFirstFailure) {
  const mpi::Comm& world = test::world();
  try {
    mpi::together(world, "write shard", [&] {
      if (world.rank() >= world.size() / 2)
        throw DataError("disk full on " + std::to_string(world.rank()));
    });
    FAIL();
  } catch (const Error& error) {
    const std::string first = std::to_string(world.size() / 2);
    EXPECT_EQ(error.code(), ExitCode::data);
    EXPECT_NE(std::string(error.what()).find("disk full on " + first), std::string::npos);
    EXPECT_EQ(dynamic_cast<const AgreedError*>(&error) != nullptr, world.size() > 1);
  }
}

TEST(Agree, NamesNoRankWhenAllFailAlike) {
  try {
    mpi::together(test::world(), "read recipe", [] { throw DataError("no such file"); });
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "no such file");
  }
}

TEST(Comm, BroadcastsGathersAndReduces) {
  const mpi::Comm comm = test::world().duplicate();
  EXPECT_EQ(comm.broadcast(comm.rank() == 0 ? std::string("hello") : std::string(), 0), "hello");
  const auto parts = comm.gather(std::string(static_cast<std::size_t>(comm.rank()), 'x'), 0);
  for (std::size_t r = 0; r < parts.size(); ++r) {
    EXPECT_EQ(parts[r].size(), r);
  }
  EXPECT_EQ(comm.all_reduce_sum(comm.rank() + 1), comm.size() * (comm.size() + 1) / 2);
  const mpi::Comm half = comm.split(comm.rank() % 2, comm.rank());
  EXPECT_EQ(half.rank(), comm.rank() / 2);
}

TEST(Comm, ErrorsBecomeExceptions) {
  EXPECT_THROW(test::world().send("x", test::world().size() + 5, 0), EnvironmentError);
}

}  // namespace
}  // namespace demist

int main(int argc, char** argv) { return demist::test::run_mpi_tests(argc, argv); }
