// What a finished stage has left for later ones, and what to do when it is gone.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "core/mpi.hpp"
#include "orchestrator/config.hpp"

namespace demist {

// What is missing of a finished stage's output, looked for by names and sizes: no checksum is read.
std::optional<fs::path> missing_output(const RunConfig& run, const StageConfig& stage);
// Throws CheckpointError or DataError: a finished stage lacks `missing`.
[[noreturn]] void refuse_lost(const StageConfig& stage, const fs::path& missing);

// Collective. The checkpoint that a finished training stage ended with, verified by rank 0. An
// older one would change the results of whoever uses it: throws CheckpointError instead.
fs::path final_checkpoint(const mpi::Comm& world, const StageConfig& stage);

}  // namespace demist
