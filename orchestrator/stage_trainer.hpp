// A training stage's trainer: its settings, and the state that its first step starts from.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/mpi.hpp"
#include "orchestrator/config.hpp"
#include "orchestrator/stage_data.hpp"
#include "worker/trainer.hpp"

namespace demist {

TrainerConfig trainer_config(const RunConfig& run, const StageConfig& stage, const StageData& data);

// Collective. The result of the stage's start_from stage, or a new model.
void load_beginning(const mpi::Comm& world, const RunConfig& run, const StageConfig& stage,
                    Trainer& trainer);

}  // namespace demist
