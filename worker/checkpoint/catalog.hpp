// The folder that holds a run's checkpoints: names, order, and what a save does to it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/error.hpp"

namespace demist::checkpoint {

namespace fs = std::filesystem;

std::string directory_name(std::int64_t step);  // step-00000120

struct Entry {
  std::int64_t step = 0;
  bool replaced = false;  // step-XXXXXXXX.old: a save of the same step was cut between two renames
  fs::path path;
};
// Directories that may be checkpoints, newest first; temporary ones are left out.
std::vector<Entry> list_entries(const fs::path& root);

// Puts the finished directory `temporary` in the place of `final_path`, which may exist.
void publish(const fs::path& temporary, const fs::path& final_path);
// Removes all but the newest `keep_last` (0: keeps all) and `written`, and leftovers of cut saves.
void prune(const fs::path& root, const fs::path& written, int keep_last);

// Runs body; what readers and std::filesystem throw becomes a CheckpointError.
template <class Body>
auto as_checkpoint_error(Body&& body) {
  try {
    return body();
  } catch (const DataError& error) {
    throw CheckpointError(error.what());
  } catch (const fs::filesystem_error& error) {
    throw CheckpointError(error.path1().string() + ": " + error.code().message());
  }
}

}  // namespace demist::checkpoint
