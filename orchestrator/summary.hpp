// What a run came to: summary.json, and the table and samples that a person reads.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "orchestrator/config.hpp"
#include "orchestrator/stage_state.hpp"

namespace demist {

struct RunSummary {
  std::string name, recipe_hash;
  std::vector<std::pair<std::string, StageState>> stages;  // in order
};
RunSummary summarize(const RunConfig& run);  // REQUIRES: every stage is done

// {metric, score, score_baseline, held_out: {stage: {before, after}}, seconds: {stage: s}, ...};
// metric, score and score_baseline are those of the last SCORE stage.
std::string to_json(const RunSummary& summary);
std::string format_table(const RunSummary& summary);

// The first `count` lines of a samples.jsonl as text. Throws DataError naming the file.
std::string format_samples(const fs::path& samples_jsonl, int count);

}  // namespace demist
