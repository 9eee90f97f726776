// The tokens of a corpus as the packed source sees them: shards, documents, languages.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "data/corpus.hpp"

namespace demist::data {

// Thread-safe reads. A corpus implements it; tests implement it in memory.
class TokenStore {
 public:
  virtual ~TokenStore() = default;
  virtual std::size_t languages() const = 0;
  virtual std::size_t shards() const = 0;
  virtual std::span<const std::uint64_t> document_offsets(std::size_t shard) const = 0;
  virtual std::size_t language(std::size_t shard, std::size_t document) const = 0;
  virtual void read(std::size_t shard, std::uint64_t begin, std::span<std::int32_t> out) const = 0;
  virtual void prefetch(std::size_t shard, std::uint64_t begin, std::uint64_t count) const = 0;
};

std::unique_ptr<TokenStore> open_token_store(std::shared_ptr<const Corpus> corpus);

}  // namespace demist::data
