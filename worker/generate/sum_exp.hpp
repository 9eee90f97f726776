// The sum inside a softmax: the hot loop of decoding, over positions x vocabulary.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

namespace demist::generate {

// sum over v of exp((logits[v] - top) / temperature) in double, for top >= every logit. Terms below
// e^-700 count as that; NaN and +inf give NaN. The same bits whatever vector instructions the CPU
// has.
double sum_exp(std::span<const float> logits, float top, double temperature = 1);

}  // namespace demist::generate
