// How far a kernel may be from the double-precision oracle: one table for all operations.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <span>

#include "core/tensor.hpp"

namespace demist::test {

struct Tolerance {
  double f32;
  double bf16;
  double of(DType dtype) const { return dtype == DType::f32 ? f32 : bf16; }
};

// Relative Frobenius error of an output. bf16: half an ulp is 2^-9 = 2e-3 at worst, twice that
// where an element may fall to the other side of a tie.
inline constexpr Tolerance kGemm{2e-6, 4e-3};
inline constexpr Tolerance kAttention{3e-6, 4e-3};
inline constexpr Tolerance kLayerNorm{1e-6, 4e-3};
inline constexpr Tolerance kGelu{1e-6, 4e-3};
inline constexpr Tolerance kCrossEntropy{1e-6, 4e-3};
inline constexpr Tolerance kEmbedding{1e-6, 4e-3};
inline constexpr Tolerance kColumnSum{1e-6, 1e-6};  // exact inputs, sums in fp32
inline constexpr Tolerance kAdamW{1e-6, 4e-3};
// Statistics stay in fp32 whatever the storage.
inline constexpr double kStatistics = 1e-6;
// The oracle's own backward pass against central differences with this step.
inline constexpr double kDifferenceStep = 1e-5;
inline constexpr double kDifferences = 1e-7;

// |got - want| / |want| in the Frobenius norm, |got - want| where want is all 0. NaN sticks, and
// different sizes are NaN too: EXPECT_LE(relative_error(...), tolerance) fails on both.
inline double relative_error(std::span<const double> got, std::span<const double> want) {
  if (got.size() != want.size()) return std::nan("");
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

}  // namespace demist::test
