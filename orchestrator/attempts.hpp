// One stage of a run, attempt after attempt, until it is done or there is no use in going on.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "orchestrator/config.hpp"
#include "orchestrator/signal_relay.hpp"
#include "orchestrator/supervisor.hpp"

namespace demist {

// Watches the ranks, and starts them again from the last checkpoint when some died or hung.
// Returns 0, or the exit code that says why the stage is not done; says what came first.
int run_attempts(const RunConfig& run, const SupervisorOptions& options, const StageConfig& stage,
                 SignalRelay& relay);

}  // namespace demist
