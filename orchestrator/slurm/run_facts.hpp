// The facts about a run: read from its folder, this host and Slurm.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "orchestrator/config.hpp"
#include "orchestrator/slurm/run_state.hpp"

namespace demist::slurm {

// The newest of each kind among the lines of events.jsonl; a damaged line is passed over.
RunEvents events_in(const std::string& lines);
// Rate and last step of `stage` from the last lines of metrics.jsonl.
void add_metrics(const std::string& lines, const std::string& stage, RunProgress& progress);
// The last `bytes` of a file, whole lines only; "" when there is none.
std::string tail_of(const std::filesystem::path& file, std::size_t bytes);

// The job that matters now: the first that runs, else the first that waits, else the last.
std::optional<Job> current_job(const std::vector<Job>& jobs, const QueueAnswer& answer);

struct Inspection {
  RunConfig run;
  RunFacts facts;
  std::vector<Job> jobs;
  QueueAnswer queue;
};
// `run_dir` is a run folder. Asks Slurm only about jobs of this run.
Inspection inspect_run(const std::filesystem::path& run_dir);

// Whether that process of this host runs our program, and not another one that got its number.
bool is_demist(int process);

// The run folder a user means: a folder, or the name of one in runs/. Throws ConfigError.
std::filesystem::path find_run(const std::string& name);

}  // namespace demist::slurm
