// SPDX-License-Identifier: Apache-2.0
#include "data/block_order.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/error.hpp"
#include "core/philox.hpp"
#include "data/permutation.hpp"

namespace demist::data {

BlockIndex::BlockIndex(const TokenStore& store, std::uint64_t block_tokens)
    : block_tokens_(block_tokens), runs_(store.languages()), counts_(store.languages(), 0) {
  for (std::size_t shard = 0; shard < store.shards(); ++shard) {
    const auto offsets = store.document_offsets(shard);
    const std::uint64_t blocks = offsets.empty() ? 0 : offsets.back() / block_tokens;
    // Blocks that start inside document d are [first, next).
    std::uint64_t first = 0;
    for (std::size_t d = 0; d + 1 < offsets.size() && first < blocks; ++d) {
      const std::uint64_t starts_before = (offsets[d + 1] + block_tokens - 1) / block_tokens;
      const std::uint64_t next = std::min(starts_before, blocks);
      if (next > first) append(store.language(shard, d), shard, first, next - first);
      first = std::max(first, next);
    }
  }
}

void BlockIndex::append(std::size_t language, std::size_t shard, std::uint64_t first,
                        std::uint64_t count) {
  auto& runs = runs_.at(language);
  std::uint64_t& total = counts_[language];
  const bool continues = !runs.empty() && runs.back().shard == shard &&
                         runs.back().first + (total - runs.back().before) == first;
  if (!continues) runs.push_back({total, shard, first});
  total += count;
}

BlockPlace BlockIndex::place(std::size_t language, std::uint64_t block) const {
  const auto& runs = runs_[language];
  ensure(block < counts_[language], "BlockIndex: block out of range");
  const auto after =
      std::upper_bound(runs.begin(), runs.end(), block,
                       [](std::uint64_t value, const Run& run) { return value < run.before; });
  const Run& run = *(after - 1);
  return {run.shard, (run.first + (block - run.before)) * block_tokens_};
}

std::vector<std::uint64_t> language_draws(const std::vector<std::uint64_t>& blocks, double alpha) {
  const auto total =
      static_cast<double>(std::accumulate(blocks.begin(), blocks.end(), std::uint64_t{0}));
  std::vector<double> weight;
  weight.reserve(blocks.size());
  for (const std::uint64_t n : blocks)
    weight.push_back(n == 0 ? 0.0 : std::pow(static_cast<double>(n) / total, alpha));
  const double sum = std::accumulate(weight.begin(), weight.end(), 0.0);
  std::vector<std::uint64_t> draws(blocks.size(), 0);
  for (std::size_t l = 0; l < blocks.size(); ++l)
    if (blocks[l] > 0)
      draws[l] = static_cast<std::uint64_t>(std::max(1.0, std::round(weight[l] / sum * total)));
  return draws;
}

BlockOrder::BlockOrder(std::vector<std::uint64_t> blocks, const Options& options)
    : blocks_(std::move(blocks)),
      languages_(language_draws(blocks_, options.language_alpha)),
      window_(options.window_blocks),
      key_(stream_key(options.seed, options.stream + "/order", 0)) {}

BlockOrder::Block BlockOrder::operator()(std::uint64_t sample) const {
  const auto [language, item] = languages_(sample);
  const std::uint64_t n = blocks_[language], pass = item / n;
  const WindowPermutation order(n, window_, mix64(key_ ^ mix64(language)) ^ mix64(pass));
  return {language, order(item % n)};
}

}  // namespace demist::data
