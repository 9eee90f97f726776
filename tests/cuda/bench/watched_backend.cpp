// SPDX-License-Identifier: Apache-2.0
#include "tests/cuda/bench/watched_backend.hpp"

#include <vector>

namespace demist::bench {
namespace {

double elements(const ConstTensorView& view) { return static_cast<double>(view.size()); }
double bytes(const ConstTensorView& view) {
  return elements(view) * static_cast<double>(size_of(view.dtype));
}
template <class... Views>
double bytes(const ConstTensorView& first, const Views&... rest) {
  return bytes(first) + bytes(rest...);
}
template <class T>
double count(std::span<T> values) {
  return static_cast<double>(values.size());
}

std::string sizes(const ConstTensorView& view) {
  return std::string(name_of(view.dtype)) + ' ' + std::to_string(view.rows) + 'x' +
         std::to_string(view.cols);
}
// Of one kind all vectors are shown together: a step has hundreds of lengths.
std::string vectors() { return "fp32"; }

Operation gemm(const TensorView& out, const ConstTensorView& a, const ConstTensorView& b,
               Transpose transpose, bool accumulate) {
  static constexpr const char* kNames[] = {"NN", "NT", "TN"};
  const std::int64_t k = transpose == Transpose::a ? a.rows : a.cols;
  return {.name = "gemm",
          .shape = std::string(kNames[static_cast<int>(transpose)]) + ' ' + name_of(a.dtype) +
                   " m " + std::to_string(out.rows) + " n " + std::to_string(out.cols) + " k " +
                   std::to_string(k) + " to " + name_of(out.dtype) + (accumulate ? " added" : ""),
          .bytes = bytes(a, b, out) + (accumulate ? bytes(out) : 0),
          .flops = 2 * elements(out) * static_cast<double>(k),
          .written = {out}};
}

// n * cols scores a head; `products` of them, 2 * head_dim FLOP a score each.
double score_flops(const Attention& op, int products) {
  const auto n = static_cast<double>(op.grid.tokens());
  return 2.0 * products * n * static_cast<double>(op.grid.cols * op.heads * op.head_dim);
}
// With dropout the query kernel leaves one bit a score for the key kernel.
double score_bits(const Attention& op) {
  if (!op.dropout.active()) return 0;
  return static_cast<double>(op.grid.tokens() * op.grid.cols * op.heads) / 8;
}
std::string sizes(const Attention& op, DType dtype) {
  return std::string(name_of(dtype)) + ' ' + std::to_string(op.grid.rows) + 'x' +
         std::to_string(op.grid.cols) + ", " + std::to_string(op.heads) + " heads of " +
         std::to_string(op.head_dim);
}

}  // namespace

const std::set<std::string>& WatchedBackend::operations() {
  static const std::set<std::string> names{"gemm",
                                           "embed_forward",
                                           "embed_backward",
                                           "bias_gelu_forward",
                                           "bias_gelu_backward",
                                           "add_layernorm_forward",
                                           "add_layernorm_backward",
                                           "dropout",
                                           "attention_forward",
                                           "attention_backward",
                                           "gather_rows",
                                           "scatter_rows",
                                           "column_sum",
                                           "add",
                                           "convert",
                                           "cross_entropy_statistics",
                                           "cross_entropy_loss",
                                           "cross_entropy_backward",
                                           "fixed_point_add",
                                           "max_abs",
                                           "fixed_point_to_float",
                                           "fixed_point_round",
                                           "tile_sum_squares",
                                           "adamw"};
  return names;
}

template <class Describe, class Run>
void WatchedBackend::watched(Describe&& describe, Run&& run) {
  if (observer_ == nullptr) return run();
  const Operation operation = describe();
  observer_->before(operation);
  run();
  observer_->after(operation);
}

void WatchedBackend::upload(void* to, const void* from, std::size_t bytes) {
  watched(
      [&] {
        return Operation{.name = "upload", .shape = "", .written = {{to, bytes}}};
      },
      [&] { inner_->upload(to, from, bytes); });
}

void WatchedBackend::upload_beside(void* to, const void* from, std::size_t bytes) {
  watched(
      [&] {
        return Operation{.name = "upload", .shape = "", .written = {{to, bytes}}};
      },
      [&] { inner_->upload_beside(to, from, bytes); });
}

void WatchedBackend::download(void* to, const void* from, std::size_t bytes) {
  watched([&] { return Operation{.name = "download", .shape = ""}; },
          [&] { inner_->download(to, from, bytes); });
}

void WatchedBackend::copy(void* to, const void* from, std::size_t bytes) {
  const double moved = 2 * static_cast<double>(bytes);
  watched(
      [&] {
        return Operation{.name = "copy", .shape = "", .bytes = moved, .written = {{to, bytes}}};
      },
      [&] { inner_->copy(to, from, bytes); });
}

void WatchedBackend::zero(void* to, std::size_t bytes) {
  const auto moved = static_cast<double>(bytes);
  watched(
      [&] {
        return Operation{.name = "zero", .shape = "", .bytes = moved, .written = {{to, bytes}}};
      },
      [&] { inner_->zero(to, bytes); });
}

void WatchedBackend::do_gemm(TensorView out, ConstTensorView a, ConstTensorView b,
                             Transpose transpose, bool accumulate, std::span<const float> bias) {
  watched([&] { return bench::gemm(out, a, b, transpose, accumulate); },
          [&] { inner_->gemm(out, a, b, transpose, accumulate, bias); });
}

void WatchedBackend::do_embed_forward(TensorView x, std::span<const std::int32_t> ids,
                                      std::span<const std::int32_t> positions, ConstTensorView word,
                                      std::int64_t word_begin, ConstTensorView position,
                                      ConstTensorView type, bool word_only) {
  watched(
      [&] {
        return Operation{.name = "embed_forward",
                         .shape = sizes(x),
                         .bytes = 2 * bytes(x),  // the word rows are read, x is written
                         .written = {x}};
      },
      [&] {
        inner_->embed_forward(x, ids, positions, word, word_begin, position, type, word_only);
      });
}

void WatchedBackend::do_embed_backward(TensorView dword, std::int64_t word_begin,
                                       TensorView dposition, TensorView dtype_row,
                                       ConstTensorView dx, const Grouping& ids,
                                       const Grouping& positions, std::int32_t padding_id) {
  watched(
      [&] {
        // One pass each for words, positions and the type; touched rows are read and written.
        const double rows = count(ids.value) + count(positions.value);
        return Operation{.name = "embed_backward",
                         .shape = sizes(dx),
                         .bytes = 3 * bytes(dx) + 8 * rows * static_cast<double>(dx.cols),
                         .written = {dword, dposition, dtype_row}};
      },
      [&] {
        inner_->embed_backward(dword, word_begin, dposition, dtype_row, dx, ids, positions,
                               padding_id);
      });
}

void WatchedBackend::do_bias_gelu_forward(TensorView out, ConstTensorView pre,
                                          std::span<const float> bias) {
  watched(
      [&] {
        return Operation{.name = "bias_gelu_forward",
                         .shape = sizes(pre),
                         .bytes = bytes(pre, out),
                         .written = {out}};
      },
      [&] { inner_->bias_gelu_forward(out, pre, bias); });
}

void WatchedBackend::do_bias_gelu_backward(TensorView dpre, std::span<float> dbias,
                                           ConstTensorView dout, ConstTensorView pre,
                                           std::span<const float> bias) {
  watched(
      [&] {
        return Operation{.name = "bias_gelu_backward",
                         .shape = sizes(pre),
                         .bytes = bytes(dpre, dout, pre),
                         .written = {dpre, dbias}};
      },
      [&] { inner_->bias_gelu_backward(dpre, dbias, dout, pre, bias); });
}

void WatchedBackend::do_add_layernorm_forward(const AddLayerNorm& op) {
  watched(
      [&] {
        return Operation{.name = "add_layernorm_forward",
                         .shape = sizes(op.x),
                         .bytes = bytes(op.x, op.residual, op.sum, op.y),
                         .written = {op.sum, op.y, op.mean, op.rstd}};
      },
      [&] { inner_->add_layernorm_forward(op); });
}

void WatchedBackend::do_add_layernorm_backward(const AddLayerNormBackward& op) {
  watched(
      [&] {
        const double dx = op.dx.data == op.dsum.data ? 0 : bytes(op.dx);
        return Operation{
            .name = "add_layernorm_backward",
            .shape = sizes(op.dsum),
            .bytes = bytes(op.dy, op.dsum_extra, op.dsum) + dx + (op.dy ? bytes(op.sum) : 0),
            .written = {op.dsum, op.dx, op.dgamma, op.dbeta, op.dbias}};
      },
      [&] { inner_->add_layernorm_backward(op); });
}

void WatchedBackend::do_dropout(TensorView x, const Dropout& dropout, const TokenGrid& grid) {
  watched(
      [&] {
        return Operation{
            .name = "dropout", .shape = sizes(x), .bytes = 2 * bytes(x), .written = {x}};
      },
      [&] { inner_->dropout(x, dropout, grid); });
}

void WatchedBackend::do_attention_forward(TensorView out, TensorView lse, ConstTensorView qkv,
                                          const Attention& op) {
  watched(
      [&] {
        return Operation{.name = "attention_forward",
                         .shape = sizes(op, qkv.dtype),
                         .bytes = bytes(qkv, out, lse),
                         .flops = score_flops(op, 2),  // Q K^T, P V
                         .written = {out, lse}};
      },
      [&] { inner_->attention_forward(out, lse, qkv, op); });
}

// Query kernel: q, k, v, dout, out in, dq out, three products. Key kernel: q, k, v, dout in, dk, dv
// out, four products. Between them 16 bytes a query and head.
void WatchedBackend::do_attention_backward(TensorView dqkv, ConstTensorView dout,
                                           ConstTensorView qkv, ConstTensorView out,
                                           ConstTensorView lse, const Attention& op) {
  watched(
      [&] {
        return Operation{.name = "attention_backward",
                         .shape = sizes(op, qkv.dtype),
                         .bytes = 2 * bytes(qkv, dout) + bytes(out, dqkv) + 2 * score_bits(op) +
                                  32 * static_cast<double>(op.grid.tokens() * op.heads),
                         .flops = score_flops(op, 7),
                         .written = {dqkv}};
      },
      [&] { inner_->attention_backward(dqkv, dout, qkv, out, lse, op); });
}

void WatchedBackend::do_gather_rows(TensorView out, ConstTensorView x,
                                    std::span<const std::int32_t> rows) {
  watched(
      [&] {
        return Operation{
            .name = "gather_rows", .shape = sizes(out), .bytes = 2 * bytes(out), .written = {out}};
      },
      [&] { inner_->gather_rows(out, x, rows); });
}

void WatchedBackend::do_scatter_rows(TensorView out, ConstTensorView x,
                                     std::span<const std::int32_t> rows) {
  watched(
      [&] {
        return Operation{.name = "scatter_rows",
                         .shape = sizes(x),
                         .bytes = 2 * bytes(x) + bytes(out),
                         .written = {out}};
      },
      [&] { inner_->scatter_rows(out, x, rows); });
}

void WatchedBackend::do_column_sum(std::span<float> out, ConstTensorView x) {
  watched(
      [&] {
        return Operation{
            .name = "column_sum", .shape = sizes(x), .bytes = bytes(x), .written = {out}};
      },
      [&] { inner_->column_sum(out, x); });
}

void WatchedBackend::do_add(TensorView out, ConstTensorView a, ConstTensorView b) {
  watched(
      [&] {
        return Operation{
            .name = "add", .shape = sizes(out), .bytes = bytes(out, a, b), .written = {out}};
      },
      [&] { inner_->add(out, a, b); });
}

void WatchedBackend::do_convert(TensorView out, ConstTensorView in) {
  watched(
      [&] {
        return Operation{.name = "convert",
                         .shape = std::string(name_of(in.dtype)) + " to " + name_of(out.dtype),
                         .bytes = bytes(in, out),
                         .written = {out}};
      },
      [&] { inner_->convert(out, in); });
}

void WatchedBackend::do_cross_entropy_statistics(TensorView statistics, ConstTensorView logits,
                                                 std::span<const float> bias,
                                                 std::span<const std::int32_t> target,
                                                 const VocabularyPart& part) {
  watched(
      [&] {
        return Operation{.name = "cross_entropy_statistics",
                         .shape = sizes(logits),
                         .bytes = bytes(logits),
                         .written = {statistics}};
      },
      [&] { inner_->cross_entropy_statistics(statistics, logits, bias, target, part); });
}

void WatchedBackend::do_cross_entropy_loss(std::span<float> lse, std::span<double> row_loss,
                                           ConstTensorView statistics,
                                           const CrossEntropyRows& rows) {
  watched(
      [&] {
        return Operation{.name = "cross_entropy_loss",
                         .shape = sizes(statistics),
                         .bytes = bytes(statistics) + 20 * count(lse),
                         .written = {lse, row_loss}};
      },
      [&] { inner_->cross_entropy_loss(lse, row_loss, statistics, rows); });
}

void WatchedBackend::do_cross_entropy_backward(TensorView dlogits, std::span<float> dbias,
                                               ConstTensorView logits, std::span<const float> bias,
                                               std::span<const float> lse,
                                               const CrossEntropyRows& rows,
                                               const VocabularyPart& part) {
  watched(
      [&] {
        return Operation{.name = "cross_entropy_backward",
                         .shape = sizes(logits),
                         .bytes = bytes(logits, dlogits),
                         .written = {dlogits, dbias}};
      },
      [&] { inner_->cross_entropy_backward(dlogits, dbias, logits, bias, lse, rows, part); });
}

// The pieces lie in device memory; their table never changes, so it is read once.
double WatchedBackend::elements_of(const ScaledPieces& pieces) {
  const auto [found, fresh] =
      piece_elements_.try_emplace({pieces.pieces.data(), pieces.pieces.size()}, 0);
  if (fresh) {
    std::vector<ScaledPiece> host(pieces.pieces.size());
    inner_->download(host.data(), pieces.pieces.data(), pieces.pieces.size_bytes());
    for (const ScaledPiece& piece : host) found->second += piece.count;
  }
  return found->second;
}

void WatchedBackend::do_fixed_point_add(std::span<std::int64_t> acc, std::span<float> largest,
                                        std::span<const float> grad, const ScaledPieces& pieces) {
  watched(
      [&] {
        return Operation{.name = "fixed_point_add",
                         .shape = acc.empty() ? "largest only" : vectors(),
                         .bytes = (acc.empty() ? 4 : 20) * elements_of(pieces),
                         .written = {acc, largest}};
      },
      [&] { inner_->fixed_point_add(acc, largest, grad, pieces); });
}

void WatchedBackend::do_max_abs(std::span<float> largest, std::span<const float> values) {
  watched(
      [&] {
        return Operation{.name = "max_abs",
                         .shape = vectors(),
                         .bytes = 4 * count(values),
                         .written = {largest}};
      },
      [&] { inner_->max_abs(largest, values); });
}

void WatchedBackend::do_fixed_point_to_float(std::span<float> out,
                                             std::span<const std::int64_t> acc,
                                             const ScaledPieces& pieces) {
  watched(
      [&] {
        return Operation{.name = "fixed_point_to_float",
                         .shape = vectors(),
                         .bytes = 12 * elements_of(pieces),
                         .written = {out}};
      },
      [&] { inner_->fixed_point_to_float(out, acc, pieces); });
}

void WatchedBackend::do_fixed_point_round(std::span<float> out, std::span<const float> grad,
                                          const ScaledPieces& pieces) {
  watched(
      [&] {
        return Operation{.name = "fixed_point_round",
                         .shape = vectors(),
                         .bytes = 8 * elements_of(pieces),
                         .written = {out}};
      },
      [&] { inner_->fixed_point_round(out, grad, pieces); });
}

void WatchedBackend::do_tile_sum_squares(std::span<double> out, std::span<const float> values) {
  watched(
      [&] {
        return Operation{.name = "tile_sum_squares",
                         .shape = vectors(),
                         .bytes = 4 * count(values),
                         .written = {out}};
      },
      [&] { inner_->tile_sum_squares(out, values); });
}

void WatchedBackend::do_adamw(std::span<float> param, std::span<float> m, std::span<float> v,
                              std::span<const float> grad, TensorView work, const AdamW& op) {
  watched(
      [&] {
        return Operation{.name = "adamw",
                         .shape = vectors(),
                         .bytes = 28 * count(param) + bytes(work),
                         .written = {param, m, v, work}};
      },
      [&] { inner_->adamw(param, m, v, grad, work, op); });
}

}  // namespace demist::bench
