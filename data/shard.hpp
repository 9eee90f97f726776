// One HDF5 file of tokens, schema demist.tokens/1: docs/formats/tokens.md.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace demist::data {

struct ShardHeader {
  std::string tokenizer_hash;
  std::int64_t vocab_size = 0;
  std::string corpus_name;
  std::string source;                  // name of the input file, without folders
  std::uint64_t shard_index = 0;       // number of the input range
  std::uint64_t part = 0;              // a range that cannot be cut beforehand gives several shards
  std::vector<std::string> languages;  // of the whole corpus, sorted
  // Of the content; write_shard computes them.
  std::uint64_t n_tokens = 0;
  std::uint64_t n_documents = 0;
  std::vector<std::uint64_t> language_tokens;  // [languages]
};

// A shard's content in memory, as a builder fills it. Documents end with </s>, carry no <s>.
struct ShardContent {
  std::vector<std::uint32_t> tokens;
  std::vector<std::uint64_t> document_offsets{0};  // [documents + 1]
  std::vector<std::uint8_t> document_language;     // [documents], index into languages
  std::vector<std::uint64_t> document_source;      // [documents], byte of the input; may be empty
};

// Makes the file in memory and writes it atomically; equal arguments give equal bytes. Returns the
// content's hash: XXH3-128 (hex) over all checksums in the file.
std::string write_shard(const std::filesystem::path& path, const ShardHeader& header,
                        const ShardContent& content);

enum class ShardIo { automatic, mmap, pread };  // automatic: pread on NFS and Lustre, else mmap

// Read access without HDF5 on the hot path. Opening checks structure; a 1 MiB block's checksum and
// ids are verified when it is first touched. Thread-safe. All damage throws DataError naming file
// and bytes.
class Shard {
 public:
  explicit Shard(const std::filesystem::path& path, ShardIo io = ShardIo::automatic);
  Shard(Shard&&) noexcept;
  Shard& operator=(Shard&&) noexcept;
  ~Shard();
  const std::filesystem::path& path() const;
  const ShardHeader& header() const;
  const std::string& hash() const;                          // as write_shard returned it
  std::span<const std::uint64_t> document_offsets() const;  // [documents + 1]
  std::span<const std::uint8_t> document_language() const;  // [documents]
  std::span<const std::uint64_t> document_source() const;   // [documents], or empty
  // Tokens [begin, begin + out.size()) as model ids. REQUIRES: they lie inside the shard.
  void read(std::uint64_t begin, std::span<std::int32_t> out) const;
  void prefetch(std::uint64_t begin, std::uint64_t count) const;
  void verify() const;  // every block, every id, and </s> at the end of every document

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace demist::data
