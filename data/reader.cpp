// SPDX-License-Identifier: Apache-2.0
#include "data/reader.hpp"

#include <cstring>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/error.hpp"
#include "data/byte_source.hpp"

namespace demist::data {

void SkipCounts::add(const SkipCounts& later) {
  invalid_utf8 += later.invalid_utf8;
  bad_json += later.bad_json;
  empty += later.empty;
  if (first.empty()) first = later.first;
}

struct LineReader::Impl {
  std::string name;
  std::unique_ptr<ByteSource> source;
  std::vector<char> buffer;
  std::size_t position = 0, filled = 0;  // of the buffer
  std::uint64_t line_begin = 0, next_begin = 0;

  bool refill() {
    position = 0;
    filled = source->read(buffer);
    return filled > 0;
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

bool LineReader::next(std::string& line) {
  Impl& in = *impl_;
  line.clear();
  in.line_begin = in.next_begin;
  bool ended = false;
  while (!ended && (in.position < in.filled || in.refill())) {
    const char* begin = in.buffer.data() + in.position;
    const std::size_t available = in.filled - in.position;
    const auto* newline = static_cast<const char*>(std::memchr(begin, '\n', available));
    ended = newline != nullptr;
    const std::size_t length = ended ? static_cast<std::size_t>(newline - begin) : available;
    line.append(begin, length);
    in.position += length + (ended ? 1 : 0);
  }
  in.next_begin += line.size() + (ended ? 1 : 0);
  if (!ended && line.empty()) return false;
  if (!line.empty() && line.back() == '\r') line.pop_back();
  if (in.line_begin == 0 && line.starts_with("\xEF\xBB\xBF")) line.erase(0, 3);
  return true;
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
// before the first whole one is empty; what it reads first is the tail of a line.
void read_plain(LineReader& reader, ByteRange range, bool in_the_middle, Gate& gate) {
  std::string line, document;
  bool inside = in_the_middle && reader.next(line);  // a document
  bool owned = false;                                // it begins in the range
  std::uint64_t begin = 0;
  while (reader.next(line)) {
    if (line.empty()) {
      if (owned) gate.give(document, begin);
      inside = owned = false;
      continue;
    }
    if (!inside) {
      begin = reader.line_begin();
      owned = begin >= range.begin && begin < range.end;
      inside = true;
      document.clear();
    }
    if (!owned && reader.line_begin() >= range.end) return;
    if (!owned) continue;
    if (!document.empty()) document += '\n';
    document += line;
  }
  if (owned) gate.give(document, begin);
}

void read_jsonl(LineReader& reader, ByteRange range, const std::string& field, Gate& gate) {
  for (std::string line; reader.next(line);) {
    const std::uint64_t begin = reader.line_begin();
    if (begin >= range.end) return;
    if (begin < range.begin || line.empty()) continue;
    if (!is_valid_utf8(line)) {
      gate.invalid_utf8(begin);
      continue;
    }
    const auto object = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!object.is_object()) {
      gate.bad_json(begin, "not a JSON object");
      continue;
    }
    const auto value = object.find(field);
    if (value == object.end() || !value->is_string())
      gate.bad_json(begin, "no text field \"" + field + "\"");
    else
      gate.give(value->get_ref<const std::string&>(), begin);
  }
}

}  // namespace

void read_documents(LineReader& reader, const DocumentFormat& format, SkipCounts& skipped,
                    const DocumentSink& sink) {
  Gate gate(reader, skipped, sink);
  if (format.format == TextFormat::plain)
    read_plain(reader, {}, false, gate);
  else
    read_jsonl(reader, {}, format.json_field, gate);
}

void read_documents(const std::filesystem::path& path, ByteRange range,
                    const DocumentFormat& format, SkipCounts& skipped, const DocumentSink& sink) {
  constexpr std::uint64_t lead = 3, mark = 3;  // a part of a byte order mark would be text
  const std::uint64_t start = range.begin >= lead + mark ? range.begin - lead : 0;
  LineReader reader(path, start);
  Gate gate(reader, skipped, sink);
  if (format.format == TextFormat::plain)
    read_plain(reader, range, start > 0, gate);
  else
    read_jsonl(reader, range, format.json_field, gate);
}

}  // namespace demist::data
