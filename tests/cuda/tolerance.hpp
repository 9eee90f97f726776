// How far the device may be from the CPU or from an oracle: one table for all tests of the CUDA
// backend. scripts/gpu_check repeats the last row; tests/cuda/gpu_check_test.py compares the two.
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

// Attention against the oracle, relative Frobenius error. bf16: one rounding of the output is
// 2^-9 / sqrt(3); the backward pass multiplies rounded P and dS and starts from a rounded output.
// lse stays in fp32, its exponentials are good to 2^-22. Against the CPU's kernels: twice as much,
// as both are that close to the truth.
inline constexpr Tolerance kAttentionForward{1e-6, 3.5e-3};
inline constexpr Tolerance kAttentionLse{2e-6, 2e-6};
inline constexpr Tolerance kAttentionBackward{2e-6, 4e-3};

// Device primitives, by the size of each result (1 + |sum|, or 0.1 + |value|).
inline constexpr double kMma = 2e-5;            // the order of a tensor core's additions is its own
inline constexpr double kFastFunctions = 1e-5;  // exponentials and the like, a few ulp
// Of a product's element, by the sum of its terms' sizes. bf16 results: half a unit in the last
// place. fp32: the order of 56 additions.
inline constexpr Tolerance kCublasLt{2e-6, 1.0 / 256};
// Terms of 1 to 8 ranks added in fp32, by the terms' sizes: 7 roundings of 2^-24.
inline constexpr double kCombinedSum = 5e-7;
// In the sizes of large models, on both sides. Sums over 32,768 rows whose signs differ: added one
// by one they err by 2^-24 sqrt(rows / 2) = 8e-6 of the result. Sums of 250,002 exponentials.
inline constexpr double kLongColumnSum = 2e-5;
inline constexpr double kLongStatistics = 1e-5;

// Losses after training steps on both devices, relative. fp32: other orders of summation, which the
// optimizer carries on. bf16: roundings that fall the other way, carried on alike. The largest seen
// over 20 steps of trainer_test.cpp's cases, with several seeds on one rank and one on 2 and 4,
// were 2.9e-7 and 4.1e-4; the limits leave room for the last bits of a real device's functions.
inline constexpr Tolerance kTrainingLoss{2e-6, 1.5e-3};
// The loss must fall to this part of the first: it fell to 0.29 to 0.46.
inline constexpr double kLearned = 0.6;
// Logits after two steps, relative Frobenius error. Seen: 2.9e-7 and 1.5e-3.
inline constexpr Tolerance kLogits{1e-6, 4e-3};
// The bf16 loss after two steps with one attention path against the other's. Seen: 1.8e-5.
inline constexpr double kPathLoss = 6e-5;
// Mean log-probability of a sampled answer in fp32, absolute; it is about -2. Seen: 8e-8.
inline constexpr double kMeanLogProb = 1e-6;
// Losses of `demist run configs/tiny.textproto` in bf16, relative: some dozens of steps more, and
// not yet seen on a GPU. PROGRAM_LOSS of scripts/gpu_check/parts.py.
inline constexpr double kProgramLoss = 2e-2;

}  // namespace demist::cuda::test
