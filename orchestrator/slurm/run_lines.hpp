// What the lines of a run's two journals tell. Pure; a damaged line is passed over.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "orchestrator/slurm/run_state.hpp"

namespace demist::slurm {

// The newest of each kind among the lines of events.jsonl.
RunEvents events_in(std::string_view lines);
// Rate and last step of `stage` from the last lines of metrics.jsonl.
void add_metrics(std::string_view lines, const std::string& stage, RunProgress& progress);

}  // namespace demist::slurm
