// A training stage: masked LM or diffusion, from checkpoint to checkpoint.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/mpi.hpp"
#include "orchestrator/config.hpp"
#include "orchestrator/progress.hpp"
#include "orchestrator/stage_state.hpp"

namespace demist {

// Collective. Goes on from the stage's newest checkpoint, else from its start_from stage, else from
// scratch. Fills the held-out losses of `state`. ExitCode::requeue: a signal stopped it, saved.
ExitCode train_stage(const mpi::Comm& world, const RunConfig& run, const StageConfig& stage,
                     ProgressStyle progress, StageState& state);

}  // namespace demist
