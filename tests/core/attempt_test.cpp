// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cerrno>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

#include "core/machine.hpp"
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

TEST(Attempt, KnowsTheMachineThatCannotRead) {
  const auto machine_of = [](const std::exception_ptr& error) {
    return mpi::attempt([&] { std::rethrow_exception(error); }).machine;
  };
  const auto of_system = [](int code) {
    return std::make_exception_ptr(std::filesystem::filesystem_error(
        "status", "/mnt", std::error_code(code, std::generic_category())));
  };
  EXPECT_EQ(machine_of(std::make_exception_ptr(UnreadError("x"))), node_name());
  EXPECT_EQ(mpi::attempt([] { throw UnreadError("x"); }).code, ExitCode::environment);
  for (const int stale : {ESTALE, EIO, ENOTCONN})
    EXPECT_EQ(machine_of(of_system(stale)), node_name());
  for (const int other : {ENOENT, ENOSPC}) EXPECT_EQ(machine_of(of_system(other)), "");
  EXPECT_EQ(machine_of(std::make_exception_ptr(DataError("x"))), "");
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
