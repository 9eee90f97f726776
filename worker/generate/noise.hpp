// The two random streams of decoding, by (seed, step, request id, response position).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <string_view>

#include "core/philox.hpp"

namespace demist::generate {

inline constexpr std::string_view kTokenStream = "generate.token";  // which token is drawn
inline constexpr std::string_view kRouteStream = "generate.route";  // noise on the confidences

// Standard Gumbel noise: mean 0.5772 (Euler's constant), variance pi^2 / 6.
inline double gumbel(const Philox4& words) {
  const double u = std::max(uniform(words), 0x1.0p-54);  // uniform() can be 0, never 1
  return -std::log(-std::log(u));
}

}  // namespace demist::generate
