// What a training stage leaves in events.jsonl where it does not go as it should.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "orchestrator/coordinator.hpp"
#include "worker/attention_choice.hpp"

namespace demist {

// `step_skipped` and `step_recomputed`; nothing for a step like others.
void append_step_events(const std::filesystem::path& run_dir, const std::string& stage,
                        const StepReport& report);
// `corruption_found`. `hosts`: of all ranks. REQUIRES: report.corruption.
void append_corruption(const std::filesystem::path& run_dir, const std::string& stage,
                       const StepReport& report, const std::vector<std::string>& hosts);
// Why a stage ends whose ranks do not agree on a step, and what to do. `check_every`: of the
// recipe.
std::string describe_corruption(const std::string& stage, const StepReport& report,
                                const std::vector<std::string>& hosts, std::int64_t check_every);
// `rebalanced`, with those groups that are slower or faster than most.
void append_rebalance(const std::filesystem::path& run_dir, const std::string& stage,
                      const Rebalance& rebalance);
void append_rollback(const std::filesystem::path& run_dir, const std::string& stage,
                     const Rollback& rollback);

// `attention_fallback`; nothing where nothing was at fault.
void append_attention_fallback(const std::filesystem::path& run_dir, const std::string& stage,
                               const AttentionChoice& choice);

}  // namespace demist
