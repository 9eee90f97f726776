// SPDX-License-Identifier: Apache-2.0
#include "data/reader.hpp"

#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "core/error.hpp"
#include "data/byte_source.hpp"

namespace demist::data {

void SkipCounts::add(const SkipCounts& later) {
  invalid_utf8 += later.invalid_utf8;
  bad_json += later.bad_json;
  too_long += later.too_long;
  empty += later.empty;
  if (first.empty()) first = later.first;
}

struct LineReader::Impl {
  std::string name;
  std::unique_ptr<ByteSource> source;
  std::vector<char> buffer;
  std::size_t position = 0, filled = 0;  // of the buffer
  std::uint64_t line_begin = 0, next_begin = 0;
  std::uint64_t lines = 0;  // begun
  bool line_ended = true;   // the last line's newline was taken
  bool at_end = false;

  void begin_line() {
    line_begin = next_begin;
    line_ended = false;
    ++lines;
  }
  // What is at hand of the line, without its newline; nothing at its end.
  std::optional<std::string_view> take() {
    if (line_ended || at_end) return std::nullopt;
    if (position == filled) {
      position = 0;
      filled = source->read(buffer);
      at_end = filled == 0;  // a terminal could be asked for more
      if (at_end) return std::nullopt;
    }
    const char* begin = buffer.data() + position;
    const std::size_t available = filled - position;
    const auto* newline = static_cast<const char*>(std::memchr(begin, '\n', available));
    line_ended = newline != nullptr;
    const std::size_t length = line_ended ? static_cast<std::size_t>(newline - begin) : available;
    position += length + (line_ended ? 1 : 0);
    next_begin += length + (line_ended ? 1 : 0);
    return std::string_view(begin, length);
  }
  // Stops inside a line that is too long.
  Found read(std::size_t longest, std::string& line) {
    begin_line();
    line.clear();
    while (const auto part = take()) {
      if (part->size() > longest - line.size()) return Found::too_long;
      line += *part;
    }
    if (line.empty() && !line_ended) return Found::end;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line_begin == 0 && line.starts_with("\xEF\xBB\xBF")) line.erase(0, 3);
    return Found::line;
  }
};

LineReader::LineReader(const std::filesystem::path& path, std::uint64_t begin)
    : impl_(std::make_unique<Impl>()) {
  constexpr std::size_t buffer_bytes = 256u << 10;
  impl_->name = path == "-" ? "standard input" : path.string();
  impl_->source = open_bytes(path, begin);
  impl_->buffer.resize(buffer_bytes);
  impl_->next_begin = begin;
}

LineReader::LineReader(LineReader&&) noexcept = default;
LineReader::~LineReader() = default;
std::uint64_t LineReader::line_begin() const { return impl_->line_begin; }
std::uint64_t LineReader::bytes_read() const { return impl_->source->bytes_read(); }
const std::string& LineReader::name() const { return impl_->name; }

LineReader::Found LineReader::next_within(std::size_t longest, std::string& line) {
  const Found found = impl_->read(longest, line);
  while (impl_->take()) continue;
  return found;
}

bool LineReader::next(std::string& line) {
  const Found found = impl_->read(kLongestText, line);
  if (found == Found::too_long)
    throw DataError(name() + ":" + std::to_string(impl_->lines) + ": longer than " +
                    std::to_string(kLongestText) + " bytes; break the line, or leave it out");
  return found == Found::line;
}

bool LineReader::skip_line(std::uint64_t end) {
  impl_->begin_line();
  while (impl_->next_begin < end && impl_->take()) continue;
  return impl_->line_ended && impl_->next_begin < end;
}

namespace {

// Bytes of the well-formed character at the start of `text` (not empty); 0 when there is none.
std::size_t character_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  const std::size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xc0u) != 0x80) return 0;
  // The second byte decides overlong forms (E0, F0), surrogates (ED) and the top of Unicode (F4).
  const unsigned char second = byte(1);
  const bool outside = (lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f) ||
                       (lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second > 0x8f);
  return outside ? 0 : length;
}

}  // namespace

bool is_valid_utf8(std::string_view text) {
  while (!text.empty()) {
    std::uint64_t eight = 0;
    if (text.size() >= sizeof(eight)) {  // eight ASCII characters at once
      std::memcpy(&eight, text.data(), sizeof(eight));
      if ((eight & 0x8080808080808080u) == 0) {
        text.remove_prefix(sizeof(eight));
        continue;
      }
    }
    const std::size_t length = character_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

namespace {

// Hands documents on, or counts why not.
class Gate {
 public:
  Gate(const LineReader& reader, SkipCounts& skipped, const DocumentSink& sink)
      : reader_(reader), skipped_(skipped), sink_(sink) {}

  void give(std::string_view text, std::uint64_t offset) {
    if (text.empty())
      ++skipped_.empty;
    else if (is_valid_utf8(text))
      sink_({text, offset});
    else
      skip(skipped_.invalid_utf8, offset, "not UTF-8");
  }
  void bad_json(std::uint64_t offset, const std::string& why) {
    skip(skipped_.bad_json, offset, why);
  }
  void invalid_utf8(std::uint64_t offset) { skip(skipped_.invalid_utf8, offset, "not UTF-8"); }
  void too_long(std::uint64_t offset, const std::string& why) {
    skip(skipped_.too_long, offset, why);
  }

 private:
  void skip(std::uint64_t& count, std::uint64_t offset, const std::string& why) {
    ++count;
    if (skipped_.first.empty())
      skipped_.first = reader_.name() + ": document at byte " + std::to_string(offset) + ": " + why;
  }

  const LineReader& reader_;
  SkipCounts& skipped_;
  const DocumentSink& sink_;
};

// `in_the_middle`: the reader stands three bytes before range.begin, enough to see whether the line
// before the first whole one is empty; what comes first is the tail of a line.
void read_plain(LineReader& reader, ByteRange range, bool in_the_middle, std::size_t longest,
                Gate& gate) {
  if (in_the_middle && !reader.skip_line(range.end)) return;
  std::string line, document;
  bool inside = in_the_middle;  // a document
  bool owned = false;           // it begins in the range
  bool fits = true;             // so far
  std::uint64_t begin = 0;
  const auto finish = [&] {
    if (owned && fits)
      gate.give(document, begin);
    else if (owned)
      gate.too_long(begin, "longer than " + std::to_string(longest) + " bytes to its empty line");
    inside = owned = false;
  };
  for (;;) {
    const auto found = reader.next_within(longest, line);
    if (found == LineReader::Found::end) return finish();
    if (found == LineReader::Found::line && line.empty()) {
      finish();
      continue;
    }
    if (!inside) {
      begin = reader.line_begin();
      owned = begin >= range.begin && begin < range.end;
      inside = fits = true;
      document.clear();
    }
    if (!owned && reader.line_begin() >= range.end) return;
    if (!owned) continue;
    const std::size_t newline = document.empty() ? 0 : 1;
    fits = fits && found == LineReader::Found::line &&
           document.size() + newline + line.size() <= longest;
    if (fits) document.append(newline, '\n').append(line);
  }
}

void read_jsonl(LineReader& reader, ByteRange range, bool in_the_middle,
                const DocumentFormat& format, Gate& gate) {
  if (in_the_middle && !reader.skip_line(range.end)) return;
  for (std::string line;;) {
    const auto found = reader.next_within(format.longest, line);
    const std::uint64_t begin = reader.line_begin();
    if (found == LineReader::Found::end || begin >= range.end) return;
    if (begin < range.begin) continue;
    if (found == LineReader::Found::too_long) {
      gate.too_long(begin, "longer than " + std::to_string(format.longest) + " bytes");
      continue;
    }
    if (line.empty()) continue;
    if (!is_valid_utf8(line)) {
      gate.invalid_utf8(begin);
      continue;
    }
    const auto object = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!object.is_object()) {
      gate.bad_json(begin, "not a JSON object");
      continue;
    }
    const auto value = object.find(format.json_field);
    if (value == object.end() || !value->is_string())
      gate.bad_json(begin, "no text field \"" + format.json_field + "\"");
    else
      gate.give(value->get_ref<const std::string&>(), begin);
  }
}

}  // namespace

void read_documents(LineReader& reader, const DocumentFormat& format, SkipCounts& skipped,
                    const DocumentSink& sink) {
  Gate gate(reader, skipped, sink);
  if (format.format == TextFormat::plain)
    read_plain(reader, {}, false, format.longest, gate);
  else
    read_jsonl(reader, {}, false, format, gate);
}

void read_documents(const std::filesystem::path& path, ByteRange range,
                    const DocumentFormat& format, SkipCounts& skipped, const DocumentSink& sink) {
  constexpr std::uint64_t lead = 3, mark = 3;  // a part of a byte order mark would be text
  const std::uint64_t start = range.begin >= lead + mark ? range.begin - lead : 0;
  LineReader reader(path, start);
  Gate gate(reader, skipped, sink);
  if (format.format == TextFormat::plain)
    read_plain(reader, range, start > 0, format.longest, gate);
  else
    read_jsonl(reader, range, start > 0, format, gate);
}

}  // namespace demist::data
