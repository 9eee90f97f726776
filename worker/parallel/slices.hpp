// Shape checks that every communicator makes before it moves a byte.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/error.hpp"
#include "core/tensor.hpp"

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

inline void check_sum(const TensorView& out, std::span<const float> terms) {
  ensure(out.size() == static_cast<std::int64_t>(terms.size()),
         "communicator: a sum needs as many elements as its terms");
  ensure(out.ld == out.cols, "communicator: a sum needs rows without gaps");
}

// [0, total) as a slice for each of `ranks`, nearly equal.
inline std::vector<std::int64_t> even_slices(std::int64_t total, int ranks) {
  std::vector<std::int64_t> starts;
  for (std::int64_t r = 0; r <= ranks; ++r) starts.push_back(total * r / ranks);
  return starts;
}
inline std::vector<std::int64_t> in_bytes(std::vector<std::int64_t> starts, std::size_t element) {
  for (std::int64_t& start : starts) start *= static_cast<std::int64_t>(element);
  return starts;
}

// Device memory for the terms of a sum of floats, of all other ranks together. An XXL micro-batch
// of 8,192 tokens is 16.8 MB from each of 7 others: two passes of 9.6 MB. An exchange that small
// ones fill, of 2.4 MB, is over in what it takes to start one.
constexpr std::size_t kDeviceStagingBytes = std::size_t{64} << 20;
// Of `staging` bytes of device memory for a sum over `ranks`: those for the terms of one other
// rank, which start at a 256-byte border.
inline std::size_t device_piece_bytes(int ranks, std::size_t staging) {
  const auto others = static_cast<std::size_t>(std::max(1, ranks - 1));
  return std::max<std::size_t>(256, staging / others / 256 * 256);
}

}  // namespace demist
