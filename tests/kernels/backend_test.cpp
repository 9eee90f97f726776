// What callers may rely on before any number is computed: names, and errors for wrong shapes.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/backend.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <vector>

namespace demist::test {
namespace {

TEST(MakeCpuBackend, NamesItsInstructionSet) {
  EXPECT_EQ(make_cpu_backend("avx2")->name(), "cpu avx2");
  EXPECT_EQ(make_cpu_backend()->name().substr(0, 7), "cpu avx");
}

TEST(MakeCpuBackend, RefusesAnUnknownInstructionSet) {
  EXPECT_THROW(make_cpu_backend("sse2"), ConfigError);
}

// Every wrong call throws InternalError, and its message begins with the operation's name.
void expect_refused(const std::string& op, const std::function<void(Backend&)>& call) {
  const auto backend = make_cpu_backend();
  try {
    call(*backend);
    ADD_FAILURE() << op << " accepted wrong arguments";
  } catch (const InternalError& error) {
    EXPECT_EQ(std::string(error.what()).substr(0, op.size() + 2), op + ": ") << error.what();
  }
}

// Correct operands for n = 6 tokens (2 sequences of 3), d = 4, V = 5; tests spoil one at a time.
struct Operands {
  Tensor x{DType::f32, 6, 4}, y{DType::f32, 6, 4}, z{DType::f32, 6, 4};
  Tensor narrow{DType::f32, 6, 3}, short_one{DType::f32, 5, 4}, half{DType::bf16, 6, 4};
  Tensor word{DType::f32, 5, 4}, position{DType::f32, 9, 4}, type{DType::f32, 1, 4};
  Tensor logits{DType::f32, 6, 5};
  std::vector<std::int32_t> ids = std::vector<std::int32_t>(6, 2), positions = ids;
  std::vector<float> d4 = std::vector<float>(4), d4b = d4, d3 = std::vector<float>(3);
  std::vector<float> n6 = std::vector<float>(6), n6b = n6, n6c = n6, n6d = n6;
  std::vector<float> v5 = std::vector<float>(5);
  std::vector<std::uint64_t> samples = {1, 2};
  TokenGrid grid{.rows = 2, .cols = 3, .sample = samples};
};

TEST(ShapeErrors, Gemm) {
  Operands t;
  expect_refused("gemm", [&](Backend& b) {  // inner sizes 4 and 6
    b.gemm(t.x.view(), t.x.view(), t.y.view(), Transpose::none);
  });
  Tensor out(DType::bf16, 6, 6);
  expect_refused("gemm",
                 [&](Backend& b) { b.gemm(out.view(), t.x.view(), t.y.view(), Transpose::b); });
  expect_refused("gemm", [&](Backend& b) {
    b.gemm(out.view(), t.half.view(), t.half.view(), Transpose::b, true);
  });
}

TEST(ShapeErrors, Embed) {
  Operands t;
  const auto forward = [&](TensorView x, TensorView word, TensorView position) {
    expect_refused("embed_forward", [&](Backend& b) {
      b.embed_forward(x, t.ids, t.positions, word, 0, position, t.type.view(), false);
    });
  };
  forward(t.short_one.view(), t.word.view(), t.position.view());
  forward(t.half.view(), t.word.view(), t.position.view());
  forward(t.x.view(), t.narrow.view(), t.position.view());
  forward(t.x.view(), t.word.view(), t.position.top(2));  // position 2 does not exist
  const std::vector<std::int32_t> value = {0, 1, 2}, begin = {0, 2, 4, 6},
                                  order = {0, 3, 1, 4, 2, 5};
  const Grouping groups{value, begin, order}, no_end{value, value, order},
      too_few{value, begin, value};
  const auto backward = [&](TensorView dword, TensorView dposition, TensorView dx,
                            const Grouping& ids, const Grouping& positions) {
    expect_refused("embed_backward", [&](Backend& b) {
      b.embed_backward(dword, 0, dposition, t.type.view(), dx, ids, positions, 1);
    });
  };
  backward(t.word.view(), t.position.view(), t.short_one.view(), groups, groups);
  backward(t.narrow.view(), t.position.view(), t.x.view(), groups, groups);
  backward(t.word.view(), t.position.top(2), t.x.view(), groups, groups);
  backward(t.word.view(), t.position.view(), t.x.view(), no_end, groups);
  backward(t.word.view(), t.position.view(), t.x.view(), groups, too_few);
}

TEST(ShapeErrors, BiasGelu) {
  Operands t;
  expect_refused("bias_gelu_forward",
                 [&](Backend& b) { b.bias_gelu_forward(t.x.view(), t.y.view(), t.d3); });
  expect_refused("bias_gelu_forward",
                 [&](Backend& b) { b.bias_gelu_forward(t.half.view(), t.y.view(), t.d4); });
  expect_refused("bias_gelu_backward", [&](Backend& b) {
    b.bias_gelu_backward(t.x.view(), t.d3, t.y.view(), t.z.view(), t.d4);
  });
  expect_refused("bias_gelu_backward", [&](Backend& b) {
    b.bias_gelu_backward(t.x.view(), t.d4b, t.short_one.view(), t.z.view(), t.d4);
  });
}

TEST(ShapeErrors, AddLayerNormForward) {
  Operands t;
  const AddLayerNorm good{.sum = t.y.view(),
                          .y = t.z.view(),
                          .mean = t.n6,
                          .rstd = t.n6b,
                          .x = t.x.view(),
                          .bias = t.d4,
                          .gamma = t.d4,
                          .beta = t.d4};
  make_cpu_backend()->add_layernorm_forward(good);
  const auto refused = [&](const std::function<void(AddLayerNorm&)>& spoil) {
    AddLayerNorm op = good;
    spoil(op);
    expect_refused("add_layernorm_forward", [&](Backend& b) { b.add_layernorm_forward(op); });
  };
  refused([&](AddLayerNorm& op) { op.sum = t.short_one.view(); });
  refused([&](AddLayerNorm& op) { op.y = t.half.view(); });
  refused([&](AddLayerNorm& op) { op.mean = t.d4; });
  refused([&](AddLayerNorm& op) { op.gamma = t.d3; });
  refused([&](AddLayerNorm& op) { op.bias = t.d3; });
  refused([&](AddLayerNorm& op) { op.residual = t.narrow.view(); });
  refused([&](AddLayerNorm& op) { op.sum = op.y = {}; });
  refused([&](AddLayerNorm& op) { op.dropout.p = 0.5f; });  // no grid
  refused([&](AddLayerNorm& op) { op.dropout.p = 1; });
}

TEST(ShapeErrors, AddLayerNormBackward) {
  Operands t;
  const AddLayerNormBackward good{.dsum = t.x.view(),
                                  .dx = t.x.view(),
                                  .dgamma = t.d4,
                                  .dbeta = t.d4b,
                                  .dy = t.y.view(),
                                  .sum = t.z.view(),
                                  .mean = t.n6,
                                  .rstd = t.n6,
                                  .gamma = t.d4};
  const auto refused = [&](const std::function<void(AddLayerNormBackward&)>& spoil) {
    AddLayerNormBackward op = good;
    spoil(op);
    expect_refused("add_layernorm_backward", [&](Backend& b) { b.add_layernorm_backward(op); });
  };
  refused([&](AddLayerNormBackward& op) { op.dx = t.narrow.view(); });
  refused([&](AddLayerNormBackward& op) { op.dy = {}; });
  refused([&](AddLayerNormBackward& op) { op.sum = t.short_one.view(); });
  refused([&](AddLayerNormBackward& op) { op.rstd = t.d4; });
  refused([&](AddLayerNormBackward& op) { op.dgamma = t.d3; });
  refused([&](AddLayerNormBackward& op) { op.dbias = t.d3; });
  refused([&](AddLayerNormBackward& op) { op.dsum_extra = t.half.view(); });
  refused([&](AddLayerNormBackward& op) {  // dx over dsum
    op.dropout.p = 0.5f;
    op.grid = t.grid;
  });
}

TEST(ShapeErrors, Dropout) {
  Operands t;
  expect_refused("dropout",
                 [&](Backend& b) { b.dropout(t.short_one.view(), {.p = 0.1f}, t.grid); });
  expect_refused("dropout", [&](Backend& b) { b.dropout(t.x.view(), {.p = -0.1f}, t.grid); });
  expect_refused("dropout", [&](Backend& b) { b.dropout(t.x.view(), {.p = 0.999999f}, t.grid); });
  t.grid.sample = {};
  expect_refused("dropout", [&](Backend& b) { b.dropout(t.x.view(), {.p = 0.1f}, t.grid); });
}

TEST(ShapeErrors, Attention) {
  Operands t;
  Tensor qkv(DType::f32, 6, 12), out(DType::f32, 6, 4), lse(DType::f32, 2, 6);
  std::vector<std::int32_t> begin(6, 0), end(6, 3);
  const Attention good{
      .heads = 2, .head_dim = 2, .grid = t.grid, .keys = {.begin = begin, .end = end}};
  const auto refused = [&](const std::function<void(Attention&)>& spoil, TensorView o,
                           TensorView l) {
    Attention op = good;
    spoil(op);
    expect_refused("attention_forward",
                   [&](Backend& b) { b.attention_forward(o, l, qkv.view(), op); });
    expect_refused("attention_backward", [&](Backend& b) {
      b.attention_backward(qkv.view(), o, qkv.view(), out.view(), l, op);
    });
  };
  const auto nothing = [](Attention&) {};
  refused(nothing, t.narrow.view(), lse.view());
  refused(nothing, out.view(), lse.top(1));
  refused([](Attention& op) { op.head_dim = 3; }, out.view(), lse.view());
  refused([](Attention& op) { op.first_head = 1023; }, out.view(), lse.view());
  refused([](Attention& op) { op.grid.cols = 4; }, out.view(), lse.view());
  refused([&](Attention& op) { op.keys.begin = op.keys.begin.first(5); }, out.view(), lse.view());
  end[4] = 4;  // beyond the sequence
  refused(nothing, out.view(), lse.view());
}

TEST(ShapeErrors, Rows) {
  Operands t;
  const std::vector<std::int32_t> rows = {0, 5}, outside = {0, 6}, negative = {-1, 0};
  expect_refused("gather_rows", [&](Backend& b) { b.gather_rows(t.y.view(), t.x.view(), rows); });
  for (const auto& wrong : {outside, negative}) {
    expect_refused("gather_rows",
                   [&](Backend& b) { b.gather_rows(t.y.top(2), t.x.view(), wrong); });
    expect_refused("scatter_rows",
                   [&](Backend& b) { b.scatter_rows(t.y.view(), t.x.top(2), wrong); });
  }
  expect_refused("scatter_rows",
                 [&](Backend& b) { b.scatter_rows(t.half.view(), t.x.top(2), rows); });
  expect_refused("column_sum", [&](Backend& b) { b.column_sum(t.d3, t.x.view()); });
  expect_refused("add", [&](Backend& b) { b.add(t.x.view(), t.y.view(), t.half.view()); });
  expect_refused("add", [&](Backend& b) { b.add(t.x.view(), t.narrow.view(), t.y.view()); });
  expect_refused("convert", [&](Backend& b) { b.convert(t.half.view(), t.short_one.view()); });
}

TEST(ShapeErrors, CrossEntropy) {
  Operands t;
  Tensor six(DType::f32, 6, 4), five(DType::f32, 5, 4);
  const auto statistics = [&](Tensor& out, TensorView logits, std::span<float> bias,
                              std::int64_t valid) {
    expect_refused("cross_entropy_statistics", [&](Backend& b) {
      b.cross_entropy_statistics(out.view(), logits, bias, t.ids, {0, valid});
    });
  };
  statistics(five, t.logits.view(), t.v5, 5);
  statistics(six, t.half.view(), t.d4, 4);
  statistics(six, t.logits.view(), t.d4, 5);
  statistics(six, t.logits.view(), t.v5, 6);
  const auto loss = [&](Tensor& in, const CrossEntropyRows& rows) {
    std::vector<double> row_loss(6);
    expect_refused("cross_entropy_loss",
                   [&](Backend& b) { b.cross_entropy_loss(t.n6, row_loss, in.view(), rows); });
  };
  loss(five, {t.ids, t.n6, t.n6, 5});
  loss(six, {t.ids, t.d4, t.n6, 5});
  loss(six, {t.ids, t.n6, t.n6, 0});
  const auto backward = [&](TensorView dlogits, std::span<float> dbias, std::span<float> weight,
                            std::int64_t valid) {
    expect_refused("cross_entropy_backward", [&](Backend& b) {
      b.cross_entropy_backward(dlogits, dbias, t.logits.view(), {}, t.n6, {t.ids, weight, t.n6, 5},
                               {0, valid});
    });
  };
  backward(t.x.view(), t.v5, t.n6, 5);
  backward(t.logits.view(), t.d4, t.n6, 5);
  backward(t.logits.view(), t.v5, t.d4, 5);
  backward(t.logits.view(), t.v5, t.n6, 6);
  expect_refused("cross_entropy_backward", [&](Backend& b) {
    b.cross_entropy_backward(t.logits.view(), t.v5, t.logits.view(), t.d4, t.n6,
                             {t.ids, t.n6, t.n6, 5}, {0, 5});
  });
  // In place, but with rows too close to each other.
  backward({t.logits.view().data, DType::bf16, 6, 5, 5}, t.v5, t.n6, 5);
}

TEST(ShapeErrors, Optimizer) {
  Operands t;
  std::vector<std::int64_t> acc(4);
  std::vector<double> tiles(2);
  const std::vector<ScaledPiece> piece = {{0, 3, 0}}, outside = {{2, 3, 0}}, other = {{0, 3, 1}};
  const std::vector<double> scale = {1};
  const auto pieces = [&](const std::vector<ScaledPiece>& p) { return ScaledPieces{p, scale}; };
  std::vector<float> one(1);
  const auto add = [&](auto& grad, auto& largest, const ScaledPieces& p) {
    expect_refused("fixed_point_add",
                   [&](Backend& b) { b.fixed_point_add(acc, largest, grad, p); });
  };
  add(t.d3, one, pieces(piece));
  add(t.d4, t.d3, pieces(piece));
  add(t.d4, one, pieces(outside));
  add(t.d4, one, pieces(other));
  expect_refused("fixed_point_round",
                 [&](Backend& b) { b.fixed_point_round(t.d3, t.d4, pieces(piece)); });
  expect_refused("fixed_point_to_float",
                 [&](Backend& b) { b.fixed_point_to_float(t.d3, acc, pieces(piece)); });
  expect_refused("tile_sum_squares", [&](Backend& b) { b.tile_sum_squares(tiles, t.d3); });
  expect_refused("adamw", [&](Backend& b) { b.adamw(t.d4, t.d3, t.d4, t.d4, {}, {}); });
  expect_refused("adamw", [&](Backend& b) { b.adamw(t.d4, t.d4, t.d4, t.d4, t.x.view(), {}); });
}

}  // namespace
}  // namespace demist::test
