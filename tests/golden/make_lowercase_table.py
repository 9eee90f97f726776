#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints worker/evaluate/lowercase_table.hpp: Python's str.lower() of single code points, as ranges.

Needs nothing. Usage: make_lowercase_table.py > worker/evaluate/lowercase_table.hpp
"""
import unicodedata

HEADER = """\
// Lower-case code points of Unicode {version}; made by tests/golden/make_lowercase_table.py.
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace demist::evaluate {{

// Code points first, first + stride, ..., last; each plus `shift` is its lower case.
struct LowercaseRange {{
  char32_t first, last;
  int stride, shift;
}};
// clang-format off
inline constexpr LowercaseRange kLowercase[] = {{
"""
FOOTER = """\
};
// clang-format on

}  // namespace demist::evaluate
"""


def ranges():
    shift = {}
    for code in range(0x110000):
        lower = chr(code).lower()
        if not 0xD800 <= code < 0xE000 and len(lower) == 1 and lower != chr(code):
            shift[code] = ord(lower) - code
    codes = sorted(shift)
    begin = 0
    while begin < len(codes):
        ends = {}
        for stride in (2, 1):
            end = begin
            while (end + 1 < len(codes) and codes[end + 1] == codes[end] + stride
                   and shift[codes[end + 1]] == shift[codes[begin]]):
                end += 1
            ends[end] = stride
        end = max(ends)
        yield codes[begin], codes[end], ends[end], shift[codes[begin]]
        begin = end + 1


def main():
    print(HEADER.format(version=unicodedata.unidata_version), end="")
    line = "   "
    for entry in ranges():
        text = " {0x%x, 0x%x, %d, %d}," % entry
        if len(line) + len(text) > 100:
            print(line)
            line = "   "
        line += text
    print(line)
    print(FOOTER, end="")


if __name__ == "__main__":
    main()
