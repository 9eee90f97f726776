// SPDX-License-Identifier: Apache-2.0
#include "data/layout.hpp"

#include <algorithm>
#include <numeric>

#include "data/tokenizer.hpp"

namespace demist::data {
namespace {

// Columns [begin, end) of a row: one attention range, positions from the start.
void lay_out_segment(MicroBatch& batch, std::int64_t row, std::int64_t begin, std::int64_t end) {
  const std::int64_t first = row * batch.cols + begin, last = row * batch.cols + end;
  std::iota(batch.positions.begin() + first, batch.positions.begin() + last, kFirstPosition);
  std::fill(batch.key_begin.begin() + first, batch.key_begin.begin() + last,
            static_cast<std::int32_t>(begin));
  std::fill(batch.key_end.begin() + first, batch.key_end.begin() + last,
            static_cast<std::int32_t>(end));
}

}  // namespace

MicroBatch blank_micro_batch(std::int64_t step, std::int32_t index, std::int64_t rows,
                             std::int64_t cols) {
  MicroBatch batch;
  batch.step = step;
  batch.index = index;
  batch.rows = rows;
  batch.cols = cols;
  const auto tokens = static_cast<std::size_t>(rows * cols);
  batch.ids.assign(tokens, SpecialIds::pad);
  batch.positions.assign(tokens, kPadPosition);
  batch.key_begin.assign(tokens, 0);
  batch.key_end.assign(tokens, 0);
  batch.sample.assign(static_cast<std::size_t>(rows), 0);
  return batch;
}

void lay_out_sequence(MicroBatch& batch, std::int64_t row, std::int64_t length) {
  lay_out_segment(batch, row, 0, length);
  std::fill(batch.key_end.begin() + row * batch.cols + length,
            batch.key_end.begin() + (row + 1) * batch.cols, static_cast<std::int32_t>(length));
}

void lay_out_documents(MicroBatch& batch, std::int64_t row, std::uint64_t begin,
                       std::span<const std::uint64_t> borders) {
  auto border = std::upper_bound(borders.begin(), borders.end(), begin);
  for (std::int64_t column = 0; column < batch.cols;) {
    std::int64_t end = batch.cols;
    if (border != borders.end() && *border - begin < static_cast<std::uint64_t>(batch.cols - 1))
      end = 1 + static_cast<std::int64_t>(*border - begin);
    lay_out_segment(batch, row, column, end);
    column = end;
    // Empty documents share a border.
    while (border != borders.end() && 1 + (*border - begin) <= static_cast<std::uint64_t>(column))
      ++border;
  }
}

void copy_row(MicroBatch& batch, std::int64_t from, std::int64_t to) {
  for (auto* plane : {&batch.ids, &batch.positions, &batch.key_begin, &batch.key_end})
    std::copy_n(plane->begin() + from * batch.cols, batch.cols, plane->begin() + to * batch.cols);
}

}  // namespace demist::data
