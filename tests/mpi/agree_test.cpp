// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "core/machine.hpp"
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

// The last rank's machine cannot read what the others can.
void fail_on_the_last(void (*fail)()) {
  const mpi::Comm& world = test::world();
  mpi::together_alike(world, "open corpus", [&] {
    if (world.rank() == world.size() - 1) fail();
  });
}

TEST(Agree, WhatOneMachineCannotReadIsItsTrouble) {
  if (test::world().size() == 1) GTEST_SKIP() << "needs two ranks";
  for (const auto fail :
       {+[] { throw DataError("no such file"); }, +[] { throw CheckpointError("damaged"); },
        +[] { throw UnreadError("stale mount"); }}) {
    const mpi::Outcome outcome = mpi::attempt([&] { fail_on_the_last(fail); });
    EXPECT_EQ(outcome.code, ExitCode::environment) << outcome.message;
    EXPECT_TRUE(outcome.agreed);
    EXPECT_EQ(outcome.machine, node_name());  // on every rank
  }
  const mpi::Outcome recipe =
      mpi::attempt([] { fail_on_the_last([] { throw ConfigError("a typing error"); }); });
  EXPECT_EQ(recipe.code, ExitCode::usage);
  EXPECT_EQ(recipe.machine, "");
}

TEST(Agree, WhatNoMachineCanReadIsNoMachinesTrouble) {
  const auto on_all = [](void (*fail)()) {
    return mpi::attempt([&] { mpi::together_alike(test::world(), "open corpus", fail); });
  };
  EXPECT_EQ(on_all([] { throw DataError("no such file"); }).code, ExitCode::data);
  EXPECT_EQ(on_all([] { throw CheckpointError("damaged"); }).code, ExitCode::checkpoint);
  const mpi::Outcome stale = on_all([] { throw UnreadError("the server is away"); });
  EXPECT_EQ(stale.code, ExitCode::environment);
  EXPECT_EQ(stale.machine.empty(), test::world().size() > 1);
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
