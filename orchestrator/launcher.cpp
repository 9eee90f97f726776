// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/launcher.hpp"

#include <filesystem>
#include <sstream>

#include "core/error.hpp"
#include "orchestrator/hosts.hpp"
#include "orchestrator/nearest.hpp"

namespace demist {

Launcher::Launcher(const std::string& command) {
  std::istringstream text(command);
  for (std::string word; text >> word;) words_.push_back(word);
  // "mpirun.openmpi" is Debian's.
  const std::string program =
      words_.empty() ? "" : std::filesystem::path(words_.front()).stem().string();
  is_srun_ = program == "srun";
  if (!is_srun_ && program != "mpirun" && program != "mpiexec" && program != "orterun")
    throw ConfigError("--launcher " + command +
                      ": expected mpirun (mpiexec) or srun, or a path to it, with its options");
}

std::vector<std::string> Launcher::words(const Crew& crew) const {
  std::vector<std::string> words{words_.front()};
  const std::string ranks = std::to_string(crew.ranks);
  if (is_srun())
    // Without --no-kill, so that Slurm ends what a dead node leaves behind. One rank that fails
    // ends all; so does one that has ended a minute before the others. Slurm waits minutes for a
    // node that lost its power, and with it for the step before: --overlap does not wait for that.
    words.insert(words.end(), {"--nodes=" + std::to_string(crew.nodes.size()), "--ntasks=" + ranks,
                               "--ntasks-per-node=" + std::to_string(crew.ranks_per_node),
                               "--nodelist=" + join(crew.nodes, ","), "--kill-on-bad-exit=1",
                               "--wait=60", "--overlap", "--unbuffered"});
  else
    words.insert(words.end(), {"--quiet", "-n", ranks, "--oversubscribe", "--bind-to", "none"});
  const std::vector<std::string> own =
      crew.hosts.empty() ? options() : with_hosts(options(), crew.hosts);
  words.insert(words.end(), own.begin(), own.end());
  return words;
}

}  // namespace demist
