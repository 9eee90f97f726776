// Whether a state in memory is the one that a checkpoint holds.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "worker/checkpoint/checkpoint.hpp"

namespace demist::checkpoint {

struct Difference {
  std::int64_t values = 0;  // of this rank's pieces, that are not the same 32 bits
  std::string where;        // the first: "layer.0.attention.query.weight, adam_m, element 17"; or
                            // what is no tensor
  bool any() const { return !where.empty(); }
};

// Local. Of the pieces of `state` alone, and of what is kept beside the tensors; any layout may
// have written `stored`. Throws CheckpointError when it is damaged.
Difference compare(const Snapshot& state, const Checkpoint& stored);

}  // namespace demist::checkpoint
