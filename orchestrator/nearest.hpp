// "Did you mean": the known word closest to a mistyped one.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace demist {

// Insertions, deletions, substitutions and swaps of neighbours (Damerau 1964), one each.
std::size_t edit_distance(std::string_view a, std::string_view b);

// The nearest of `known` when it is near enough to be a typing error, else "".
std::string nearest(std::string_view word, const std::vector<std::string>& known);
// "; did you mean 'steps'?" or "".
std::string did_you_mean(std::string_view word, const std::vector<std::string>& known);

std::string join(const std::vector<std::string>& words, std::string_view separator);

}  // namespace demist
