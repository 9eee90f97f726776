// The columns of a micro-batch that hold no noise: positions and attention ranges.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "data/micro_batch.hpp"

namespace demist::data {

// Rows of the position table: the k-th token (from 0) uses row 2 + k, padding row 1 (method, 1.2).
constexpr std::int32_t kPadPosition = 1, kFirstPosition = 2;

// A batch of padding that attends to nothing, without targets.
MicroBatch blank_micro_batch(std::int64_t step, std::int32_t index, std::int64_t rows,
                             std::int64_t cols);

inline std::span<std::int32_t> row_ids(MicroBatch& batch, std::int64_t row) {
  return std::span(batch.ids).subspan(static_cast<std::size_t>(row * batch.cols),
                                      static_cast<std::size_t>(batch.cols));
}

// The row's first `length` columns are one sequence. Padding queries see it too: their output is
// never read, and a uniform range keeps kernels free of special cases.
void lay_out_sequence(MicroBatch& batch, std::int64_t row, std::int64_t length);

// A full row of several documents: positions restart and attention ends at each border. borders:
// document offsets of the shard; begin: the shard's token in column 1 (column 0 is <s>).
void lay_out_documents(MicroBatch& batch, std::int64_t row, std::uint64_t begin,
                       std::span<const std::uint64_t> borders);

// Row `to` becomes a copy of row `from`: ids, positions and ranges.
void copy_row(MicroBatch& batch, std::int64_t from, std::int64_t to);

}  // namespace demist::data
