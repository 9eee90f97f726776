// Generates answers to a task's prompts and scores them against a trivial baseline.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/mpi.hpp"
#include "orchestrator/config.hpp"
#include "orchestrator/generation.hpp"
#include "orchestrator/progress.hpp"
#include "orchestrator/stage_state.hpp"

namespace demist {

struct TaskOutputs {
  std::vector<std::string> outputs, baselines;  // one per example, on rank 0
};
// Told after each batch with the number of answers that are done.
using AnswerObserver = std::function<void(std::size_t done, std::size_t total)>;
// Collective: ranks share the batches; outputs do not depend on their number. Rank 0 calls
// `observe`, with its own progress for all.
TaskOutputs answer_task(const mpi::Comm& world, Generator& generator, const data::Task& task,
                        const ScoreStage& work, std::uint64_t seed,
                        const AnswerObserver& observe = {});
// Draws the progress line of a stage on standard error.
AnswerObserver show_answers(const std::string& stage, ProgressStyle style);

double metric_score(Metric metric, const std::vector<std::string>& outputs,
                    const std::vector<std::string>& references);

// Collective. Scores the test split; rank 0 writes samples.jsonl into the stage's folder.
Score score_stage(const mpi::Comm& world, const RunConfig& run, const StageConfig& stage,
                  ProgressStyle progress);

}  // namespace demist
