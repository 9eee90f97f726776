// Which elements of a flattened tensor a file holds: runs, and stripes that say many runs in one.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace demist::checkpoint {

struct Run {
  std::int64_t start, count;  // elements [start, start + count)
};

// `repeat` runs of `count` elements, `stride` apart: a column-split matrix is one stripe.
struct Stripe {
  std::int64_t start, count, stride, repeat;
  std::int64_t size() const { return count * repeat; }
  std::int64_t end() const { return start + (repeat - 1) * stride + count; }
  // True when every run lies in [0, limit) and none touches the next. Safe for any four numbers.
  bool valid(std::int64_t limit) const;
  bool operator==(const Stripe&) const = default;
};

// `runs` rise and neither overlap nor touch. The stripes say the same runs in the same order.
std::vector<Stripe> to_stripes(std::span<const Run> runs);
void append_runs(const Stripe& stripe, std::vector<Run>& runs);
// Start, count, stride, repeat of each, as a file has them.
std::vector<std::int64_t> flat(std::span<const Stripe> stripes);

// Throws CheckpointError("<what>: elements [a, b) are missing | stored twice") unless the runs
// cover [0, size) once. Sorts them.
void check_tiling(std::vector<Run>& runs, std::int64_t size, const std::string& what);

}  // namespace demist::checkpoint
