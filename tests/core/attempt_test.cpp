// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "core/mpi.hpp"

namespace demist {
namespace {

TEST(Attempt, GivesEveryFailureItsCode) {
  EXPECT_EQ(mpi::attempt([] {}).code, ExitCode::done);
  EXPECT_EQ(mpi::attempt([] { throw DataError("x"); }).code, ExitCode::data);
  EXPECT_EQ(mpi::attempt([] { throw std::logic_error("x"); }).code, ExitCode::internal);
}

TEST(Attempt, WhatTheFileSystemRefusesIsNoBugOfOurs) {
  const auto outcome = mpi::attempt([] { std::filesystem::create_directories("/dev/null/below"); });
  EXPECT_EQ(outcome.code, ExitCode::environment);
  EXPECT_EQ(outcome.message,
            "/dev/null/below: Not a directory; check the path and its permissions");
  EXPECT_EQ(mpi::attempt([] { throw std::bad_alloc(); }).code, ExitCode::environment);
}

TEST(Attempt, KnowsWhatEveryRankFailsWith) {
  EXPECT_FALSE(mpi::attempt([] { throw DataError("x"); }).agreed);
  EXPECT_TRUE(mpi::attempt([] { throw AgreedError(ExitCode::data, "x"); }).agreed);
}

TEST(LoneComm, NeedsNoMpiForWhatIsMadeOfIt) {
  const mpi::Comm alone;
  for (const mpi::Comm& made : {alone.duplicate(), alone.split(3, 7), alone.split_node()}) {
    EXPECT_EQ(made.rank(), 0);
    EXPECT_EQ(made.size(), 1);
    EXPECT_EQ(made.gather("mine", 0), std::vector<std::string>{"mine"});
  }
}

}  // namespace
}  // namespace demist
