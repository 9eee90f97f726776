// SPDX-License-Identifier: Apache-2.0
#include "data/interleave.hpp"

#include "core/error.hpp"
#include "core/philox.hpp"

namespace demist::data {
namespace {

// round(i * part / whole), halves up; part <= whole makes it grow by 0 or 1 with each i.
std::uint64_t share(std::uint64_t i, std::uint64_t part, std::uint64_t whole) {
  return static_cast<std::uint64_t>((static_cast<uint128>(i) * part + whole / 2) / whole);
}

}  // namespace

Interleave::Interleave(const std::vector<std::uint64_t>& counts) : before_{0} {
  for (const std::uint64_t count : counts) before_.push_back(before_.back() + count);
  ensure(total() > 0, "Interleave: nothing to deal out");
}

Interleave::Place Interleave::operator()(std::uint64_t slot) const {
  const std::uint64_t period = slot / total();
  std::uint64_t i = slot % total();
  std::size_t begin = 0, end = before_.size() - 1;
  while (end - begin > 1) {
    const std::size_t middle = begin + (end - begin) / 2;
    const std::uint64_t left = before_[middle] - before_[begin];
    const std::uint64_t both = before_[end] - before_[begin];
    const std::uint64_t left_before = share(i, left, both);
    if (share(i + 1, left, both) > left_before) {
      i = left_before;
      end = middle;
    } else {
      i -= left_before;
      begin = middle;
    }
  }
  return {begin, period * count(begin) + i};
}

}  // namespace demist::data
