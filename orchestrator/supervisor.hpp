// Runs the stages of a recipe in order, each in processes of its own.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "orchestrator/config.hpp"
#include "orchestrator/hosts.hpp"
#include "orchestrator/launcher.hpp"
#include "orchestrator/progress.hpp"
#include "orchestrator/slurm/allocation.hpp"

namespace demist {

struct SupervisorOptions {
  // What every attempt works from, whatever becomes of the user's recipe: the record in the run
  // folder, and its hash.
  std::string run_dir, record;
  int ranks = 1;
  ProgressStyle progress = ProgressStyle::lines;
  bool redo = false;  // repeat stages made with other settings, or whose result is gone
  std::string only;   // stage to run; "": all
  Launcher launcher;
  std::shared_ptr<slurm::Allocation> allocation;  // srun: where an attempt's nodes come from
  std::shared_ptr<Hosts> hosts;                   // mpirun: those that the user named, if any
};

// Who works in the attempt that begins now. In an allocation: on the nodes that still work; throws
// Error(requeue) when those are too few, or a stop is asked for while Slurm gives no answer.
Crew crew_for(const SupervisorOptions& options, const StageConfig& stage,
              const slurm::StopAsked& stop_asked);
// The command that runs one stage: the launcher for the ranks of a crew, the bare program for a
// single rank of this machine.
std::vector<std::string> stage_command(const SupervisorOptions& options, const std::string& program,
                                       const StageConfig& stage, const Crew& crew);
std::map<std::string, std::string> stage_environment(int ranks_here, int threads, bool root);

// What to do after a stage ended with a code that is not 0.
std::string advice(int code, const fs::path& logs);

// Throws ConfigError when `recipe` stands where the run's record goes, and is no record itself
// (what its author wrote would be lost), or is that of work made from another file: a record's
// paths are absolute, which makes it another recipe. A record that was copied there may be run.
void refuse_record(const RunConfig& run, const fs::path& recipe);

// Returns the exit code of `demist run`; writes summary.json and prints the table when all is done.
// REQUIRES: check_stages() found nothing in the way, the run folder holds the run's record.
int supervise(const RunConfig& run, const SupervisorOptions& options);

}  // namespace demist
