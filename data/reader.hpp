// Documents out of text, JSONL, their gzip and zstd forms, and standard input.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace demist::data {

struct SkipCounts {
  std::uint64_t invalid_utf8 = 0, bad_json = 0, empty = 0;
};

// A line source over one file ("-" is stdin); decompresses by content (magic bytes), not by name.
class LineReader {
 public:
  explicit LineReader(const std::filesystem::path& path);
  LineReader(LineReader&&) noexcept;
  ~LineReader();
  // False at the end. The line has no newline. Throws DataError on a damaged stream.
  bool next(std::string& line);
  std::uint64_t bytes_read() const;  // of the (compressed) file, for progress

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

bool is_valid_utf8(std::string_view text);

// One document: its paragraphs or sentences, one a line.
using DocumentSink = std::function<void(std::string_view document)>;
enum class TextFormat { plain, jsonl };  // plain: an empty line ends a document
struct DocumentFormat {
  TextFormat format = TextFormat::plain;
  std::string json_field = "text";
};
void read_documents(LineReader& reader, const DocumentFormat& format, SkipCounts& skipped,
                    const DocumentSink& sink);

}  // namespace demist::data
