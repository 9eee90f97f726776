// One stage of a recipe, of any kind, on the ranks of this job.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "core/mpi.hpp"
#include "orchestrator/config.hpp"
#include "orchestrator/progress.hpp"

namespace demist {

// Collective. Does nothing when the stage is done already. Returns ExitCode::done, or
// ExitCode::requeue when a signal asked it to save and stop.
ExitCode run_stage(const mpi::Comm& world, const RunConfig& run, const StageConfig& stage,
                   ProgressStyle progress);

// Writes a rank's exit record.
void leave_reason(const fs::path& run_dir, const std::string& stage, int rank,
                  const mpi::Outcome& failure);

std::string stage_names(const RunConfig& run);  // "tokenizer, corpus, pretrain"

}  // namespace demist
