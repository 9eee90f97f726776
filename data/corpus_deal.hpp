// Hands numbered ranges to ranks as they ask and gathers what became of them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "core/mpi.hpp"
#include "data/corpus_plan.hpp"
#include "data/corpus_range.hpp"
#include "data/manifest.hpp"

namespace demist::data {

struct Dealt {
  std::vector<RangeResult> results;  // [ranges], in order; on rank 0
  std::uint64_t kept = 0;            // found finished
};

// Collective, with a communicator of its own. Rank 0 works too: it answers the others between two
// documents. When a rank fails no more ranges are dealt and all ranks throw the same error.
Dealt deal_ranges(const mpi::Comm& comm, const BuildPlan& plan, const RangeBuilder& builder);

}  // namespace demist::data
