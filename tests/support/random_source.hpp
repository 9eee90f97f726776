// A Source of random sequences, padding and targets included: training tests without any corpus.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include "core/philox.hpp"
#include "data/source.hpp"

namespace demist::test {

// Rows of random length in [cols / 2, cols], or all of `cols`; each real token is a target with
// probability 0.3. `rdm`: weights differ per token and smoothing is on, as in diffusion; else MLM's
// ones.
class RandomSource final : public data::Source {
 public:
  RandomSource(std::int32_t vocab, std::int32_t micro_batches, bool rdm, std::int64_t rows = 4,
               std::int64_t cols = 24, bool whole = false)
      : vocab_(vocab),
        micro_batches_(micro_batches),
        rdm_(rdm),
        rows_(rows),
        cols_(cols),
        whole_(whole) {}

  // From `step` on, every weight is multiplied by `factor`: gradients that outgrow their scales.
  void amplify(std::int64_t step, float factor) {
    loud_from_ = step;
    factor_ = factor;
  }

  std::int32_t micro_batches() const override { return micro_batches_; }
  std::int64_t max_tokens() const override { return rows_ * cols_; }
  std::int64_t max_rows() const override { return whole_ ? rows_ : max_tokens(); }
  std::int64_t max_targets() const override { return rows_ * cols_; }
  std::int64_t whole_columns() const override { return whole_ ? cols_ : 0; }

  data::MicroBatch make(std::int64_t step, std::int32_t index) const override {
    const std::uint64_t key = stream_key(7, "random source", static_cast<std::uint64_t>(step));
    data::MicroBatch b;
    b.step = step;
    b.index = index;
    b.rows = rows_;
    b.cols = cols_;
    for (std::int64_t r = 0; r < rows_; ++r) {
      b.sample.push_back(static_cast<std::uint64_t>((step * micro_batches_ + index) * rows_ + r));
      const auto words = draw(key, b.sample.back(), 1000000);
      const auto some = static_cast<std::int32_t>(
          cols_ / 2 +
          static_cast<std::int64_t>(uniform_int(words, static_cast<std::uint64_t>(cols_ / 2 + 1))));
      const std::int32_t length = whole_ ? static_cast<std::int32_t>(cols_) : some;
      for (std::int32_t c = 0; c < cols_; ++c) add_token(b, key, c, length);
    }
    if (step >= loud_from_)
      for (float& w : b.weight) w *= factor_;
    b.normalizer = rdm_ ? 1 : static_cast<std::int64_t>(b.target_id.size());
    return b;
  }

 private:
  void add_token(data::MicroBatch& b, std::uint64_t key, std::int32_t c,
                 std::int32_t length) const {
    const auto words = draw(key, b.sample.back(), static_cast<std::uint32_t>(c));
    const bool real = c < length;
    const auto id =
        static_cast<std::int32_t>(4 + uniform_int(words, static_cast<std::uint64_t>(vocab_ - 4)));
    if (real && uniform(words) < 0.3) {
      b.target_row.push_back(static_cast<std::int32_t>(b.ids.size()));
      b.target_id.push_back(4 + id % 7);  // learnable: seven frequent answers
      b.weight.push_back(rdm_ ? 0.1f + static_cast<float>(c % 5) * 0.3f : 1.0f);
      b.smooth.push_back(rdm_ ? 0.05f : 0.0f);
    }
    b.ids.push_back(real ? id : 1);
    b.positions.push_back(real ? c + 2 : 1);
    b.key_begin.push_back(0);
    b.key_end.push_back(length);
    b.real_tokens += real ? 1 : 0;
  }

  std::int32_t vocab_, micro_batches_;
  bool rdm_;
  std::int64_t rows_, cols_;
  bool whole_;
  std::int64_t loud_from_ = std::numeric_limits<std::int64_t>::max();
  float factor_ = 1;
};

}  // namespace demist::test
