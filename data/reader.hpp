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

// Input that was left out. `first` says where the first invalid one stood and what was wrong.
struct SkipCounts {
  std::uint64_t invalid_utf8 = 0, bad_json = 0, empty = 0;
  std::string first;
  std::uint64_t invalid() const { return invalid_utf8 + bad_json; }
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
  // False at the end. The line has no newline. Throws DataError on a damaged stream.
  bool next(std::string& line);
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
};
// Documents that are not UTF-8 (or, in JSONL, not an object with that field) are counted, not
// given.
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
