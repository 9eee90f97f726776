// SPDX-License-Identifier: Apache-2.0
#include "data/describe.hpp"

#include <algorithm>
#include <functional>
#include <sstream>

#include "core/error.hpp"
#include "core/file.hpp"
#include "data/corpus.hpp"
#include "data/manifest.hpp"
#include "data/shard.hpp"

namespace demist::data {
namespace {

void describe_languages(std::ostream& out, const std::vector<std::string>& languages,
                        const std::vector<std::uint64_t>& tokens) {
  out << "languages      ";
  for (std::size_t i = 0; i < languages.size(); ++i)
    out << (i > 0 ? ", " : "") << languages[i] << " " << tokens[i];
  out << " tokens\n";
}

std::string describe_shard(const fs::path& path) {
  const Shard shard(path);
  const ShardHeader& header = shard.header();
  std::ostringstream out;
  out << "shard          " << path.string() << "\n"
      << "corpus         " << header.corpus_name << ", range " << header.shard_index << ", part "
      << header.part << ", from " << header.source << "\n"
      << "documents      " << header.n_documents << "\n"
      << "tokens         " << header.n_tokens << ", vocabulary " << header.vocab_size << "\n";
  describe_languages(out, header.languages, header.language_tokens);
  out << "tokenizer      " << header.tokenizer_hash << "\n"
      << "content        " << shard.hash() << "\n";
  return out.str();
}

std::string describe_corpus(const fs::path& folder) {
  const Corpus corpus(folder);
  const Manifest manifest =
      parse_manifest(read_file(folder / kManifestName), folder / kManifestName);
  std::vector<std::uint64_t> tokens(corpus.languages().size());
  for (const Shard& shard : corpus.shards())
    std::ranges::transform(tokens, shard.header().language_tokens, tokens.begin(), std::plus());
  std::ostringstream out;
  out << "corpus         " << corpus.name() << " in " << folder.string() << "\n"
      << "shards         " << corpus.shards().size() << "\n"
      << "documents      " << manifest.documents() << "\n"
      << "tokens         " << corpus.n_tokens() << ", vocabulary " << corpus.vocab_size() << "\n";
  describe_languages(out, corpus.languages(), tokens);
  out << "tokenizer      " << corpus.tokenizer_hash() << "\n"
      << "hash           " << corpus.hash() << "\n";
  for (const ManifestInput& input : manifest.inputs)
    out << "input          " << input.name << " (" << input.language << ", " << input.format << ", "
        << input.bytes << " bytes): " << input.documents << " documents; skipped "
        << input.skipped.invalid_utf8 << " not UTF-8, " << input.skipped.bad_json << " bad JSON, "
        << input.skipped.empty << " empty\n";
  return out.str();
}

void show_document(std::ostream& out, const Shard& shard, std::uint64_t index,
                   std::uint64_t document, const Tokenizer& tokenizer) {
  const auto offsets = shard.document_offsets();
  std::vector<std::int32_t> ids(offsets[document + 1] - offsets[document]);
  shard.read(offsets[document], ids);
  const ShardHeader& header = shard.header();
  out << "[" << index << "] " << header.languages[shard.document_language()[document]] << ", "
      << ids.size() << " tokens, " << header.source;
  if (!shard.document_source().empty()) out << " at byte " << shard.document_source()[document];
  out << "\n" << tokenizer.decode(ids) << "\n";
}

}  // namespace

std::string describe(const fs::path& path) {
  return fs::is_directory(path) ? describe_corpus(path) : describe_shard(path);
}

std::string show_documents(const fs::path& folder, const Tokenizer& tokenizer, std::uint64_t first,
                           std::uint64_t count) {
  const Corpus corpus(folder);
  corpus.require_tokenizer(tokenizer);
  std::ostringstream out;
  std::uint64_t index = 0;  // of the document in the corpus
  for (const Shard& shard : corpus.shards())
    for (std::uint64_t d = 0; d < shard.header().n_documents; ++d, ++index)
      if (index >= first && index - first < count) show_document(out, shard, index, d, tokenizer);
  if (first >= index)
    throw DataError(folder.string() + ": there is no document " + std::to_string(first) +
                    "; the corpus has " + std::to_string(index) + ", counted from 0");
  return out.str();
}

}  // namespace demist::data
