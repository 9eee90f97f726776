// corpus.json, the list that makes a folder of shards a corpus: docs/formats/tokens.md.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "data/reader.hpp"

namespace demist::data {

inline constexpr const char* kManifestName = "corpus.json";
inline constexpr const char* kStateFolder = ".build";  // until a build has written the manifest

struct ManifestShard {
  std::string file;
  std::uint64_t bytes = 0, tokens = 0, documents = 0;
  std::string hash;  // Shard::hash()
};

struct ManifestInput {
  std::string name, language, format;
  std::uint64_t bytes = 0, documents = 0;
  SkipCounts skipped;
};

struct Manifest {
  std::string name, tokenizer_hash;
  std::int64_t vocab_size = 0;
  std::vector<std::string> languages;
  std::vector<ManifestInput> inputs;
  std::vector<ManifestShard> shards;
  std::uint64_t tokens() const;
  std::uint64_t documents() const;
};

std::string to_json(const Manifest& manifest);
// Throws DataError naming `path`.
Manifest parse_manifest(const std::string& text, const std::filesystem::path& path);

// What one numbered input range came to. Kept on disk until the manifest is written, so that an
// interrupted build can go on; `build_id` tells which build.
struct RangeResult {
  std::string build_id;
  std::uint64_t range = 0, input = 0, input_bytes = 0;
  SkipCounts skipped;
  std::vector<ManifestShard> shards;
};
std::string to_json(const RangeResult& result);
RangeResult parse_range_result(const std::string& text, const std::filesystem::path& path);

}  // namespace demist::data
