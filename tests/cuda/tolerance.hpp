// How far a device kernel may be from the CPU's: one table for all kernels.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tests/support/tolerance.hpp"

namespace demist::cuda::test {

using demist::test::Tolerance;

// Gather, scatter, add, convert, dropout, fixed point, max_abs, tile_sum_squares and adamw have the
// CPU's bits and need no limit. Of the others: the relative Frobenius error of the device's result
// against the CPU's. Both round a result in bf16 once; where their fp32 values lie on two sides of
// a tie, elements differ by an ulp, 2^-8 of themselves. That happens to few: a difference of 1e-6
// between the fp32 values turns about one element in 4,000, for 2^-8 / sqrt(4000) = 6e-5 in the
// norm, more where a test has few elements.
inline constexpr Tolerance kEmbedForward{0, 0};         // two additions in the CPU's order
inline constexpr Tolerance kEmbedBackward{1e-6, 1e-6};  // fp32 sums, in pieces of 32 here
inline constexpr Tolerance kGelu{1e-6, 5e-4};           // erff here, polynomials within 6e-7 there
inline constexpr Tolerance kLayerNorm{2e-6, 5e-4};      // other trees, twice the oracle's 1e-6
inline constexpr Tolerance kColumnSum{1e-6, 1e-6};      // fp32 sums of the same values
inline constexpr Tolerance kStatistics{1e-6, 1e-6};     // fp32 whatever the storage
inline constexpr Tolerance kCrossEntropy{2e-6, 5e-4};   // exponentials within 2 ulp on both sides

}  // namespace demist::cuda::test
