// A folder of shards and the manifest that makes it a corpus: docs/formats/tokens.md.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/mpi.hpp"
#include "data/reader.hpp"
#include "data/shard.hpp"
#include "data/tokenizer.hpp"

namespace demist::data {

struct CorpusInput {
  std::filesystem::path path;
  std::string language = "und";  // BCP 47
  DocumentFormat format;
};

// Whether `tag` has the form of a BCP 47 tag such as en or pt-BR.
inline bool is_language_tag(std::string_view tag) {
  return !tag.empty() &&
         std::ranges::all_of(tag, [](unsigned char c) { return std::isalnum(c) != 0 || c == '-'; });
}

struct CorpusBuild {
  std::string name;
  std::vector<CorpusInput> inputs;
  std::filesystem::path tokenizer;
  std::filesystem::path output;
  std::uint64_t range_bytes = 16u << 20;  // input bytes of one numbered task = one shard's worth
  double max_invalid_fraction = 0.01;     // more skipped documents than this is an error
};

struct CorpusSummary {
  std::uint64_t shards = 0, documents = 0, tokens = 0, input_bytes = 0;
  std::uint64_t empty_inputs = 0;  // files without a byte, left out
  std::uint64_t kept_ranges = 0;   // found finished from an earlier, interrupted build
  SkipCounts skipped;
  bool already_done = false;
};

// Collective. Rank 0 deals numbered input ranges; the result is bit-identical for any number of
// ranks and after a kill in the middle (finished shards are kept). The manifest comes last. A
// corpus whose manifest matches this build is verified and left alone, or built again when it is
// damaged; a folder that holds another corpus is refused. Shows progress with rate and ETA on rank
// 0. "-" is rank 0's standard input.
CorpusSummary build_corpus(const mpi::Comm& comm, const CorpusBuild& build);

// An open corpus: the manifest and its shards, checked against each other. Throws DataError.
class Corpus {
 public:
  explicit Corpus(const std::filesystem::path& folder, ShardIo io = ShardIo::automatic);
  const std::string& name() const { return name_; }
  const std::string& tokenizer_hash() const { return tokenizer_hash_; }
  std::int64_t vocab_size() const { return vocab_size_; }
  // SHA-256 of the manifest: a run is bound to it.
  const std::string& hash() const { return hash_; }
  // Sorted; every shard has this same list, so a document's language is an index into it.
  const std::vector<std::string>& languages() const { return languages_; }
  std::uint64_t n_tokens() const { return n_tokens_; }
  const std::vector<Shard>& shards() const { return shards_; }
  // Throws DataError unless the corpus was encoded with this tokenizer.
  void require_tokenizer(const Tokenizer& tokenizer) const;

 private:
  std::filesystem::path folder_;
  std::string name_, tokenizer_hash_, hash_;
  std::int64_t vocab_size_ = 0;
  std::uint64_t n_tokens_ = 0;
  std::vector<std::string> languages_;
  std::vector<Shard> shards_;
};

// The manifest, or the first shard, that is absent or has not the size it should have; no content
// is read. Throws DataError when the manifest is damaged.
std::optional<std::filesystem::path> missing_part(const std::filesystem::path& folder);
void verify_corpus(const std::filesystem::path& folder);  // everything; throws on the first damage

}  // namespace demist::data
