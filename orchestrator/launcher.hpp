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
  std::string hosts = {};  // mpirun: "a:2,b:2", in place of those that the user named; "": those
};

// mpirun's exit code when it has lost a daemon of its own, on a machine that is gone.
inline constexpr int kDaemonLost = 255;

class Launcher {
 public:
  // "mpirun" (or its other names) or "srun", or a path to it, with options of the user's after it,
  // and with what shall stand before the program ("srun --mpi=pmix apptainer exec image"). Throws
  // ConfigError for another program.
  explicit Launcher(const std::string& command = "mpirun");
  bool is_srun() const { return is_srun_; }
  // Of the user.
  std::vector<std::string> options() const { return {words_.begin() + 1, words_.end()}; }
  // What stands before the program.
  std::vector<std::string> words(const Crew& crew) const;

 private:
  std::vector<std::string> words_;  // program, options
  bool is_srun_ = false;
};

}  // namespace demist
