// One rank's file of a checkpoint: which blocks it holds, written, synced and read back.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "worker/checkpoint/manifest.hpp"

namespace demist::checkpoint {

// A block before it is written: its pieces in order, and the stripes that they make.
struct PlannedBlock {
  std::size_t tensor = 0;
  Kind kind = Kind::parameter;
  std::int64_t count = 0;
  std::vector<Stripe> stripes;
  std::vector<std::span<const float>> pieces;
};

// Groups pieces by tensor and kind and joins neighbours. Throws InternalError on a piece outside
// its tensor or two that overlap.
std::vector<PlannedBlock> plan_blocks(const std::vector<LogicalTensor>& tensors,
                                      std::span<const Piece> pieces);

struct WriterId {
  int rank = 0, ranks = 1;
  std::int64_t step = 0;
};
// Writes <folder>/w<rank>.h5, syncs it, and compares what the file now holds with the checksums of
// what was written. Writes nothing when there are no blocks.
Part write_part(const fs::path& folder, const WriterId& id,
                const std::vector<LogicalTensor>& tensors, const std::vector<PlannedBlock>& blocks);

}  // namespace demist::checkpoint
