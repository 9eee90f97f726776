// Shape checks that every communicator makes before it moves a byte.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/error.hpp"

namespace demist {

// starts = 0 <= starts[1] <= ... <= starts[ranks] = total: rank r owns [starts[r], starts[r + 1]).
inline void check_slices(std::span<const std::int64_t> starts, int ranks, std::size_t total) {
  ensure(starts.size() == static_cast<std::size_t>(ranks) + 1,
         "communicator: starts needs one entry a rank and the end");
  ensure(starts.front() == 0 && std::is_sorted(starts.begin(), starts.end()),
         "communicator: starts must rise from 0");
  ensure(starts.back() == static_cast<std::int64_t>(total),
         "communicator: starts must end at the buffer's size");
}

// Of `staging` bytes of device memory for a sum over `ranks`: those for the terms of one other
// rank, which start at a 256-byte border.
inline std::size_t device_piece_bytes(int ranks, std::size_t staging) {
  const auto others = static_cast<std::size_t>(std::max(1, ranks - 1));
  return std::max<std::size_t>(256, staging / others / 256 * 256);
}

}  // namespace demist
