// What a person means who names a run folder, a stage or a file in it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "orchestrator/config.hpp"
#include "worker/checkpoint/catalog.hpp"
#include "worker/checkpoint/retention.hpp"

namespace demist {

// Whether a recipe has been run in this folder.
bool is_run_folder(const std::filesystem::path& path);

// Writes the resolved recipe into the run folder, which is a run's from then on, with the hashes of
// the recipe that it was made from: paths count in them as their author wrote them. REQUIRES:
// nobody else works there.
void write_record(const RunConfig& run);
// SHA-256 of what write_record() writes.
std::string record_hash(const RunConfig& run);
// Whether write_record() would have written it. Throws UnreadError.
bool is_record(const std::filesystem::path& recipe);
// Whether the record tells of its recipe's hashes: not one that was edited, nor those of earlier
// versions. Throws UnreadError, ConfigError.
bool has_whole_record(const std::filesystem::path& run_dir);
// The run that was started last in this folder, whatever has become of the file that it was started
// from. Throws UnreadError where no record can be read, for one was written, and ConfigError when
// its hash is not `expected` (empty: any), or has_whole_record() is false.
RunConfig load_record(const std::filesystem::path& run_dir, RanksOf ranks = RanksOf::recipe,
                      const std::string& expected = "");

// The checkpoint, or the folder of checkpoints, that `given` stands for: itself, a file in it, the
// stage around it, or the run whose last training stage made it. Throws ConfigError saying what
// could be named instead.
std::filesystem::path find_model(const std::filesystem::path& given);

// The folders of checkpoints that `given` stands for: itself, a stage's, or those of every stage of
// a run that has any. Throws ConfigError as find_model does.
std::vector<std::filesystem::path> checkpoint_folders(const std::filesystem::path& given);
// The checkpoints in all of those, or `given` alone when it is one.
std::vector<checkpoint::Entry> checkpoints_in(const std::filesystem::path& given);
// What the recipe of the run around a folder of checkpoints keeps; empty: there is no run around.
std::optional<checkpoint::Retention> retention_of(const std::filesystem::path& folder);

// The stages of a run as a table.
std::string describe_run(const std::filesystem::path& folder);

}  // namespace demist
