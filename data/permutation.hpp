// A keyed bijection of [0, n) evaluated in O(1): shuffling without an index array.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace demist::data {

// Balanced Feistel network over the smallest 4^k >= n, cycle-walked into [0, n) (Black and Rogaway
// 2002, "Ciphers with arbitrary finite domains").
class Permutation {
 public:
  Permutation(std::uint64_t n, std::uint64_t key);
  std::uint64_t operator()(std::uint64_t i) const;  // REQUIRES: i < n
  std::uint64_t size() const { return n_; }

 private:
  std::uint64_t n_, key_;
  int half_bits_;
};

// Two levels: windows of `window` consecutive items in a shuffled order, then items shuffled inside
// their window, so reads stay nearly sequential on a parallel file system. A bijection of [0, n);
// the last, shorter window takes a keyed place among the full ones.
class WindowPermutation {
 public:
  WindowPermutation(std::uint64_t n, std::uint64_t window, std::uint64_t key);
  std::uint64_t operator()(std::uint64_t i) const;

 private:
  std::uint64_t n_, window_, key_;
  Permutation full_windows_;
  std::uint64_t short_window_begin_;  // the output position where the shorter window starts
};

}  // namespace demist::data
