// Dropout one element at a time, from the words of kernels/types.hpp.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/philox.hpp"
#include "kernels/types.hpp"

namespace demist::test {

// The 16-bit draw of element `e` of row (sample, position).
inline std::uint32_t dropout_draw(std::uint64_t key, std::uint64_t sample, std::uint32_t position,
                                  std::int64_t e) {
  const std::int64_t g = e / 128, r = e % 128;
  const Philox4 words =
      philox(key, static_cast<std::uint32_t>(g * 16 + r % 32 / 2), position,
             static_cast<std::uint32_t>(sample), static_cast<std::uint32_t>(sample >> 32));
  const std::uint32_t word = words.v[static_cast<std::size_t>(r / 32)];
  return r % 2 == 0 ? word & 0xffffu : word >> 16;
}

inline double dropout_factor(const Dropout& dropout, std::uint64_t sample, std::uint32_t position,
                             std::int64_t e) {
  if (!dropout.active()) return 1;
  const bool dropped = dropout_draw(dropout.key, sample, position, e) < dropout.threshold();
  return dropped ? 0.0 : static_cast<double>(dropout.keep_scale());
}

// Row r of an activation: its sequence and column name the row.
inline double dropout_factor(const Dropout& dropout, const TokenGrid& grid, std::int64_t r,
                             std::int64_t e) {
  if (!dropout.active()) return 1;
  return dropout_factor(dropout, grid.sample[static_cast<std::size_t>(r / grid.cols)],
                        static_cast<std::uint32_t>(r % grid.cols), e);
}

}  // namespace demist::test
