// A token store in memory: token i of shard s is kFirstToken + kShardStride * s + i, so that any
// block tells its place.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <numeric>
#include <utility>
#include <vector>

#include "data/token_store.hpp"

namespace demist::data {

struct MemoryShard {
  std::vector<std::uint64_t> offsets{0};
  std::vector<std::size_t> languages;  // by document
  MemoryShard& add(std::uint64_t tokens, std::size_t language) {
    offsets.push_back(offsets.back() + tokens);
    languages.push_back(language);
    return *this;
  }
};

class MemoryStore final : public TokenStore {
 public:
  static constexpr std::int32_t kShardStride = 100000;
  static constexpr std::int32_t kFirstToken = 10;
  MemoryStore(std::vector<MemoryShard> shards, std::size_t languages)
      : shards_(std::move(shards)), languages_(languages) {}
  std::size_t languages() const override { return languages_; }
  std::size_t shards() const override { return shards_.size(); }
  std::span<const std::uint64_t> document_offsets(std::size_t shard) const override {
    return shards_[shard].offsets;
  }
  std::size_t language(std::size_t shard, std::size_t document) const override {
    return shards_[shard].languages[document];
  }
  static std::int32_t token(std::size_t shard, std::uint64_t i) {
    return kFirstToken + kShardStride * static_cast<std::int32_t>(shard) +
           static_cast<std::int32_t>(i);
  }
  void read(std::size_t shard, std::uint64_t begin, std::span<std::int32_t> out) const override {
    std::iota(out.begin(), out.end(), token(shard, begin));
  }
  void prefetch(std::size_t, std::uint64_t, std::uint64_t) const override {}

 private:
  std::vector<MemoryShard> shards_;
  std::size_t languages_;
};

}  // namespace demist::data
