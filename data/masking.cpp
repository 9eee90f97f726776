// SPDX-License-Identifier: Apache-2.0
#include "data/masking.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "core/philox.hpp"
#include "data/tokenizer.hpp"

namespace demist::data {
namespace {

// The draws of one sample: the count's u at position 0; the ranks of positions 4g..4g+3 at position
// g; the fate of a selected position at that position.
enum Draw : std::uint32_t { kCount, kRank, kFate };

// Ranks of a row's positions: 32 random bits, ties broken by position.
void draw_ranks(std::vector<std::uint64_t>& ranks, std::uint64_t key, std::uint64_t sample) {
  const auto n = static_cast<std::uint32_t>(ranks.size());
  for (std::uint32_t position = 0; position < n; position += 4) {
    const Philox4 words = draw(key, sample, position / 4, kRank);
    for (std::uint32_t i = position; i < std::min(position + 4, n); ++i)
      ranks[i] = (std::uint64_t{words.v[i - position]} << 32) | i;
  }
}

}  // namespace

MlmMasker::MlmMasker(const MlmNoise& noise, std::int32_t mask_id, std::int32_t vocab_size)
    : noise_(noise), mask_id_(mask_id), vocab_size_(vocab_size) {
  if (!(noise.mask_fraction > 0 && noise.mask_fraction <= 1))
    throw ConfigError("mask_fraction is " + std::to_string(noise.mask_fraction) +
                      "; it must be above 0 and at most 1");
  if (!(noise.keep_fraction >= 0 && noise.random_fraction >= 0 &&
        noise.keep_fraction + noise.random_fraction <= 1))
    throw ConfigError(
        "keep_fraction and random_fraction must not be negative, nor exceed 1 together");
  if (vocab_size <= SpecialIds::first_ordinary)
    throw ConfigError("vocab_size is " + std::to_string(vocab_size) +
                      "; masking needs ordinary tokens above the four specials");
}

std::int64_t MlmMasker::max_targets(std::int64_t n) const {
  // int(f n + u) for the largest u below 1.
  return std::min(n, static_cast<std::int64_t>(noise_.mask_fraction * static_cast<double>(n)) + 1);
}

std::int32_t MlmMasker::replacement(std::int32_t id, std::uint64_t key, std::uint64_t sample,
                                    std::uint32_t position) const {
  const Philox4 words = draw(key, sample, position, kFate);
  const double u = uniform(words);
  if (u < noise_.keep_fraction) return id;
  if (u >= noise_.keep_fraction + noise_.random_fraction) return mask_id_;
  const auto ordinary = static_cast<std::uint64_t>(vocab_size_ - SpecialIds::first_ordinary);
  return SpecialIds::first_ordinary + static_cast<std::int32_t>(uniform_int(words, ordinary));
}

void MlmMasker::corrupt(MicroBatch& batch, std::uint64_t key) const {
  const auto n = static_cast<std::size_t>(batch.cols);
  std::vector<std::uint64_t> ranks(n), sorted(n);
  const auto most = static_cast<std::size_t>(batch.rows * max_targets(batch.cols));
  batch.target_row.reserve(most);
  batch.target_id.reserve(most);
  for (std::int64_t row = 0; row < batch.rows; ++row) {
    const std::uint64_t sample = batch.sample[static_cast<std::size_t>(row)];
    const double u = uniform(draw(key, sample, 0, kCount));
    const auto selected =
        static_cast<std::size_t>(noise_.mask_fraction * static_cast<double>(n) + u);
    if (selected == 0) continue;
    draw_ranks(ranks, key, sample);
    std::copy(ranks.begin(), ranks.end(), sorted.begin());
    const auto last = sorted.begin() + static_cast<std::ptrdiff_t>(std::min(selected, n) - 1);
    std::nth_element(sorted.begin(), last, sorted.end());
    for (std::size_t i = 0; i < n; ++i) {
      if (ranks[i] > *last) continue;
      const auto token = static_cast<std::size_t>(row) * n + i;
      batch.target_row.push_back(static_cast<std::int32_t>(token));
      batch.target_id.push_back(batch.ids[token]);
      batch.ids[token] = replacement(batch.ids[token], key, sample, static_cast<std::uint32_t>(i));
    }
  }
  batch.weight.assign(batch.target_row.size(), 1.0f);
  batch.smooth.assign(batch.target_row.size(), 0.0f);
  batch.normalizer = static_cast<std::int64_t>(batch.target_row.size());
}

}  // namespace demist::data
