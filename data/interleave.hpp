// Several sequences dealt out as evenly as whole numbers allow: which one is next, and its how-many
// -th item, in O(log parts) and without history.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace demist::data {

// Slot i of an endless sequence with period total(): a period holds exactly counts[p] items of part
// p. At each node of a binary tree over the parts, the first i slots hold round(i * left / both)
// items of the left half, so that any stretch of slots is close to the wanted shares.
class Interleave {
 public:
  struct Place {
    std::size_t part = 0;
    std::uint64_t item = 0;  // items of this part in all slots before
  };
  explicit Interleave(const std::vector<std::uint64_t>& counts);  // REQUIRES: a positive sum
  Place operator()(std::uint64_t slot) const;
  std::uint64_t total() const { return before_.back(); }
  std::uint64_t count(std::size_t part) const { return before_[part + 1] - before_[part]; }

 private:
  std::vector<std::uint64_t> before_;  // [parts + 1], running sums of counts
};

}  // namespace demist::data
