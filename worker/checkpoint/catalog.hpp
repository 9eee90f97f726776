// The folder that holds a run's checkpoints: names, order, and what a save does to it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
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
// What the name of a directory says; empty when it is no checkpoint's.
std::optional<Entry> entry_at(const fs::path& directory);
// Directories that may be checkpoints, newest first; temporary ones are left out.
std::vector<Entry> list_entries(const fs::path& root);

// Puts the finished directory `temporary` in the place of `final_path`, which may exist.
void publish(const fs::path& temporary, const fs::path& final_path);

// Removes one checkpoint: whenever that is cut short, what is left is no checkpoint.
void remove_entry(const Entry& entry);
// Removes what cut saves and removals have left. REQUIRES: no save is under way in `root`.
void remove_leftovers(const fs::path& root);

// Throws CheckpointError for a wrong path, UnreadError for what this machine cannot read.
[[noreturn]] void refuse_unread(const fs::path& path, const std::error_code& error);

// Runs body; what readers and std::filesystem throw becomes a CheckpointError, unless it is this
// machine that cannot read.
template <class Body>
auto as_checkpoint_error(Body&& body) {
  try {
    return body();
  } catch (const DataError& error) {
    throw CheckpointError(error.what());
  } catch (const fs::filesystem_error& error) {
    refuse_unread(error.path1(), error.code());
  }
}

}  // namespace demist::checkpoint
