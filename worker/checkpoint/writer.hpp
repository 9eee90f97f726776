// One rank's file of a checkpoint: which blocks it holds, written, read back and synced.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <stop_token>
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

// Bytes of a file with so many values in so many datasets, made of so many pieces, at most.
std::uint64_t bytes_for(std::uint64_t values, std::size_t datasets, std::size_t pieces);

struct WriterId {
  int rank = 0, ranks = 1;
  std::int64_t step = 0;
};

class Tables;

// Writes a rank's files, one save after the other.
class PartWriter {
 public:
  PartWriter();
  ~PartWriter();
  PartWriter(const PartWriter&) = delete;
  PartWriter& operator=(const PartWriter&) = delete;

  // Writes <folder>/w<rank>.h5, compares what the file now holds with the checksums of what was
  // written, and syncs it. Writes nothing when there are no blocks. Ends early, with an error, on
  // `stop`.
  Part write(const fs::path& folder, const WriterId& id, const std::vector<LogicalTensor>& tensors,
             const std::vector<PlannedBlock>& blocks, const std::stop_token& stop = {});

 private:
  std::unique_ptr<Tables> tables_;  // of the last file
};

}  // namespace demist::checkpoint
