// The nodes that a job may get, as Slurm tells before the job is submitted.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <set>
#include <string>
#include <vector>

#include "orchestrator/slurm/profile.hpp"

namespace demist::slurm {

// The nodes that work among the lines of `sinfo -h -N -o "%P %N %T"`, of the partitions "a,b"; of
// the default one when that is empty.
std::set<std::string> working_nodes(const std::string& lines, const std::string& partitions);

// Of `bad` nodes, the oldest first, those that a job of `least` nodes can do without: where too few
// others of `working` are left, those that have been bad longest have another chance.
std::vector<std::string> affordable(std::vector<std::string> bad,
                                    const std::set<std::string>& working, int least);

// The same for a job with this profile. Asks Slurm, and says so when a node has another chance, or
// when too few nodes work even so; all of `bad` when it gives no answer.
std::vector<std::string> nodes_to_avoid(const Profile& profile, const std::vector<std::string>& bad,
                                        int least);

}  // namespace demist::slurm
