// A sum of doubles whose bits do not depend on the order of the terms.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <span>

namespace demist {

__extension__ typedef unsigned __int128 uint128;  // not ISO C++, but every 64-bit compiler has it

// Kulisch-style superaccumulator (Neal 2015, "Fast exact summation using small and large
// superaccumulators"): 32-bit digits in 64-bit limbs cover the whole range of a double, so adding
// is integer addition. Ranks combine partial sums with an int64 all-reduce over limbs(). Exact for
// up to 2^30 terms over all ranks. Non-finite terms are counted apart and make value() NaN.
class ExactSum {
 public:
  static constexpr int kLimbs = 72;  // digit i has weight 2^(32 i - 1152); the last counts NaN, inf

  void add(double x) {
    const auto bits = std::bit_cast<std::uint64_t>(x);
    const auto exponent = static_cast<int>(bits >> 52 & 0x7ff);
    if (exponent == 0x7ff) {
      ++limbs_[kLimbs - 1];
      return;
    }
    // x = mantissa * 2^(shift - 1152); a subnormal has no leading one, and the exponent of 1.
    std::uint64_t mantissa = bits & ((std::uint64_t{1} << 52) - 1);
    if (exponent > 0) mantissa |= std::uint64_t{1} << 52;
    const int shift = (exponent > 0 ? exponent : 1) - 1075 + 1152;
    const bool negative = bits >> 63 != 0;
    auto wide = static_cast<uint128>(mantissa) << (shift % 32);
    for (int i = shift / 32; wide != 0; ++i, wide >>= 32) {
      const auto digit = static_cast<std::int64_t>(wide & 0xffffffffu);
      limbs_[static_cast<std::size_t>(i)] += negative ? -digit : digit;
    }
  }
  void add(const ExactSum& other) {
    for (std::size_t i = 0; i < kLimbs; ++i) limbs_[i] += other.limbs_[i];
  }

  // The sum rounded to a double (one rounding up to the last bit's tie).
  double value() const {
    if (limbs_[kLimbs - 1] != 0) return std::nan("");
    std::array<std::int64_t, kLimbs> digits = limbs_;
    for (std::size_t i = 0; i + 2 < kLimbs; ++i) {  // carry so that digits 0..n-3 are in [0, 2^32)
      digits[i + 1] += digits[i] >> 32;
      digits[i] &= 0xffffffff;
    }
    if (digits[kLimbs - 2] < 0) {  // negative: negate, sum magnitudes, negate back
      ExactSum opposite;
      for (std::size_t i = 0; i < kLimbs; ++i) opposite.limbs_[i] = -limbs_[i];
      return -opposite.value();
    }
    double sum = 0;
    for (int i = kLimbs - 2; i >= 0; --i)
      sum += std::ldexp(static_cast<double>(digits[static_cast<std::size_t>(i)]), 32 * i - 1152);
    return sum;
  }

  std::span<std::int64_t, kLimbs> limbs() { return limbs_; }

 private:
  std::array<std::int64_t, kLimbs> limbs_{};
};

}  // namespace demist
