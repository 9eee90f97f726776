// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <filesystem>

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
  EXPECT_NE(outcome.message.find("/dev/null/below"), std::string::npos) << outcome.message;
}

}  // namespace
}  // namespace demist
