// SPDX-License-Identifier: Apache-2.0
#include "data/corpus_range.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "core/file.hpp"

namespace demist::data {
namespace {

// Collects the documents of one range and writes them out as shards.
class ShardStream {
 public:
  ShardStream(const fs::path& folder, ShardHeader header, std::uint8_t language,
              const Tokenizer& tokenizer, RangeResult& result)
      : folder_(folder),
        header_(std::move(header)),
        language_(language),
        tokenizer_(tokenizer),
        result_(result) {}

  void add(const Document& document) {
    const std::vector<std::int32_t> ids = tokenizer_.encode(document.text);
    text_bytes_ += document.text.size();
    if (ids.empty()) {  // only characters that normalization takes away
      ++result_.skipped.empty;
      return;
    }
    content_.tokens.insert(content_.tokens.end(), ids.begin(), ids.end());
    content_.tokens.push_back(SpecialIds::eos);
    content_.document_offsets.push_back(content_.tokens.size());
    content_.document_language.push_back(language_);
    content_.document_source.push_back(document.offset);
  }
  std::uint64_t text_bytes() const { return text_bytes_; }

  void flush() {
    text_bytes_ = 0;
    if (content_.document_language.empty()) return;
    const fs::path file = shard_file(header_.shard_index, header_.part);
    const std::string hash = write_shard(folder_ / file, header_, content_);
    result_.shards.push_back({.file = file.string(),
                              .bytes = fs::file_size(folder_ / file),
                              .tokens = content_.tokens.size(),
                              .documents = content_.document_language.size(),
                              .hash = hash});
    ++header_.part;
    content_ = ShardContent{};
  }

 private:
  const fs::path& folder_;
  ShardHeader header_;
  std::uint8_t language_;
  const Tokenizer& tokenizer_;
  RangeResult& result_;
  ShardContent content_;
  std::uint64_t text_bytes_ = 0;
};

}  // namespace

RangeBuilder::RangeBuilder(const CorpusBuild& build, const BuildPlan& plan,
                           const Tokenizer& tokenizer)
    : build_(build), plan_(plan), tokenizer_(tokenizer), languages_(languages_of(build)) {}

std::optional<RangeResult> RangeBuilder::finished(const InputRange& range) const {
  const fs::path path = state_file(build_, range.number);
  if (range.pipe || !fs::exists(path)) return std::nullopt;
  try {
    RangeResult result = parse_range_result(read_file(path), path);
    if (result.build_id != plan_.id || result.range != range.number) return std::nullopt;
    for (const ManifestShard& entry : result.shards) {
      const Shard shard(build_.output / entry.file);
      if (shard.hash() != entry.hash) return std::nullopt;
      shard.verify();
    }
    return result;
  } catch (const DataError&) {
    return std::nullopt;  // damaged or gone: it is made again
  }
}

RangeResult RangeBuilder::run(const InputRange& range, const Heartbeat& heartbeat) const {
  const CorpusInput& input = build_.inputs[range.input];
  RangeResult result{.build_id = plan_.id,
                     .range = range.number,
                     .input = range.input,
                     .input_bytes = range.bytes.end - range.bytes.begin,
                     .skipped = {},
                     .shards = {}};
  ShardHeader header;
  header.tokenizer_hash = tokenizer_.hash();
  header.vocab_size = tokenizer_.vocab_size();
  header.corpus_name = build_.name;
  header.source = input.path == "-" ? "-" : input.path.filename().string();
  header.shard_index = range.number;
  header.languages = languages_;
  const auto language = std::ranges::lower_bound(languages_, input.language) - languages_.begin();
  ShardStream shards(build_.output, header, static_cast<std::uint8_t>(language), tokenizer_,
                     result);
  if (range.sequential) {
    LineReader reader(input.path);
    read_documents(reader, input.format, result.skipped, [&](const Document& document) {
      shards.add(document);
      if (shards.text_bytes() >= build_.range_bytes) shards.flush();
      heartbeat(reader.bytes_read());
    });
    result.input_bytes = reader.bytes_read();
  } else {
    read_documents(input.path, range.bytes, input.format, result.skipped,
                   [&](const Document& document) {
                     shards.add(document);
                     heartbeat(document.offset - range.bytes.begin);
                   });
  }
  shards.flush();
  atomic_write(state_file(build_, range.number), to_json(result));
  return result;
}

}  // namespace demist::data
