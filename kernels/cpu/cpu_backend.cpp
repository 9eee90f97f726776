// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu_backend.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/parallel_for.hpp"
#include "kernels/cpu/gemm.hpp"

namespace demist::cpu {
namespace {

// Elements of one piece of work: some tens of microseconds, much more than starting a thread's
// share, and little enough to share out evenly.
constexpr std::int64_t kGrain = 1 << 15;

// Pieces of a column sum. Fixed, since results may depend on shapes only.
constexpr std::int64_t kMaxPieces = 16;
constexpr std::int64_t kMinPieceRows = 16;

std::int64_t length(const auto& values) { return static_cast<std::int64_t>(values.size()); }

double scale_of(const ScaledPieces& pieces, std::int64_t i) {
  const ScaledPiece& piece = pieces.pieces[static_cast<std::size_t>(i)];
  return pieces.scale[static_cast<std::size_t>(piece.tensor)];
}

// Calls body(RowRange) for pieces of about kGrain elements.
template <class Body>
void for_rows(std::int64_t rows, std::int64_t cols, Body&& body) {
  const std::int64_t grain = std::max<std::int64_t>(1, kGrain / std::max<std::int64_t>(1, cols));
  parallel_ranges(rows, grain, [&](std::int64_t begin, std::int64_t end) {
    body(RowRange{begin, end});
  });
}

// Rows one after the other are one long row: pieces may then be cut anywhere.
template <class View>
View flattened(const View& view) {
  View flat = view;
  flat.cols = flat.ld = view.size();
  flat.rows = 1;
  return flat;
}

template <class... View>
bool contiguous(const View&... view) {
  return ((view.ld == view.cols) && ...);
}

// Calls body(piece of out, pieces of in...) on the threads, for element by element operations.
template <class Body, class... In>
void for_elements(const TensorView& out, Body&& body, const In&... in) {
  if (contiguous(out, in...)) {
    parallel_ranges(out.size(), kGrain, [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t count = end - begin;
      body(flattened(out).col_slice(begin, count), flattened(in).col_slice(begin, count)...);
    });
    return;
  }
  for_rows(out.rows, out.cols, [&](RowRange rows) {
    const std::int64_t count = rows.end - rows.begin;
    body(out.row_slice(rows.begin, count), in.row_slice(rows.begin, count)...);
  });
}

template <class View>
auto* row_bytes(const View& view, std::int64_t r) {
  return view.row_slice(r, 1).data;
}

}  // namespace

void CpuBackend::copy(void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

void CpuBackend::zero(void* to, std::size_t bytes) {
  if (bytes > 0) std::memset(to, 0, bytes);
}

float* CpuBackend::scratch(std::int64_t size) {
  if (scratch_.size() < static_cast<std::size_t>(size))
    scratch_ = Buffer<float>(static_cast<std::size_t>(size));
  return scratch_.data();
}

template <class PartialSum>
std::int64_t CpuBackend::for_row_pieces(std::int64_t rows, std::int64_t width,
                                        PartialSum&& partial_sum) {
  const std::int64_t piece_rows = std::max(div_ceil(rows, kMaxPieces), kMinPieceRows);
  const std::int64_t pieces = div_ceil(rows, piece_rows);
  float* sums = scratch(pieces * width);
  parallel_ranges(rows, piece_rows, [&](std::int64_t begin, std::int64_t end) {
    partial_sum(sums + begin / piece_rows * width, RowRange{begin, end});
  });
  return pieces;
}

void CpuBackend::combine_pieces(std::span<float> out, std::int64_t pieces, std::int64_t width,
                                std::int64_t offset, Combine combine) {
  if (combine == Combine::overwrite) std::ranges::fill(out, 0.0f);
  const float* sums = scratch_.data() + offset;
  parallel_ranges(length(out), kGrain / kMaxPieces, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t piece = 0; piece < pieces; ++piece) {
      const float* sum = sums + piece * width;
      for (std::int64_t j = begin; j < end; ++j) out[static_cast<std::size_t>(j)] += sum[j];
    }
  });
}

void CpuBackend::do_gemm(TensorView out, ConstTensorView a, ConstTensorView b, Transpose transpose,
                         bool accumulate, std::span<const float> bias) {
  cpu::gemm(out, a, b, transpose, accumulate, bias);
}

void CpuBackend::do_attention_forward(TensorView out, TensorView lse, ConstTensorView qkv,
                                      const Attention& op) {
  isa_.attention_forward(out, lse, qkv, op);
}

void CpuBackend::do_attention_backward(TensorView dqkv, ConstTensorView dout, ConstTensorView qkv,
                                       ConstTensorView out, ConstTensorView lse,
                                       const Attention& op) {
  isa_.attention_backward(dqkv, dout, qkv, out, lse, op);
}

void CpuBackend::do_embed_forward(TensorView x, std::span<const std::int32_t> ids,
                                  std::span<const std::int32_t> positions, ConstTensorView word,
                                  std::int64_t word_begin, ConstTensorView position,
                                  ConstTensorView type, bool word_only) {
  const Embedding embedding{.ids = ids.data(),
                            .positions = positions.data(),
                            .word = word,
                            .position = position,
                            .type = type,
                            .word_begin = word_begin,
                            .word_only = word_only};
  for_rows(x.rows, x.cols, [&](RowRange rows) { isa_.embed_forward(x, embedding, rows); });
}

void CpuBackend::add_groups(TensorView out, std::int64_t first, ConstTensorView dx,
                            const Grouping& groups, std::int32_t skipped) {
  // By columns: one id (the mask) may own most of the tokens.
  constexpr std::int64_t kColumns = 128;
  parallel_ranges(dx.cols, kColumns, [&](std::int64_t begin, std::int64_t end) {
    for (std::size_t g = 0; g < groups.value.size(); ++g) {
      const std::int64_t r = groups.value[g] - first;
      if (groups.value[g] == skipped || r < 0 || r >= out.rows) continue;
      const std::int32_t from = groups.begin[g], count = groups.begin[g + 1] - from;
      isa_.add_rows(out.as<float>() + r * out.ld + begin, dx, groups.order.data() + from, count,
                    begin, end - begin);
    }
  });
}

void CpuBackend::do_embed_backward(TensorView dword, std::int64_t word_begin, TensorView dposition,
                                   TensorView dtype_row, ConstTensorView dx, const Grouping& ids,
                                   const Grouping& positions, std::int32_t padding_id) {
  add_groups(dword, word_begin, dx, ids, padding_id);
  for_rows(dposition.rows, dposition.cols, [&](RowRange rows) {
    for (std::int64_t r = rows.begin; r < rows.end; ++r)
      std::fill_n(static_cast<float*>(row_bytes(dposition, r)), dposition.cols, 0.0f);
  });
  add_groups(dposition, 0, dx, positions, padding_id);
  do_column_sum({dtype_row.as<float>(), static_cast<std::size_t>(dtype_row.cols)}, dx);
}

void CpuBackend::do_bias_gelu_forward(TensorView out, ConstTensorView pre,
                                      std::span<const float> bias) {
  for_rows(pre.rows, pre.cols,
           [&](RowRange rows) { isa_.bias_gelu_forward(out, pre, bias.data(), rows); });
}

void CpuBackend::do_bias_gelu_backward(TensorView dpre, std::span<float> dbias,
                                       ConstTensorView dout, ConstTensorView pre,
                                       std::span<const float> bias) {
  const std::int64_t pieces = for_row_pieces(pre.rows, pre.cols, [&](float* sums, RowRange rows) {
    isa_.bias_gelu_backward(dpre, sums, dout, pre, bias.data(), rows);
  });
  combine_pieces(dbias, pieces, pre.cols, 0, Combine::overwrite);
}

void CpuBackend::do_add_layernorm_forward(const AddLayerNorm& op) {
  for_rows(op.x.rows, op.x.cols, [&](RowRange rows) { isa_.add_layernorm_forward(op, rows); });
}

void CpuBackend::do_add_layernorm_backward(const AddLayerNormBackward& op) {
  const std::int64_t d = op.dsum.cols;
  const std::int64_t pieces = for_row_pieces(op.dsum.rows, 3 * d, [&](float* sums, RowRange rows) {
    isa_.add_layernorm_backward(op, sums, rows);
  });
  if (op.dy) {
    combine_pieces(op.dgamma, pieces, 3 * d, 0, Combine::overwrite);
    combine_pieces(op.dbeta, pieces, 3 * d, d, Combine::overwrite);
  }
  combine_pieces(op.dbias, pieces, 3 * d, 2 * d, Combine::overwrite);
}

void CpuBackend::do_dropout(TensorView x, const Dropout& dropout, const TokenGrid& grid) {
  if (!dropout.active()) return;
  for_rows(x.rows, x.cols, [&](RowRange rows) { isa_.dropout(x, dropout, grid, rows); });
}

void CpuBackend::do_gather_rows(TensorView out, ConstTensorView x,
                                std::span<const std::int32_t> rows) {
  const std::size_t bytes = static_cast<std::size_t>(x.cols) * size_of(x.dtype);
  for_rows(out.rows, out.cols, [&](RowRange range) {
    for (std::int64_t i = range.begin; i < range.end; ++i)
      std::memcpy(row_bytes(out, i), row_bytes(x, rows[static_cast<std::size_t>(i)]), bytes);
  });
}

void CpuBackend::do_scatter_rows(TensorView out, ConstTensorView x,
                                 std::span<const std::int32_t> rows) {
  const std::size_t bytes = static_cast<std::size_t>(x.cols) * size_of(x.dtype);
  for_rows(out.rows, out.cols, [&](RowRange range) {
    for (std::int64_t r = range.begin; r < range.end; ++r) std::memset(row_bytes(out, r), 0, bytes);
  });
  for_rows(x.rows, x.cols, [&](RowRange range) {
    for (std::int64_t i = range.begin; i < range.end; ++i)
      std::memcpy(row_bytes(out, rows[static_cast<std::size_t>(i)]), row_bytes(x, i), bytes);
  });
}

void CpuBackend::do_column_sum(std::span<float> out, ConstTensorView x) {
  const std::int64_t pieces = for_row_pieces(
      x.rows, x.cols, [&](float* sums, RowRange rows) { isa_.column_sum(sums, x, rows); });
  combine_pieces(out, pieces, x.cols, 0, Combine::overwrite);
}

void CpuBackend::do_add(TensorView out, ConstTensorView a, ConstTensorView b) {
  for_elements(out, isa_.add, a, b);
}

void CpuBackend::do_convert(TensorView out, ConstTensorView in) {
  for_elements(out, isa_.convert, in);
}

void CpuBackend::do_cross_entropy_statistics(TensorView statistics, ConstTensorView logits,
                                             std::span<const float> bias,
                                             std::span<const std::int32_t> target,
                                             const VocabularyPart& part) {
  const CrossEntropyStatistics op{.statistics = statistics,
                                  .logits = logits,
                                  .bias = bias.empty() ? nullptr : bias.data(),
                                  .target = target.data(),
                                  .part = part};
  for_rows(logits.rows, logits.cols,
           [&](RowRange rows) { isa_.cross_entropy_statistics(op, rows); });
}

void CpuBackend::do_cross_entropy_loss(std::span<float> lse, std::span<double> row_loss,
                                       ConstTensorView statistics, const CrossEntropyRows& rows) {
  using Column = CrossEntropyColumn;
  const std::int64_t m = length(lse), parts = m == 0 ? 0 : statistics.rows / m;
  const float* all = statistics.as<float>();
  for (std::int64_t r = 0; r < m; ++r) {
    const auto part = [&](std::int64_t p) { return all + (p * m + r) * statistics.ld; };
    float max = part(0)[Column::max], sum_exp = 0, logit_sum = 0, target_logit = 0;
    for (std::int64_t p = 1; p < parts; ++p) max = std::max(max, part(p)[Column::max]);
    for (std::int64_t p = 0; p < parts; ++p) {
      sum_exp += part(p)[Column::sum_exp] * std::exp(part(p)[Column::max] - max);
      logit_sum += part(p)[Column::logit_sum];
      target_logit += part(p)[Column::target_logit];
    }
    const auto i = static_cast<std::size_t>(r);
    lse[i] = max + std::log(sum_exp);
    const double total = lse[i];
    const double mean_logit = static_cast<double>(logit_sum) / static_cast<double>(rows.vocab_size);
    row_loss[i] = rows.weight[i] * (total - target_logit) + rows.smooth[i] * (total - mean_logit);
  }
}

void CpuBackend::do_cross_entropy_backward(TensorView dlogits, std::span<float> dbias,
                                           ConstTensorView logits, std::span<const float> bias,
                                           std::span<const float> lse, const CrossEntropyRows& rows,
                                           const VocabularyPart& part) {
  const CrossEntropyBackward op{.dlogits = dlogits,
                                .logits = logits,
                                .bias = bias.empty() ? nullptr : bias.data(),
                                .lse = lse.data(),
                                .rows = rows,
                                .part = part};
  const std::int64_t pieces = for_row_pieces(
      logits.rows, logits.cols,
      [&](float* sums, RowRange range) { isa_.cross_entropy_backward(op, sums, range); });
  combine_pieces(dbias, pieces, logits.cols, 0, Combine::add);
}

void CpuBackend::do_fixed_point_add(std::span<std::int64_t> acc, std::span<float> largest,
                                    std::span<const float> grad, const ScaledPieces& pieces) {
  constexpr std::int64_t kBlock = 4096;  // stays in the first cache between the two passes
  parallel_for(length(pieces.pieces), [&](std::int64_t i) {
    const auto at = static_cast<std::size_t>(i);
    const ScaledPiece& piece = pieces.pieces[at];
    const std::int64_t end = piece.begin + piece.count;
    for (std::int64_t begin = piece.begin; begin < end; begin += kBlock) {
      const std::int64_t count = std::min(kBlock, end - begin);
      largest[at] = larger(largest[at], isa_.max_abs(grad.data() + begin, count));
      if (!acc.empty())
        isa_.fixed_point_add(acc.data() + begin, grad.data() + begin, count, scale_of(pieces, i));
    }
  });
}

void CpuBackend::do_max_abs(std::span<float> largest, std::span<const float> values) {
  std::vector<float> found(static_cast<std::size_t>(div_ceil(length(values), kGrain)));
  parallel_ranges(length(values), kGrain, [&](std::int64_t begin, std::int64_t end) {
    found[static_cast<std::size_t>(begin / kGrain)] =
        isa_.max_abs(values.data() + begin, end - begin);
  });
  for (const float value : found) largest[0] = larger(largest[0], value);
}

void CpuBackend::do_fixed_point_to_float(std::span<float> out, std::span<const std::int64_t> acc,
                                         const ScaledPieces& pieces) {
  parallel_for(length(pieces.pieces), [&](std::int64_t i) {
    const ScaledPiece& piece = pieces.pieces[static_cast<std::size_t>(i)];
    isa_.fixed_point_to_float(out.data() + piece.begin, acc.data() + piece.begin, piece.count,
                              1 / scale_of(pieces, i));
  });
}

void CpuBackend::do_fixed_point_round(std::span<float> out, std::span<const float> grad,
                                      const ScaledPieces& pieces) {
  parallel_for(length(pieces.pieces), [&](std::int64_t i) {
    const ScaledPiece& piece = pieces.pieces[static_cast<std::size_t>(i)];
    const double scale = scale_of(pieces, i);
    isa_.fixed_point_round(out.data() + piece.begin, grad.data() + piece.begin, piece.count,
                           {scale, 1 / scale});
  });
}

void CpuBackend::do_tile_sum_squares(std::span<double> out, std::span<const float> values) {
  const std::int64_t n = length(values);
  parallel_ranges(length(out), kGrain / kNormTile, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t tile = begin; tile < end; ++tile) {
      const std::int64_t first = tile * kNormTile;
      out[static_cast<std::size_t>(tile)] =
          isa_.sum_squares(values.data() + first, std::min(kNormTile, n - first));
    }
  });
}

void CpuBackend::do_adamw(std::span<float> param, std::span<float> m, std::span<float> v,
                          std::span<const float> grad, TensorView work, const AdamW& op) {
  parallel_ranges(size(param), kGrain, [&](std::int64_t begin, std::int64_t end) {
    const AdamWRange range{.count = end - begin,
                           .param = param.data() + begin,
                           .m = m.data() + begin,
                           .v = v.data() + begin,
                           .grad = grad.data() + begin,
                           .work = work ? work.col_slice(begin, end - begin) : work};
    isa_.adamw(range, op);
  });
}

}  // namespace demist::cpu
