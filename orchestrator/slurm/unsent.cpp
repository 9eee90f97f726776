// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/slurm/unsent.hpp"

#include <algorithm>
#include <set>

#include "core/error.hpp"
#include "orchestrator/nearest.hpp"
#include "orchestrator/stage_state.hpp"

namespace demist::slurm {

std::string Unsent::text() const {
  if (!stages.empty()) return (stages.size() == 1 ? "stage " : "stages ") + join(stages, ", ");
  if (jobs == 0) return "";
  return std::to_string(jobs) + (jobs == 1 ? " job" : " jobs");
}

std::optional<Submission> submission_in(const fs::path& run_dir) {
  try {
    return read_launch(run_dir).submission;
  } catch (const Error&) {  // `demist resume` says what is wrong with it
    return std::nullopt;
  }
}

Unsent unsent_of(const RunConfig& run, const std::vector<Job>& jobs) {
  Unsent unsent;
  const auto asked = submission_in(run.run_dir);
  if (!asked || asked->since == 0) return unsent;
  int sent = 0;
  std::set<std::string> stages;
  for (const Job& job : jobs) {
    if (job.submitted < asked->since) continue;
    ++sent;
    stages.insert(job.stage);
  }
  std::vector<std::string> left;
  for (const StageConfig& stage : run.stages)
    if (!read_done(stage)) left.push_back(stage.name);
  if (left.empty()) return unsent;
  if (!asked->stage_jobs) {
    unsent.jobs = std::max(0, asked->chain - sent);
    return unsent;
  }
  std::erase_if(left, [&](const std::string& stage) { return stages.contains(stage); });
  unsent.jobs = static_cast<int>(left.size());
  unsent.stages = std::move(left);
  return unsent;
}

}  // namespace demist::slurm
