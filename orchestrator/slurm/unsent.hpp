// What of a submission never came into the queue, because sbatch refused it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "orchestrator/config.hpp"
#include "orchestrator/launch.hpp"
#include "orchestrator/slurm/queue.hpp"

namespace demist::slurm {

struct Unsent {
  int jobs = 0;
  std::vector<std::string> stages;  // with a job a stage: whose
  std::string text() const;         // "stages adapt, score", "2 jobs", ""
};
// How the jobs of a run were asked for; nothing where that is not recorded.
std::optional<Submission> submission_in(const std::filesystem::path& run_dir);
// `jobs`: all of the run's folder.
Unsent unsent_of(const RunConfig& run, const std::vector<Job>& jobs);

}  // namespace demist::slurm
