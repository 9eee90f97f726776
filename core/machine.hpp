// The name of this machine.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace demist {

std::string host_name();
// The same by Slurm's name for it where a Slurm job runs here: what `bad-nodes`, srun and --exclude
// know.
std::string node_name();

}  // namespace demist
