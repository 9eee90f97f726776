// Which block of which language is sample i of a stage: language sampling and the global order.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "data/interleave.hpp"
#include "data/token_store.hpp"

namespace demist::data {

// Where one block's corpus tokens start.
struct BlockPlace {
  std::size_t shard = 0;
  std::uint64_t begin = 0;  // token of the shard
};

// All blocks of a corpus, numbered within their language. A block belongs to the language of its
// first token, so a shard of one language costs one table row; shards are never mixed.
class BlockIndex {
 public:
  BlockIndex(const TokenStore& store, std::uint64_t block_tokens);
  const std::vector<std::uint64_t>& counts() const { return counts_; }  // blocks, by language
  BlockPlace place(std::size_t language, std::uint64_t block) const;

 private:
  // Consecutive blocks of one language in one shard.
  struct Run {
    std::uint64_t before;  // blocks of the language in earlier runs
    std::size_t shard;
    std::uint64_t first;  // block number in the shard
  };
  void append(std::size_t language, std::size_t shard, std::uint64_t first, std::uint64_t count);
  std::uint64_t block_tokens_;
  std::vector<std::vector<Run>> runs_;  // by language
  std::vector<std::uint64_t> counts_;
};

// Blocks of each language in one epoch: round(q_l * total), q_l ~ (n_l / total)^alpha (method,
// section 2.1); at least 1 where the language has any.
std::vector<std::uint64_t> language_draws(const std::vector<std::uint64_t>& blocks, double alpha);

// Sample -> (language, block). Languages are interleaved evenly; each goes through its blocks pass
// after pass, every pass a window permutation of its own. With alpha = 1 an epoch is one pass.
class BlockOrder {
 public:
  struct Block {
    std::size_t language = 0;
    std::uint64_t number = 0;
  };
  struct Options {
    double language_alpha = 1.0;
    std::uint64_t window_blocks = 4096;
    std::uint64_t seed = 0;
    std::string stream;
  };
  BlockOrder(std::vector<std::uint64_t> blocks, const Options& options);
  Block operator()(std::uint64_t sample) const;
  std::uint64_t epoch_size() const { return languages_.total(); }

 private:
  std::vector<std::uint64_t> blocks_;
  Interleave languages_;
  std::uint64_t window_, key_;
};

}  // namespace demist::data
