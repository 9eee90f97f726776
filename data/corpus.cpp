// SPDX-License-Identifier: Apache-2.0
#include "data/corpus.hpp"

#include "core/checksum.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "data/manifest.hpp"

namespace demist::data {
namespace {

Shard open_listed(const fs::path& folder, const Manifest& manifest, const ManifestShard& entry,
                  ShardIo io) {
  const fs::path path = folder / entry.file;
  const auto refuse = [&](const std::string& what) {
    throw DataError(path.string() + ": " + what + "; restore the file, or delete " +
                    folder.string() + " and build the corpus again");
  };
  if (!fs::exists(path)) refuse("is missing, and the manifest lists it");
  Shard shard(path, io);
  const ShardHeader& header = shard.header();
  if (header.tokenizer_hash != manifest.tokenizer_hash || header.vocab_size != manifest.vocab_size)
    refuse("made with another tokenizer than the manifest's");
  if (header.languages != manifest.languages) refuse("its languages differ from the manifest's");
  if (fs::file_size(path) != entry.bytes || header.n_tokens != entry.tokens ||
      header.n_documents != entry.documents)
    refuse("its size differs from the manifest's");
  if (shard.hash() != entry.hash) refuse("its content's hash differs from the manifest's");
  return shard;
}

std::string why_no_corpus(const fs::path& folder) {
  if (!fs::exists(folder)) return ": does not exist; name the folder of a corpus";
  if (!fs::is_directory(folder)) return ": is a file; name the folder of a corpus";
  if (!fs::exists(folder / kStateFolder))
    return std::string(": holds no corpus (no ") + kManifestName +
           "); name a folder that `demist corpus build` made";
  return std::string(": not a finished corpus (no ") + kManifestName +
         "); run demist corpus build again, it goes on where it stopped";
}

}  // namespace

Corpus::Corpus(const fs::path& folder, ShardIo io) : folder_(folder) {
  const fs::path path = folder / kManifestName;
  if (!fs::exists(path)) throw DataError(folder.string() + why_no_corpus(folder));
  const std::string text = read_file(path);
  const Manifest manifest = parse_manifest(text, path);
  name_ = manifest.name;
  tokenizer_hash_ = manifest.tokenizer_hash;
  hash_ = sha256_hex(text);
  vocab_size_ = manifest.vocab_size;
  n_tokens_ = manifest.tokens();
  languages_ = manifest.languages;
  shards_.reserve(manifest.shards.size());
  for (const ManifestShard& entry : manifest.shards)
    shards_.push_back(open_listed(folder, manifest, entry, io));
}

void Corpus::require_tokenizer(const Tokenizer& tokenizer) const {
  if (tokenizer.hash() == tokenizer_hash_) return;
  throw DataError(folder_.string() + ": encoded with tokenizer " + tokenizer_hash_.substr(0, 12) +
                  ", not with the given one (" + tokenizer.hash().substr(0, 12) +
                  "); give that tokenizer, or delete the folder and build the corpus again");
}

std::optional<fs::path> missing_part(const fs::path& folder) {
  const fs::path path = folder / kManifestName;
  if (!fs::exists(path)) return path;
  for (const ManifestShard& shard : parse_manifest(read_file(path), path).shards) {
    std::error_code error;
    const std::uintmax_t bytes = fs::file_size(folder / shard.file, error);
    if (error && !is_wrong_path(error.value()))
      refuse_unread(folder / shard.file, "use", error.value());
    if (bytes != shard.bytes || error) return folder / shard.file;
  }
  return std::nullopt;
}

void verify_corpus(const fs::path& folder) {
  const Corpus corpus(folder);
  for (const Shard& shard : corpus.shards()) shard.verify();
}

}  // namespace demist::data
