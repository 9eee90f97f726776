// Runs the stages of a recipe in order, each in processes of its own.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

#include "orchestrator/config.hpp"
#include "orchestrator/progress.hpp"

namespace demist {

struct SupervisorOptions {
  std::string recipe;                  // as the user named it
  std::vector<std::string> overrides;  // --set, passed on to every stage
  int ranks = 1;
  ProgressStyle progress = ProgressStyle::lines;
  bool redo = false;  // delete and repeat stages made with other settings
};

// The command that runs one stage: mpirun for several ranks, the bare program for one.
std::vector<std::string> stage_command(const SupervisorOptions& options, const std::string& program,
                                       const StageConfig& stage);
std::map<std::string, std::string> stage_environment(const SupervisorOptions& options, int threads,
                                                     bool root);

// What to do after a stage ended with a code that is not 0.
std::string advice(int code, const fs::path& logs);

// Returns the exit code of `demist run`; writes summary.json and prints the table when all is done.
int supervise(const RunConfig& run, const SupervisorOptions& options);

}  // namespace demist
