// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "core/checksum.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "core/h5.hpp"
#include "data/shard.hpp"
#include "data/shard_format.hpp"
#include "data/tokenizer.hpp"

namespace demist::data {
namespace shard_format {

std::vector<std::uint64_t> checksums_of(const Metadata& metadata) {
  const auto checksum = [](const auto& values) {
    return xxh3_64(std::as_bytes(std::span(values)));
  };
  return {checksum(metadata.document_offsets), checksum(metadata.document_language),
          checksum(metadata.document_source), checksum(metadata.language_tokens),
          checksum(metadata.block_checksums)};
}

std::string content_hash(const Metadata& metadata) {
  std::vector<std::uint64_t> all = metadata.block_checksums;
  const std::vector<std::uint64_t> meta = checksums_of(metadata);
  all.insert(all.end(), meta.begin(), meta.end());
  return xxh3_128_hex(std::as_bytes(std::span(all)));
}

}  // namespace shard_format

namespace {

using shard_format::Metadata;

void require_sound(const ShardHeader& header, const ShardContent& content) {
  const auto& offsets = content.document_offsets;
  const std::size_t documents = content.document_language.size();
  ensure(documents > 0 && offsets.size() == documents + 1, "shard: one offset more than documents");
  ensure(offsets.front() == 0 && offsets.back() == content.tokens.size() &&
             std::ranges::adjacent_find(offsets, std::ranges::greater_equal()) == offsets.end(),
         "shard: document offsets must rise from 0 to the number of tokens");
  ensure(std::ranges::all_of(content.document_language,
                             [&](std::uint8_t l) { return l < header.languages.size(); }),
         "shard: a document's language is not in the list");
  ensure(
      std::ranges::all_of(content.tokens, [&](std::uint32_t id) { return id < header.vocab_size; }),
      "shard: a token is outside the vocabulary");
  ensure(content.document_source.empty() || content.document_source.size() == documents,
         "shard: a source for every document or for none");
}

std::vector<std::uint64_t> count_by_language(const ShardHeader& header,
                                             const ShardContent& content) {
  std::vector<std::uint64_t> counts(header.languages.size());
  for (std::size_t d = 0; d < content.document_language.size(); ++d)
    counts[content.document_language[d]] +=
        content.document_offsets[d + 1] - content.document_offsets[d];
  return counts;
}

// Writes /tokens as Stored (u16 or u32) and returns its block checksums.
template <class Stored>
std::vector<std::uint64_t> write_tokens(h5::File& file, const ShardContent& content) {
  const std::vector<Stored> stored(content.tokens.begin(), content.tokens.end());
  file.write(shard_format::kTokens, stored);
  std::vector<std::uint64_t> checksums;
  for (auto rest = std::as_bytes(std::span(stored)); !rest.empty();) {
    const auto block = rest.first(std::min<std::size_t>(rest.size(), shard_format::kBlockBytes));
    checksums.push_back(xxh3_64(block));
    rest = rest.subspan(block.size());
  }
  return checksums;
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ",") + name;
  return text;
}

void write_attributes(h5::File& file, const ShardHeader& header, const ShardContent& content) {
  const auto text = [&](const char* name, const std::string& value) {
    file.set_attribute("/", name, value);
  };
  const auto number = [&](const char* name, std::int64_t value) {
    file.set_attribute("/", name, static_cast<std::uint64_t>(value));
  };
  text("format", shard_format::kFormat);
  number("version", shard_format::kVersion);
  text("tokenizer_sha256", header.tokenizer_hash);
  number("vocab_size", header.vocab_size);
  number("bos_id", SpecialIds::bos);
  number("pad_id", SpecialIds::pad);
  number("eos_id", SpecialIds::eos);
  number("unk_id", SpecialIds::unk);
  number("mask_id", header.vocab_size - 1);
  text("corpus_name", header.corpus_name);
  text("source", header.source);
  file.set_attribute("/", "shard_index", header.shard_index);
  file.set_attribute("/", "part", header.part);
  file.set_attribute("/", "n_tokens", content.tokens.size());
  file.set_attribute("/", "n_docs", content.document_language.size());
  text("languages", joined(header.languages));
}

}  // namespace

std::string write_shard(const fs::path& path, const ShardHeader& header,
                        const ShardContent& content) {
  require_sound(header, content);
  Metadata metadata{.document_offsets = content.document_offsets,
                    .document_language = content.document_language,
                    .document_source = content.document_source,
                    .language_tokens = count_by_language(header, content),
                    .block_checksums = {}};
  h5::File file = h5::File::create_in_memory(path);
  write_attributes(file, header, content);
  metadata.block_checksums = header.vocab_size <= shard_format::kLargestU16Vocabulary
                                 ? write_tokens<std::uint16_t>(file, content)
                                 : write_tokens<std::uint32_t>(file, content);
  file.write(shard_format::kOffsets, metadata.document_offsets);
  file.write(shard_format::kLanguage, metadata.document_language);
  file.write(shard_format::kSource, metadata.document_source);
  file.write(shard_format::kLanguageTokens, metadata.language_tokens);
  file.write(shard_format::kBlockChecksums, metadata.block_checksums);
  file.write(shard_format::kMetaChecksums, shard_format::checksums_of(metadata));
  file.set_attribute("/", "closed", 1);  // last: a reader refuses a file without it
  const h5::Image image = file.finish();
  const auto bytes = image.bytes();
  atomic_write(path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  return shard_format::content_hash(metadata);
}

}  // namespace demist::data
