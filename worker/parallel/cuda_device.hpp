// One GPU a rank, with NCCL between them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "worker/device.hpp"

namespace demist {

// Collective over world. Ranks of a node take its GPUs in order; throws EnvironmentError, on all
// ranks, when a rank finds none or two ranks have the same one.
Device make_cuda_device(const mpi::Comm& world);

}  // namespace demist

// What load_cuda_device() looks up.
extern "C" [[gnu::visibility("default")]] void demist_make_cuda_device(const demist::mpi::Comm*,
                                                                       demist::Device*);
