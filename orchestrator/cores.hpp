// Which cores, and so how many threads, each rank of a machine gets.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "core/mpi.hpp"

namespace demist {

struct CoreShare {
  int threads = 1;
  int place = 0, places = 1;  // this rank's among those that share the same cores
};
// Pure. allowed: for each rank of the machine, the cores that its launcher lets it use, as text.
// Ranks with one set of cores share it evenly; srun or mpirun may also have given each its own.
CoreShare share_of(const std::vector<std::string>& allowed, int rank, int cores);

// Collective. Uses and pins this rank's share; `threads` > 0: this many threads instead.
void use_share_of_cores(const mpi::Comm& world, int threads);

}  // namespace demist
