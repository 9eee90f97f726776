// What bad steps leave in events.jsonl.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

#include "orchestrator/coordinator.hpp"

namespace demist {

// `step_skipped` and `step_recomputed`; nothing for a step like others.
void append_step_events(const std::filesystem::path& run_dir, const std::string& stage,
                        const StepReport& report);
void append_rollback(const std::filesystem::path& run_dir, const std::string& stage,
                     const Rollback& rollback);

}  // namespace demist
