// A folder with checkpoints of a small state, and what is wrong with them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cstdio>

#include "tests/support/checkpoint_state.hpp"
#include "tests/support/flip_byte.hpp"
#include "tests/support/temporary_folder.hpp"

namespace demist::test {

class CheckpointTest : public testing::Test {
 protected:
  fs::path save_step(std::int64_t step, int keep_last = 0) {
    const auto pieces = pieces_of(state_, Split::rows, 0, 1);
    ck::save(mpi::Comm(), root(), state_.tensors, pieces, make_meta(step), keep_last);
    char name[32];
    std::snprintf(name, sizeof name, "step-%08d", static_cast<int>(step));
    return root() / name;
  }
  fs::path root() const { return folder_.path() / "checkpoints"; }

  TemporaryFolder folder_;
  State state_ = make_state(small_table());
};

inline testing::AssertionResult contains(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "'" << text << "' lacks '" << part << "'";
}

// Opens, verifies and returns what was wrong.
inline std::string failure(const fs::path& directory) {
  try {
    ck::Checkpoint(directory).verify();
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "nothing wrong";
}

}  // namespace demist::test
