// Documents out of text, JSONL, their gzip and zstd forms, and standard input.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <string_view>

namespace demist::data {

// Bytes of the longest line, and of the longest document, newlines inside it included: a line
// without end, or an archive that expands to one, must not fill the memory. Longer than any book;
// to encode so long a document takes about 1 GB.
inline constexpr std::size_t kLongestText = 16u << 20;

// Input that was left out. `first` says where the first invalid one stood and what was wrong.
struct SkipCounts {
  std::uint64_t invalid_utf8 = 0, bad_json = 0, too_long = 0, empty = 0;
  std::string first;
  std::uint64_t invalid() const { return invalid_utf8 + bad_json + too_long; }
  void add(const SkipCounts& later);
};

// A line source over one file ("-" is stdin); decompresses by content (magic bytes), not by name.
// A byte order mark and carriage returns before newlines are taken off.
class LineReader {
 public:
  // `begin` > 0 starts in the middle of a file that is not compressed.
  explicit LineReader(const std::filesystem::path& path, std::uint64_t begin = 0);
  LineReader(LineReader&&) noexcept;
  ~LineReader();
  // False at the end. The line has no newline. Throws DataError on a damaged stream, and on a line
  // of more than kLongestText bytes.
  bool next(std::string& line);
  enum class Found { end, line, too_long };
  // For callers that go on after a line of more than `longest` bytes (as stored, without its
  // newline): it is read to its end, and `line` holds some of it.
  Found next_within(std::size_t longest, std::string& line);
  // Skips to where a line begins. False, and perhaps inside a line, when none begins before byte
  // `end`.
  bool skip_line(std::uint64_t end);
  std::uint64_t line_begin() const;  // byte of the decompressed text where the last line began
  std::uint64_t bytes_read() const;  // of the (compressed) file, for progress
  const std::string& name() const;   // the path, or "standard input"

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF.
bool is_valid_utf8(std::string_view text);

// One document: its paragraphs or sentences, one a line.
struct Document {
  std::string_view text;
  std::uint64_t offset = 0;  // byte of the decompressed input where it begins
};
using DocumentSink = std::function<void(const Document& document)>;
enum class TextFormat { plain, jsonl };  // plain: an empty line ends a document
struct DocumentFormat {
  TextFormat format = TextFormat::plain;
  std::string json_field = "text";
  std::size_t longest = kLongestText;  // bytes of a line, and of a document
};
// Documents that are not UTF-8, too long or, in JSONL, not an object with that field, are counted,
// not given.
void read_documents(LineReader& reader, const DocumentFormat& format, SkipCounts& skipped,
                    const DocumentSink& sink);

// Bytes [begin, end) of a file. A range owns the documents that begin in it, so any cut of a file
// into ranges gives every document exactly once.
struct ByteRange {
  std::uint64_t begin = 0;
  std::uint64_t end = std::numeric_limits<std::uint64_t>::max();
};
void read_documents(const std::filesystem::path& path, ByteRange range,
                    const DocumentFormat& format, SkipCounts& skipped, const DocumentSink& sink);

}  // namespace demist::data
