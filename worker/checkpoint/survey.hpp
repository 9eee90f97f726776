// What a folder of checkpoints holds, and which of them are still wanted.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "worker/checkpoint/catalog.hpp"
#include "worker/checkpoint/retention.hpp"

namespace demist::checkpoint {

struct Surveyed {
  Entry entry;
  std::string problem;  // why it does not open; then only `entry` is known
  std::uint64_t bytes = 0;
  std::chrono::system_clock::time_point written;
  std::optional<double> held_out_loss;
  std::string reasons;  // to keep it (reasons_to_keep); empty: superfluous

  // What does not open is neither counted nor removed: the disk may only have been away for a
  // while.
  bool superfluous() const { return problem.empty() && reasons.empty(); }
};

// Newest first. Opens each, which checks manifest and file sizes, not every byte.
std::vector<Surveyed> survey(const fs::path& root, const Retention& keep);

// Removes what `keep` does not want, but never `written`, and leftovers of cut saves.
void prune(const fs::path& root, const fs::path& written, const Retention& keep);

}  // namespace demist::checkpoint
