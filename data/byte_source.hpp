// Decompressed bytes of a file or of standard input, whatever form they are stored in.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

namespace demist::data {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // Fills a part of `out`, at least one byte; 0 only at the end. Throws DataError.
  virtual std::size_t read(std::span<char> out) = 0;
  virtual std::uint64_t bytes_read() const = 0;  // of the file as stored
};

// "-" is standard input. gzip (several members) and zstd (several frames) are told by their first
// bytes. `begin` skips bytes of a file that is not compressed.
std::unique_ptr<ByteSource> open_bytes(const std::filesystem::path& path, std::uint64_t begin);

// A regular file that is not compressed: any part of it can be read by itself.
bool is_seekable_text(const std::filesystem::path& path);

}  // namespace demist::data
