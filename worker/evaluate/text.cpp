// SPDX-License-Identifier: Apache-2.0
#include "worker/evaluate/text.hpp"

#include <algorithm>
#include <iterator>

#include "worker/evaluate/lowercase_table.hpp"

namespace demist::evaluate {
namespace {

constexpr char32_t kCapitalSigma = 0x3A3, kSmallSigma = 0x3C3, kFinalSigma = 0x3C2;
constexpr char32_t kCapitalDottedI = 0x130, kCombiningDot = 0x307;

bool holds(const LowercaseRange& range, char32_t value) {
  return range.first <= value && value <= range.last &&
         (value - range.first) % static_cast<char32_t>(range.stride) == 0;
}

char32_t shifted(char32_t value, int shift) {
  return static_cast<char32_t>(static_cast<int>(value) + shift);
}

char32_t lower_of(char32_t value) {
  if (value < 0x80) return value >= 'A' && value <= 'Z' ? value + 32 : value;
  const auto after =
      std::upper_bound(std::begin(kLowercase), std::end(kLowercase), value,
                       [](char32_t v, const LowercaseRange& range) { return v < range.first; });
  const LowercaseRange& range = *std::prev(after);  // the table begins with A
  return holds(range, value) ? shifted(value, range.shift) : value;
}

// A letter that has two cases.
bool is_cased(char32_t value) {
  return std::any_of(std::begin(kLowercase), std::end(kLowercase), [&](const auto& range) {
    return holds(range, value) || holds(range, shifted(value, -range.shift));
  });
}

bool cased_at(std::string_view text, std::size_t at) {
  return at < text.size() && is_cased(code_point_at(text, at).value);
}

bool cased_before(std::string_view text, std::size_t at) {
  if (at == 0) return false;
  std::size_t start = at - 1;
  while (start > 0 && (static_cast<unsigned char>(text[start]) & 0xC0u) == 0x80u) --start;
  return cased_at(text, start);
}

}  // namespace

CodePoint code_point_at(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const std::size_t bytes = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || at + bytes > text.size()) return {0xFFFD, 1};
  char32_t value = lead & (0xFFu >> (bytes + 1));
  for (std::size_t i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xC0u) != 0x80u) return {0xFFFD, 1};
    value = (value << 6) | (byte(i) & 0x3Fu);
  }
  return {value, bytes};
}

void append_utf8(std::string& text, char32_t value) {
  const auto put = [&](char32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (value < 0x80) return put(value);
  if (value < 0x800) {
    put(0xC0 | (value >> 6));
  } else if (value < 0x10000) {
    put(0xE0 | (value >> 12));
    put(0x80 | ((value >> 6) & 0x3F));
  } else {
    put(0xF0 | (value >> 18));
    put(0x80 | ((value >> 12) & 0x3F));
    put(0x80 | ((value >> 6) & 0x3F));
  }
  put(0x80 | (value & 0x3F));
}

bool is_space(char32_t v) {
  return v == ' ' || (v >= 0x09 && v <= 0x0D) || (v >= 0x1C && v <= 0x1F) || v == 0x85 ||
         v == 0xA0 || v == 0x1680 || (v >= 0x2000 && v <= 0x200A) || v == 0x2028 || v == 0x2029 ||
         v == 0x202F || v == 0x205F || v == 0x3000;
}

std::vector<std::string_view> split(std::string_view text) {
  std::vector<std::string_view> words;
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    if (is_space(c.value)) {
      if (at > begin) words.push_back(text.substr(begin, at - begin));
      begin = at + c.bytes;
    }
    at += c.bytes;
  }
  if (text.size() > begin) words.push_back(text.substr(begin));
  return words;
}

std::string_view strip_right(std::string_view text) {
  std::size_t end = 0;  // after the last code point that is not white space
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    at += c.bytes;
    if (!is_space(c.value)) end = at;
  }
  return text.substr(0, end);
}

std::string lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    const char32_t small = lower_of(c.value);
    if (c.value == kCapitalDottedI) {  // the only letter whose lower case is two code points
      out.push_back('i');
      append_utf8(out, kCombiningDot);
    } else if (c.value == kCapitalSigma) {
      const bool last = cased_before(text, at) && !cased_at(text, at + c.bytes);
      append_utf8(out, last ? kFinalSigma : kSmallSigma);
    } else if (small != c.value) {
      append_utf8(out, small);
    } else {
      out.append(text.substr(at, c.bytes));
    }
    at += c.bytes;
  }
  return out;
}

}  // namespace demist::evaluate
