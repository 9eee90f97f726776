// SPDX-License-Identifier: Apache-2.0
#include "data/token_store.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/error.hpp"

namespace demist::data {
namespace {

class CorpusTokens final : public TokenStore {
 public:
  explicit CorpusTokens(std::shared_ptr<const Corpus> corpus) : corpus_(std::move(corpus)) {
    for (const Shard& shard : corpus_->shards()) language_of_.push_back(languages_of(shard));
  }
  std::size_t languages() const override { return corpus_->languages().size(); }
  std::size_t shards() const override { return corpus_->shards().size(); }
  std::span<const std::uint64_t> document_offsets(std::size_t shard) const override {
    return corpus_->shards()[shard].document_offsets();
  }
  std::size_t language(std::size_t shard, std::size_t document) const override {
    return language_of_[shard].at(corpus_->shards()[shard].document_language()[document]);
  }
  void read(std::size_t shard, std::uint64_t begin, std::span<std::int32_t> out) const override {
    corpus_->shards()[shard].read(begin, out);
  }
  void prefetch(std::size_t shard, std::uint64_t begin, std::uint64_t count) const override {
    corpus_->shards()[shard].prefetch(begin, count);
  }

 private:
  // A shard numbers the languages it holds; the corpus numbers all of them.
  std::vector<std::size_t> languages_of(const Shard& shard) const {
    std::vector<std::size_t> map;
    const auto& all = corpus_->languages();
    for (const std::string& name : shard.header().languages) {
      const auto found = std::find(all.begin(), all.end(), name);
      if (found == all.end())
        throw DataError("corpus " + corpus_->name() + ": shard " +
                        std::to_string(shard.header().shard_index) + " holds language '" + name +
                        "', which the manifest lacks; rebuild the corpus");
      map.push_back(static_cast<std::size_t>(found - all.begin()));
    }
    return map;
  }

  std::shared_ptr<const Corpus> corpus_;
  std::vector<std::vector<std::size_t>> language_of_;  // [shards][the shard's own number]
};

}  // namespace

std::unique_ptr<TokenStore> open_token_store(std::shared_ptr<const Corpus> corpus) {
  return std::make_unique<CorpusTokens>(std::move(corpus));
}

}  // namespace demist::data
