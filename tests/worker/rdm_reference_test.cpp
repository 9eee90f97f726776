// The reference loss itself, against values worked out by hand from method section 3.3.
// SPDX-License-Identifier: Apache-2.0
#include "tests/support/rdm_reference.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace demist::reference {
namespace {

using data::TimeWeight;

// <s> prompt r r r </s>: four response tokens; log p = -(token + 1) * (copy + 1) / 10.
RdmSequence sequence() {
  return {{0, 5, 1, 2, 3, 2},
          {false, false, true, true, true, true},
          {{40, {false, false, true, false, true, true}},      // t1: tokens 1, 3, 2
           {10, {false, false, false, false, false, true}}}};  // t2: token 2
}
double log_p(std::size_t, std::size_t copy, std::size_t, std::int32_t token) {
  return -(token + 1.0) * (static_cast<double>(copy) + 1) / 10;
}

TEST(RdmReference, LinearWeightsByHand) {
  // Copy 1: 50 / 4 * (1 - 39/50) * (0.2 + 0.4 + 0.3); copy 2: 50 / 4 * (1 - 9/50) * 0.6.
  const double expected = (12.5 * 0.22 * 0.9 + 12.5 * 0.82 * 0.6) / 2;
  EXPECT_NEAR(rdm_loss({sequence()}, {50, TimeWeight::linear, 0, 6}, log_p), expected, 1e-12);
}

TEST(RdmReference, OtherWeightsByHand) {
  EXPECT_NEAR(rdm_loss({sequence()}, {50, TimeWeight::reciprocal, 0, 6}, log_p),
              (12.5 / 40 * 0.9 + 12.5 / 10 * 0.6) / 2, 1e-12);
  EXPECT_NEAR(rdm_loss({sequence()}, {50, TimeWeight::constant, 0, 6}, log_p),
              12.5 * (0.9 + 0.6) / 2, 1e-12);
}

TEST(RdmReference, SmoothingHasNoTimeWeight) {
  // mean over six tokens of -log p is 0.35 in copy 1 and 0.7 in copy 2.
  const double plain = (12.5 * 0.22 * 0.9 + 12.5 * 0.82 * 0.6) / 2;
  const double smooth = 12.5 * (3 * 0.35 + 0.7) / 2;
  EXPECT_NEAR(rdm_loss({sequence()}, {50, TimeWeight::linear, 0.1, 6}, log_p),
              0.9 * plain + 0.1 * smooth, 1e-12);
}

TEST(RdmReference, EverySequenceWeighsTheSameWhateverItsLength) {
  const RdmSequence shorter = {{0, 3}, {false, true}, {{50, {false, true}}, {50, {false, true}}}};
  const RdmSettings settings = {50, TimeWeight::linear, 0, 6};
  EXPECT_NEAR(rdm_loss({sequence(), shorter}, settings, log_p),
              (rdm_loss({sequence()}, settings, log_p) + rdm_loss({shorter}, settings, log_p)) / 2,
              1e-12);
}

TEST(RdmReference, ExpectedWeightOfATokenIsThePages) {
  double total = 0;  // sum over t of p(t) * p(masked | t) * T * lambda
  for (std::int32_t t = 1; t <= 50; ++t)
    total += 1.0 / 50 * (t / 50.0) * 50 * time_weight(TimeWeight::linear, t, 50);
  EXPECT_NEAR(total, 8.84, 1e-12);
}

TEST(RdmReference, NoiseOnThePromptIsRefused) {
  RdmSequence wrong = sequence();
  wrong.copies[0].masked[1] = true;
  EXPECT_THROW(rdm_loss({wrong}, {50, TimeWeight::linear, 0, 6}, log_p), InternalError);
}

}  // namespace
}  // namespace demist::reference
