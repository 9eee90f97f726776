// UTF-8 text as Python's str methods see it: white space and lower case.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace demist::evaluate {

struct CodePoint {
  char32_t value = 0;     // U+FFFD for a byte that is not UTF-8
  std::size_t bytes = 1;  // taken from the text
};
CodePoint code_point_at(std::string_view text, std::size_t at);
void append_utf8(std::string& text, char32_t value);

bool is_space(char32_t value);  // str.isspace()

// str.split(): words between runs of white space, views into `text`.
std::vector<std::string_view> split(std::string_view text);
// str.rstrip()
std::string_view strip_right(std::string_view text);
// str.lower(). A capital sigma looks at its direct neighbours only to find the end of a word.
std::string lower(std::string_view text);

}  // namespace demist::evaluate
