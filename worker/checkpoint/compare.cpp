// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/compare.hpp"

#include <bit>

#include "core/error.hpp"

namespace demist::checkpoint {
namespace {

bool same_bits(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

}  // namespace

Difference compare(const Snapshot& state, const Checkpoint& stored) {
  Difference difference;
  std::vector<float> values;
  for (const Piece& piece : state.pieces) {
    const LogicalTensor& tensor = state.tensors[piece.tensor];
    const auto index = stored.find(tensor.name);
    if (!index)
      throw CheckpointError(stored.directory().string() + " has no tensor " + tensor.name);
    values.resize(piece.values.size());
    stored.read({*index, piece.kind, piece.start, values});
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (same_bits(values[i], piece.values[i])) continue;
      if (difference.values++ == 0)
        difference.where = tensor.name + ", " + name_of(piece.kind) + ", element " +
                           std::to_string(piece.start + static_cast<std::int64_t>(i));
    }
  }
  if (difference.values == 0 && state.meta.state_json != stored.meta().state_json)
    difference.where = "the scales, the history of losses or what else is kept beside the tensors";
  return difference;
}

}  // namespace demist::checkpoint
