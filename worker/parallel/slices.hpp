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

}  // namespace demist
