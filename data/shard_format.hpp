// Names and sizes of schema demist.tokens/1, shared by the shard's writer and reader.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace demist::data::shard_format {

inline constexpr const char* kFormat = "demist.tokens";
inline constexpr std::uint64_t kVersion = 1;
inline constexpr std::uint64_t kBlockBytes = 1u << 20;  // of /tokens, one checksum each
inline constexpr std::int64_t kLargestU16Vocabulary = 65536;

inline constexpr const char* kTokens = "/tokens";
inline constexpr const char* kOffsets = "/doc_offsets";
inline constexpr const char* kLanguage = "/doc_lang";
inline constexpr const char* kSource = "/doc_source";
inline constexpr const char* kLanguageTokens = "/language_tokens";
inline constexpr const char* kBlockChecksums = "/block_xxh3";
inline constexpr const char* kMetaChecksums = "/meta_xxh3";

// Everything that has a checksum in /meta_xxh3, in the order of that dataset.
struct Metadata {
  std::vector<std::uint64_t> document_offsets;
  std::vector<std::uint8_t> document_language;
  std::vector<std::uint64_t> document_source;
  std::vector<std::uint64_t> language_tokens;
  std::vector<std::uint64_t> block_checksums;
};
inline constexpr std::array kMetaNames = {kOffsets, kLanguage, kSource, kLanguageTokens,
                                          kBlockChecksums};
std::vector<std::uint64_t> checksums_of(const Metadata& metadata);  // [kMetaNames]
// XXH3-128 (hex) over /block_xxh3 followed by /meta_xxh3.
std::string content_hash(const Metadata& metadata);

}  // namespace demist::data::shard_format
