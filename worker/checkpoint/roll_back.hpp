// Back to an earlier checkpoint of a stage.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "worker/checkpoint/checkpoint.hpp"

namespace demist::checkpoint {

// Collective. Removes the checkpoints below `root` that are newer than `step` finished steps, so
// that a crash cannot bring them back, and opens that step's on every rank. Where it is not there,
// the newest older one becomes the newest, and AgreedError is thrown (environment): another attempt
// goes on from that one. Without any, CheckpointError, and nothing is removed.
Checkpoint roll_back(const mpi::Comm& comm, const fs::path& root, std::int64_t step);

}  // namespace demist::checkpoint
