// Scores that need no model: what a trained one must beat.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace demist::evaluate {

// The first `words` words of the text, one space between.
std::string lead_words(std::string_view text, std::size_t words);
std::size_t count_words(std::string_view text);

// Up to and with the first . ! or ? that white space or the end follows; all of it without one.
std::string first_sentence(std::string_view text);

enum class Baseline { copy, lead, first_sentence };
// "copy", "lead", "first_sentence"; throws ConfigError for another name.
Baseline baseline_from_name(std::string_view name);
// A response to `prompt`. `lead` is as many words as the reference has: it knows the reference's
// length, exactly as decoding with oracle length does, and is that setting's fair counterpart.
std::string baseline_response(Baseline baseline, std::string_view prompt,
                              std::string_view reference);

}  // namespace demist::evaluate
