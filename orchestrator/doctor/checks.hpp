// The checks of `demist doctor`, on every rank.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "core/mpi.hpp"
#include "orchestrator/doctor/findings.hpp"

namespace demist::doctor {

// Collective. `folder`: where runs are to be kept, which is there; files are made in it and removed
// again. A check that fails is a finding, no error.
RankFindings examine(const mpi::Comm& world, const std::filesystem::path& folder);

}  // namespace demist::doctor
