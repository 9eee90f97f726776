// Values that a field of a recipe may have.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "orchestrator/config_recipe.hpp"

namespace demist::config {

struct Range {
  double low, high;
  const char* words;
};
inline constexpr Range kFraction{0, 1, "between 0 and 1"};
inline constexpr Range kPositive{1e-300, 1e300, "greater than 0"};
inline constexpr Range kNotNegative{0, 1e300, "0 or greater"};
inline constexpr Range kAtLeastOne{1, 1e300, "1 or greater"};
inline constexpr Range kBelowOne{0, 0.999999999, "at least 0 and below 1"};

inline std::string number(double value) {
  std::string text = std::to_string(value);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text;
}

inline void check_range(ParsedRecipe& recipe, const std::string& path, double value,
                        const Range& range) {
  recipe.require(value >= range.low && value <= range.high, path, "is " + number(value),
                 std::string("must be ") + range.words);
}

}  // namespace demist::config
