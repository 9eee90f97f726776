// What a person means who names a run folder, a stage or a file in it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

namespace demist {

// Whether `demist run` made this folder.
bool is_run_folder(const std::filesystem::path& path);

// The checkpoint, or the folder of checkpoints, that `given` stands for: itself, a file in it, the
// stage around it, or the run whose last training stage made it. Throws ConfigError saying what
// could be named instead.
std::filesystem::path find_model(const std::filesystem::path& given);

// The stages of a run as a table.
std::string describe_run(const std::filesystem::path& folder);

}  // namespace demist
