// Random tokens in the shape of real batches, for benchmarks of training.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "core/philox.hpp"
#include "data/source.hpp"

namespace demist::bench {

// Full rows; a fixed share of positions, chosen at random, are targets.
class RandomRows final : public data::Source {
 public:
  RandomRows(std::int64_t vocab, std::int32_t micro_batches, std::int64_t rows, std::int64_t cols)
      : vocab_(vocab), micro_batches_(micro_batches), rows_(rows), cols_(cols) {}
  std::int32_t micro_batches() const override { return micro_batches_; }
  std::int64_t max_tokens() const override { return rows_ * cols_; }
  std::int64_t max_targets() const override { return max_tokens() * 15 / 100; }

  data::MicroBatch make(std::int64_t step, std::int32_t index) const override {
    const std::int64_t batch = step * micro_batches_ + index;
    const std::uint64_t key = stream_key(1, "bench", static_cast<std::uint64_t>(batch));
    const std::int64_t n = max_tokens(), m = max_targets();
    data::MicroBatch b;
    b.step = step;
    b.rows = rows_;
    b.cols = cols_;
    std::vector<std::pair<std::uint32_t, std::int32_t>> order;
    for (std::int64_t i = 0; i < n; ++i) {
      const auto words = draw(key, static_cast<std::uint64_t>(i), 0);
      b.ids.push_back(static_cast<std::int32_t>(
          5 + uniform_int(words, static_cast<std::uint64_t>(vocab_ - 5))));
      b.positions.push_back(static_cast<std::int32_t>(i % cols_ + 2));
      order.emplace_back(words.v[0], static_cast<std::int32_t>(i));
    }
    b.key_begin.assign(static_cast<std::size_t>(n), 0);
    b.key_end.assign(static_cast<std::size_t>(n), static_cast<std::int32_t>(cols_));
    for (std::int64_t r = 0; r < rows_; ++r)
      b.sample.push_back(static_cast<std::uint64_t>(batch * rows_ + r));
    std::sort(order.begin(), order.end());
    for (std::int64_t i = 0; i < m; ++i)
      b.target_row.push_back(order[static_cast<std::size_t>(i)].second);
    std::sort(b.target_row.begin(), b.target_row.end());
    for (const std::int32_t row : b.target_row) {
      b.target_id.push_back(b.ids[static_cast<std::size_t>(row)]);
      b.ids[static_cast<std::size_t>(row)] = 4;
    }
    b.weight.assign(static_cast<std::size_t>(m), 1);
    b.smooth.assign(static_cast<std::size_t>(m), 0);
    b.normalizer = m * micro_batches_;
    b.real_tokens = n;
    return b;
  }

 private:
  std::int64_t vocab_;
  std::int32_t micro_batches_;
  std::int64_t rows_, cols_;
};

}  // namespace demist::bench
