// The public operations: every shape and type is checked here, once for all devices.
// SPDX-License-Identifier: Apache-2.0
#include <string>

#include "kernels/backend.hpp"

namespace demist {
namespace {

// Where memory is the host's: everything has arrived at once.
class ImmediateReadBack final : public ReadBack {
 public:
  explicit ImmediateReadBack(Backend& backend) : backend_(backend) {}
  void copy(void* to, const void* from, std::size_t bytes) override {
    backend_.download(to, from, bytes);
  }
  bool arrived() override { return true; }
  void wait() override {}
  void hold() override {}

 private:
  Backend& backend_;
};

// Names the operation in the error that a wrong argument makes.
class Check {
 public:
  // `readable`: the host may look at what the operands hold.
  explicit Check(const char* op, bool readable = false) : op_(op), readable_(readable) {}

  void that(bool condition, const char* what) const {
    if (!condition) throw InternalError(std::string(op_) + ": " + what);
  }

  void matrix(const ConstTensorView& view, std::int64_t rows, std::int64_t cols, DType dtype,
              const char* name) const {
    const bool shape = view.rows == rows && view.cols == cols && view.ld >= cols;
    if (shape && view.dtype == dtype && (view.data || view.size() == 0)) return;
    throw InternalError(std::string(op_) + ": " + name + " is " + describe(view) + ", expected " +
                        describe({nullptr, dtype, rows, cols, cols}));
  }

  void grouping(const Grouping& groups, std::int64_t length, const char* name) const {
    vector(groups.order, length, name);
    vector(groups.begin, static_cast<std::int64_t>(groups.value.size()) + 1, name);
  }

  template <class T>
  void vector(std::span<T> values, std::int64_t size, const char* name) const {
    if (static_cast<std::int64_t>(values.size()) == size) return;
    throw InternalError(std::string(op_) + ": " + name + " has " + std::to_string(values.size()) +
                        " elements, expected " + std::to_string(size));
  }

  // Every index in [0, limit).
  void indices(std::span<const std::int32_t> values, std::int64_t limit, const char* name) const {
    if (!readable_) return;
    for (const std::int32_t value : values)
      if (value < 0 || value >= limit)
        throw InternalError(std::string(op_) + ": " + name + " " + std::to_string(value) +
                            " is outside [0, " + std::to_string(limit) + ")");
  }

  void pieces(const ScaledPieces& pieces, std::int64_t size) const {
    if (!readable_) return;
    for (const ScaledPiece& piece : pieces.pieces) {
      that(piece.begin >= 0 && piece.count > 0 && piece.count <= ScaledPiece::kLongest &&
               piece.begin + piece.count <= size,
           "a piece lies outside the buffers");
      that(piece.tensor >= 0 && piece.tensor < std::ssize(pieces.scale), "a piece has no scale");
      that(!pieces.aligned || piece.begin % 8 == 0, "a piece is not aligned");
    }
  }

  void rows(const CrossEntropyRows& rows, std::int64_t m) const {
    vector(rows.target, m, "target");
    vector(rows.weight, m, "weight");
    vector(rows.smooth, m, "smooth");
    that(rows.vocab_size > 0, "vocab_size is not positive");
  }

  void keys(const KeyRanges& keys, const TokenGrid& grid) const {
    vector(keys.begin, grid.tokens(), "keys.begin");
    vector(keys.end, grid.tokens(), "keys.end");
    if (!readable_) return;
    for (std::size_t t = 0; t < keys.begin.size(); ++t)
      that(keys.begin[t] >= 0 && keys.begin[t] <= keys.end[t] && keys.end[t] <= grid.cols,
           "a key range leaves its sequence");
  }

  void dropout(const Dropout& dropout, const TokenGrid& grid, std::int64_t rows) const {
    that(dropout.p >= 0 && dropout.p < 1, "dropout probability is outside [0, 1)");
    if (!dropout.active()) return;
    that(dropout.threshold() < 65536, "dropout probability rounds to 1");
    this->grid(grid, rows);
  }

  void grid(const TokenGrid& grid, std::int64_t rows) const {
    that(grid.rows >= 0 && grid.cols >= 0 && grid.tokens() == rows,
         "the token grid has another number of tokens than the rows");
    vector(grid.sample, grid.rows, "grid.sample");
  }

 private:
  static std::string describe(const ConstTensorView& view) {
    return std::string(name_of(view.dtype)) + " [" + std::to_string(view.rows) + ", " +
           std::to_string(view.cols) + "]" +
           (view.ld < view.cols ? " with ld " + std::to_string(view.ld) : "");
  }

  const char* op_;
  bool readable_;
};

constexpr DType kFloat = DType::f32;

template <class T>
std::int64_t length(std::span<T> values) {
  return static_cast<std::int64_t>(values.size());
}

}  // namespace

std::unique_ptr<ReadBack> Backend::make_read_back() {
  return std::make_unique<ImmediateReadBack>(*this);
}

std::string describe(const DeviceIdentity& device) {
  return device.gpu + " (" + std::to_string(device.multiprocessors) + " multiprocessors, " +
         device.library + ")";
}

void Backend::gemm(TensorView out, ConstTensorView a, ConstTensorView b, Transpose transpose,
                   bool accumulate, std::span<const float> bias) {
  const Check check("gemm");
  const bool a_transposed = transpose == Transpose::a, b_transposed = transpose == Transpose::b;
  const std::int64_t m = a_transposed ? a.cols : a.rows, k = a_transposed ? a.rows : a.cols;
  const std::int64_t n = b_transposed ? b.rows : b.cols;
  check.matrix(a, a.rows, a.cols, a.dtype, "a");
  check.matrix(b, b_transposed ? n : k, b_transposed ? k : n, a.dtype, "b");
  check.matrix(out, m, n, out.dtype, "out");
  check.that(out.dtype == a.dtype || out.dtype == kFloat, "out is neither fp32 nor the type of a");
  check.that(!accumulate || out.dtype == kFloat, "only an fp32 out can be added to");
  if (!bias.empty()) check.vector(bias, n, "bias");
  do_gemm(out, a, b, transpose, accumulate, bias);
}

void Backend::embed_forward(TensorView x, std::span<const std::int32_t> ids,
                            std::span<const std::int32_t> positions, ConstTensorView word,
                            std::int64_t word_begin, ConstTensorView position, ConstTensorView type,
                            bool word_only) {
  const Check check("embed_forward", on_host());
  check.matrix(x, length(ids), word.cols, x.dtype, "x");
  check.matrix(word, word.rows, x.cols, x.dtype, "word");
  if (!word_only) {
    check.vector(positions, x.rows, "positions");
    check.matrix(position, position.rows, x.cols, x.dtype, "position");
    check.matrix(type, type.rows, x.cols, x.dtype, "type");
    check.that(type.rows >= 1, "type has no rows");
    check.indices(positions, position.rows, "position");
  }
  do_embed_forward(x, ids, positions, word, word_begin, position, type, word_only);
}

void Backend::embed_backward(TensorView dword, std::int64_t word_begin, TensorView dposition,
                             TensorView dtype_row, ConstTensorView dx, const Grouping& ids,
                             const Grouping& positions, std::int32_t padding_id) {
  const Check check("embed_backward", on_host());
  check.matrix(dx, dx.rows, dx.cols, dx.dtype, "dx");
  check.matrix(dword, dword.rows, dx.cols, kFloat, "dword");
  check.matrix(dposition, dposition.rows, dx.cols, kFloat, "dposition");
  check.matrix(dtype_row, 1, dx.cols, kFloat, "dtype_row");
  check.grouping(ids, dx.rows, "ids");
  check.grouping(positions, dx.rows, "positions");
  check.indices(positions.value, dposition.rows, "position");
  do_embed_backward(dword, word_begin, dposition, dtype_row, dx, ids, positions, padding_id);
}

void Backend::bias_gelu_forward(TensorView out, ConstTensorView pre, std::span<const float> bias) {
  const Check check("bias_gelu_forward");
  check.matrix(pre, pre.rows, pre.cols, pre.dtype, "pre");
  check.matrix(out, pre.rows, pre.cols, pre.dtype, "out");
  check.vector(bias, pre.cols, "bias");
  do_bias_gelu_forward(out, pre, bias);
}

void Backend::bias_gelu_backward(TensorView dpre, std::span<float> dbias, ConstTensorView dout,
                                 ConstTensorView pre, std::span<const float> bias) {
  const Check check("bias_gelu_backward");
  check.matrix(pre, pre.rows, pre.cols, pre.dtype, "pre");
  check.matrix(dout, pre.rows, pre.cols, pre.dtype, "dout");
  check.matrix(dpre, pre.rows, pre.cols, pre.dtype, "dpre");
  check.vector(bias, pre.cols, "bias");
  check.vector(dbias, pre.cols, "dbias");
  do_bias_gelu_backward(dpre, dbias, dout, pre, bias);
}

void Backend::add_layernorm_forward(const AddLayerNorm& op) {
  const Check check("add_layernorm_forward");
  const std::int64_t n = op.x.rows, d = op.x.cols;
  check.that(d > 0, "x has no columns");
  check.matrix(op.x, n, d, op.x.dtype, "x");
  check.that(op.sum || op.y, "neither sum nor y is wanted");
  if (op.sum) check.matrix(op.sum, n, d, op.x.dtype, "sum");
  if (op.residual) check.matrix(op.residual, n, d, op.x.dtype, "residual");
  if (!op.bias.empty()) check.vector(op.bias, d, "bias");
  if (op.y) {
    check.matrix(op.y, n, d, op.x.dtype, "y");
    check.vector(op.mean, n, "mean");
    check.vector(op.rstd, n, "rstd");
    check.vector(op.gamma, d, "gamma");
    check.vector(op.beta, d, "beta");
  }
  check.dropout(op.dropout, op.grid, n);
  do_add_layernorm_forward(op);
}

void Backend::add_layernorm_backward(const AddLayerNormBackward& op) {
  const Check check("add_layernorm_backward");
  const std::int64_t n = op.dsum.rows, d = op.dsum.cols;
  const DType dtype = op.dsum.dtype;
  check.that(d > 0, "dsum has no columns");
  check.that(op.dy || op.dsum_extra, "neither dy nor dsum_extra is given");
  check.matrix(op.dsum, n, d, dtype, "dsum");
  if (op.dx) check.matrix(op.dx, n, d, dtype, "dx");
  check.that(!op.dx || op.dx.data != op.dsum.data || !op.dropout.active(),
             "dx may be dsum only when dropout is off");
  if (op.dsum_extra) check.matrix(op.dsum_extra, n, d, dtype, "dsum_extra");
  if (!op.dbias.empty()) check.vector(op.dbias, d, "dbias");
  if (op.dy) {
    check.matrix(op.dy, n, d, dtype, "dy");
    check.matrix(op.sum, n, d, dtype, "sum");
    check.vector(op.mean, n, "mean");
    check.vector(op.rstd, n, "rstd");
    check.vector(op.gamma, d, "gamma");
    check.vector(op.dgamma, d, "dgamma");
    check.vector(op.dbeta, d, "dbeta");
  }
  check.dropout(op.dropout, op.grid, n);
  do_add_layernorm_backward(op);
}

void Backend::dropout(TensorView x, const Dropout& dropout, const TokenGrid& grid) {
  const Check check("dropout");
  check.matrix(x, x.rows, x.cols, x.dtype, "x");
  check.dropout(dropout, grid, x.rows);
  do_dropout(x, dropout, grid);
}

namespace {

// What forward and backward have in common; returns heads * head_dim.
std::int64_t check_attention(const Check& check, const ConstTensorView& qkv, const Attention& op) {
  check.that(op.heads > 0 && op.head_dim > 0 && op.first_head >= 0 &&
                 op.first_head + op.heads <= Attention::kMaxHeads,
             "impossible heads or head_dim");
  const std::int64_t n = qkv.rows;
  check.matrix(qkv, n, 3 * op.heads * op.head_dim, qkv.dtype, "qkv");
  check.grid(op.grid, n);
  check.keys(op.keys, op.grid);
  check.dropout(op.dropout, op.grid, n);
  return op.heads * op.head_dim;
}

}  // namespace

void Backend::attention_forward(TensorView out, TensorView lse, ConstTensorView qkv,
                                const Attention& op) {
  const Check check("attention_forward", on_host());
  const std::int64_t width = check_attention(check, qkv, op);
  check.matrix(out, qkv.rows, width, qkv.dtype, "out");
  check.matrix(lse, op.heads, qkv.rows, kFloat, "lse");
  do_attention_forward(out, lse, qkv, op);
}

void Backend::attention_backward(TensorView dqkv, ConstTensorView dout, ConstTensorView qkv,
                                 ConstTensorView out, ConstTensorView lse, const Attention& op) {
  const Check check("attention_backward", on_host());
  const std::int64_t width = check_attention(check, qkv, op);
  check.matrix(dqkv, qkv.rows, 3 * width, qkv.dtype, "dqkv");
  check.matrix(dout, qkv.rows, width, qkv.dtype, "dout");
  check.matrix(out, qkv.rows, width, qkv.dtype, "out");
  check.matrix(lse, op.heads, qkv.rows, kFloat, "lse");
  do_attention_backward(dqkv, dout, qkv, out, lse, op);
}

void Backend::gather_rows(TensorView out, ConstTensorView x, std::span<const std::int32_t> rows) {
  const Check check("gather_rows", on_host());
  check.matrix(x, x.rows, x.cols, x.dtype, "x");
  check.matrix(out, length(rows), x.cols, x.dtype, "out");
  check.indices(rows, x.rows, "row");
  do_gather_rows(out, x, rows);
}

void Backend::scatter_rows(TensorView out, ConstTensorView x, std::span<const std::int32_t> rows) {
  const Check check("scatter_rows", on_host());
  check.matrix(x, length(rows), x.cols, x.dtype, "x");
  check.matrix(out, out.rows, x.cols, x.dtype, "out");
  check.indices(rows, out.rows, "row");
  do_scatter_rows(out, x, rows);
}

void Backend::column_sum(std::span<float> out, ConstTensorView x) {
  const Check check("column_sum");
  check.matrix(x, x.rows, x.cols, x.dtype, "x");
  check.vector(out, x.cols, "out");
  do_column_sum(out, x);
}

void Backend::add(TensorView out, ConstTensorView a, ConstTensorView b) {
  const Check check("add");
  check.matrix(out, out.rows, out.cols, out.dtype, "out");
  check.matrix(a, out.rows, out.cols, out.dtype, "a");
  check.matrix(b, out.rows, out.cols, out.dtype, "b");
  do_add(out, a, b);
}

void Backend::convert(TensorView out, ConstTensorView in) {
  const Check check("convert");
  check.matrix(in, in.rows, in.cols, in.dtype, "in");
  check.matrix(out, in.rows, in.cols, out.dtype, "out");
  do_convert(out, in);
}

void Backend::cross_entropy_statistics(TensorView statistics, ConstTensorView logits,
                                       std::span<const float> bias,
                                       std::span<const std::int32_t> target,
                                       const VocabularyPart& part) {
  const Check check("cross_entropy_statistics");
  check.matrix(logits, logits.rows, logits.cols, kFloat, "logits");
  check.matrix(statistics, logits.rows, CrossEntropyColumn::count, kFloat, "statistics");
  check.vector(target, logits.rows, "target");
  if (!bias.empty()) check.vector(bias, logits.cols, "bias");
  check.that(part.valid >= 0 && part.valid <= logits.cols, "valid is outside [0, columns]");
  do_cross_entropy_statistics(statistics, logits, bias, target, part);
}

void Backend::cross_entropy_loss(std::span<float> lse, std::span<double> row_loss,
                                 ConstTensorView statistics, const CrossEntropyRows& rows) {
  const Check check("cross_entropy_loss");
  const std::int64_t m = length(lse), parts = m == 0 ? 0 : statistics.rows / m;
  check.matrix(statistics, parts * m, CrossEntropyColumn::count, kFloat, "statistics");
  check.that(m == 0 || parts > 0, "statistics has no rows");
  check.vector(row_loss, m, "row_loss");
  check.rows(rows, m);
  do_cross_entropy_loss(lse, row_loss, statistics, rows);
}

void Backend::cross_entropy_backward(TensorView dlogits, std::span<float> dbias,
                                     ConstTensorView logits, std::span<const float> bias,
                                     std::span<const float> lse, const CrossEntropyRows& rows,
                                     const VocabularyPart& part) {
  const Check check("cross_entropy_backward");
  const std::int64_t m = logits.rows;
  check.matrix(logits, m, logits.cols, kFloat, "logits");
  check.matrix(dlogits, m, logits.cols, dlogits.dtype, "dlogits");
  check.vector(dbias, logits.cols, "dbias");
  if (!bias.empty()) check.vector(bias, logits.cols, "bias");
  check.vector(lse, m, "lse");
  check.rows(rows, m);
  check.that(part.valid >= 0 && part.valid <= logits.cols, "valid is outside [0, columns]");
  const auto stride = [](const ConstTensorView& view) {
    return view.ld * static_cast<std::int64_t>(size_of(view.dtype));
  };
  check.that(dlogits.data != logits.data || m <= 1 || stride(dlogits) == stride(logits),
             "dlogits lies over logits with another distance between rows");
  do_cross_entropy_backward(dlogits, dbias, logits, bias, lse, rows, part);
}

void Backend::fixed_point_add(std::span<std::int64_t> acc, std::span<float> largest,
                              std::span<const float> grad, const ScaledPieces& pieces) {
  const Check check("fixed_point_add", on_host());
  if (!acc.empty()) check.vector(acc, length(grad), "acc");
  check.vector(largest, length(pieces.pieces), "largest");
  check.pieces(pieces, length(grad));
  do_fixed_point_add(acc, largest, grad, pieces);
}

void Backend::max_abs(std::span<float> largest, std::span<const float> values) {
  Check("max_abs").vector(largest, 1, "largest");
  do_max_abs(largest, values);
}

void Backend::fixed_point_to_float(std::span<float> out, std::span<const std::int64_t> acc,
                                   const ScaledPieces& pieces) {
  const Check check("fixed_point_to_float", on_host());
  check.vector(out, length(acc), "out");
  check.pieces(pieces, length(acc));
  do_fixed_point_to_float(out, acc, pieces);
}

void Backend::fixed_point_round(std::span<float> out, std::span<const float> grad,
                                const ScaledPieces& pieces) {
  const Check check("fixed_point_round", on_host());
  check.vector(grad, length(out), "grad");
  check.pieces(pieces, length(out));
  do_fixed_point_round(out, grad, pieces);
}

void Backend::tile_sum_squares(std::span<double> out, std::span<const float> values) {
  const std::int64_t tiles = (length(values) + kNormTile - 1) / kNormTile;
  Check("tile_sum_squares").vector(out, tiles, "out");
  do_tile_sum_squares(out, values);
}

void Backend::adamw(std::span<float> param, std::span<float> m, std::span<float> v,
                    std::span<const float> grad, TensorView work, const AdamW& op) {
  const Check check("adamw");
  const std::int64_t size = length(param);
  check.vector(m, size, "m");
  check.vector(v, size, "v");
  check.vector(grad, size, "grad");
  if (work) check.matrix(work, 1, size, work.dtype, "work");
  do_adamw(param, m, v, grad, work, op);
}

}  // namespace demist
