// One tensor of n elements with one scale, cut into pieces as the fixed-point operations take it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/types.hpp"

namespace demist::test {

class OneTensor {
 public:
  OneTensor(std::int64_t n, int exponent, std::int64_t begin = 0)
      : scale_{std::ldexp(1.0, exponent)} {
    constexpr std::int64_t longest = ScaledPiece::kLongest;
    for (std::int64_t at = 0; at < n; at += longest)
      pieces_.push_back({begin + at, static_cast<std::int32_t>(std::min(longest, n - at)), 0});
  }
  std::size_t size() const { return pieces_.size(); }
  const std::vector<ScaledPiece>& pieces() const { return pieces_; }
  const std::vector<double>& scale() const { return scale_; }
  ScaledPieces view() const { return {pieces_, scale_, pieces_.front().begin % 8 == 0}; }

 private:
  std::vector<ScaledPiece> pieces_;
  std::vector<double> scale_;
};

}  // namespace demist::test
