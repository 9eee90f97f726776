// How the ranks of a stage are started: by mpirun, or by srun inside an allocation.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace demist {

// Who works in one attempt at a stage.
struct Crew {
  int ranks = 1;
  int ranks_per_node = 1;          // srun
  std::vector<std::string> nodes;  // srun
};

class Launcher {
 public:
  // "mpirun" or "srun", with options of the user's after it, and with what shall stand before the
  // program ("srun --mpi=pmix apptainer exec image"). Throws ConfigError for another program.
  explicit Launcher(const std::string& command = "mpirun");
  bool is_srun() const { return words_.front() == "srun"; }
  // What stands before the program.
  std::vector<std::string> words(const Crew& crew) const;

 private:
  std::vector<std::string> words_;  // program, options
};

}  // namespace demist
