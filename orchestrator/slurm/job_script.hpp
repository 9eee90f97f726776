// The batch script of a job, as text.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "orchestrator/slurm/profile.hpp"

namespace demist::slurm {

// "4" or "2-4".
struct NodeRange {
  int least = 1, most = 1;
  bool is_range() const { return least != most; }
  std::string text() const;
};
NodeRange parse_node_range(const std::string& text);  // throws ConfigError

struct JobPlan {
  std::string name;         // of the run
  std::string recipe_hash;  // a job whose folder has become another recipe's refuses to run
  std::string run_dir, program, working_folder;  // absolute paths
  std::string stage;                             // "": all stages in this one job
  NodeRange nodes;
  int ntasks_per_node = 1;
  bool chained = false;            // another job of the chain goes on: no requeue
  std::vector<std::string> avoid;  // nodes
  Profile profile;
};

std::string job_script(const JobPlan& plan);

// One word of bash that stands for exactly this text.
std::string quoted(const std::string& text);

}  // namespace demist::slurm
