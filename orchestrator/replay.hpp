// Steps of a training stage done again beside the run, and held against what the run wrote.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/mpi.hpp"
#include "orchestrator/config.hpp"

namespace demist {

// Collective. Does step `step` (from 0) of the stage again, from the newest good checkpoint of at
// most `step` finished steps, and prints for each step on the way whether it came out as
// metrics.jsonl says, bit for bit; and for the state after the last, when its checkpoint is there.
// Nothing in the run folder is written. Throws NumericError when anything differs, ConfigError and
// CheckpointError when the step cannot be replayed.
void replay_step(const mpi::Comm& world, const RunConfig& run, const StageConfig& stage,
                 std::int64_t step);

}  // namespace demist
