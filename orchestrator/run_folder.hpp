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

// Writes the resolved recipe into the run folder, which is a run's from then on. REQUIRES: nobody
// else works there.
void write_record(const RunConfig& run);

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
