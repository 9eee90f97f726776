// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/isa/kernels.hpp"
#include "kernels/cpu/isa/vec.hpp"

namespace demist::cpu::DEMIST_ISA {
namespace {

template <class T>
void embed_row(T* x, const T* word, const T* position, const T* type, std::int64_t d) {
  for_lanes(d, [&](std::int64_t i, auto count) {
    Vec v = word ? load(word + i, count) : Vec{};
    if (position) v += load(position + i, count) + load(type + i, count);
    store(x + i, v, count);
  });
}

template <class T>
void embed_rows(const TensorView& x, const Embedding& embedding, RowRange rows) {
  const T* type = embedding.word_only ? nullptr : row<T>(embedding.type, 0);
  for (std::int64_t t = rows.begin; t < rows.end; ++t) {
    const std::int64_t id = embedding.ids[t] - embedding.word_begin;
    const bool here = id >= 0 && id < embedding.word.rows;
    const T* word = here ? row<T>(embedding.word, id) : nullptr;
    const T* position =
        embedding.word_only ? nullptr : row<T>(embedding.position, embedding.positions[t]);
    embed_row(row<T>(x, t), word, position, type, x.cols);
  }
}

// out[0, n) += the rows that row_at(0 .. row_count) points to, in order; sums stay in registers.
template <class RowAt>
[[gnu::always_inline]] inline void add_columns(float* out, std::int64_t n, std::int64_t row_count,
                                               RowAt&& row_at) {
  constexpr int kStrip = 8;  // vectors; a strip of bf16 is a few cache lines a row
  std::int64_t i = 0;
  for (; i + kStrip * kLanes <= n; i += kStrip * kLanes) {
    Vec sum[kStrip];
    for (int k = 0; k < kStrip; ++k) sum[k] = load(out + i + k * kLanes);
    for (std::int64_t r = 0; r < row_count; ++r) {
      const auto* x = row_at(r) + i;
      for (int k = 0; k < kStrip; ++k) sum[k] += load(x + k * kLanes);
    }
    for (int k = 0; k < kStrip; ++k) store(out + i + k * kLanes, sum[k]);
  }
  const std::int64_t rest = i;
  for_lanes(n - rest, [&](std::int64_t j, auto count) {
    Vec sum = load(out + rest + j, count);
    for (std::int64_t r = 0; r < row_count; ++r) sum += load(row_at(r) + rest + j, count);
    store(out + rest + j, sum, count);
  });
}

template <class T>
void add_listed_rows(float* out, const ConstTensorView& x, const std::int32_t* rows,
                     std::int64_t row_count, std::int64_t column, std::int64_t count) {
  add_columns(out, count, row_count, [&](std::int64_t r) { return row<T>(x, rows[r]) + column; });
}

template <class T>
void add_consecutive_rows(float* out, const ConstTensorView& x, RowRange rows) {
  add_columns(out, x.cols, rows.end - rows.begin,
              [&](std::int64_t r) { return row<T>(x, rows.begin + r); });
}

}  // namespace

void embed_forward(TensorView x, const Embedding& embedding, RowRange rows) {
  if (x.dtype == DType::bf16)
    embed_rows<bf16>(x, embedding, rows);
  else
    embed_rows<float>(x, embedding, rows);
}

void add_rows(float* out, ConstTensorView x, const std::int32_t* rows, std::int64_t row_count,
              std::int64_t column, std::int64_t count) {
  if (x.dtype == DType::bf16)
    add_listed_rows<bf16>(out, x, rows, row_count, column, count);
  else
    add_listed_rows<float>(out, x, rows, row_count, column, count);
}

void column_sum(float* out, ConstTensorView x, RowRange rows) {
  std::memset(out, 0, static_cast<std::size_t>(x.cols) * sizeof(float));
  if (x.dtype == DType::bf16)
    add_consecutive_rows<bf16>(out, x, rows);
  else
    add_consecutive_rows<float>(out, x, rows);
}

}  // namespace demist::cpu::DEMIST_ISA
