// The facts about a run: read from its folder, this host and Slurm.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "orchestrator/config.hpp"
#include "orchestrator/growing_file.hpp"
#include "orchestrator/slurm/run_state.hpp"
#include "orchestrator/slurm/unsent.hpp"

namespace demist::slurm {

// The last `bytes` of a file, whole lines only; "" when there is none.
std::string tail_of(const std::filesystem::path& file, std::size_t bytes);

// The job that matters now: the first that runs, else the first that waits, else the first of which
// nobody knows whether it lives, else the last.
std::optional<Job> current_job(const std::vector<Job>& jobs, const QueueAnswer& answer);

struct Inspection {
  RunConfig run;
  RunFacts facts;
  std::vector<Job> jobs;
  QueueAnswer queue;
  Unsent unsent;
};
// Looks at a run again and again; each event is read once.
class Inspector {
 public:
  explicit Inspector(std::filesystem::path run_dir);  // a run folder
  Inspection look();                                  // asks Slurm only about jobs of this run
  std::set<std::string> jobs_over();                  // ids that Slurm need not be asked about

 private:
  std::string events_of_runs();

  std::filesystem::path run_dir_;
  GrowingFile file_;
  std::string lines_;           // of it, those that matter
  std::set<std::string> gone_;  // jobs that Slurm's controller did not know any more
};
inline Inspection inspect_run(const std::filesystem::path& run_dir) {
  return Inspector(run_dir).look();
}

// Whether that process of this host runs our program, and not another one that got its number.
bool is_demist(int process);

// The run folder a user means: a folder, or the name of one in runs/. Throws ConfigError.
std::filesystem::path find_run(const std::string& name);

}  // namespace demist::slurm
