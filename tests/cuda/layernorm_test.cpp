// SPDX-License-Identifier: Apache-2.0
#include <numeric>

#include "tests/cuda/pair.hpp"

namespace demist::cuda::test {
namespace {

class LayerNormTest : public RowKernelTest {};
INSTANTIATE_TEST_SUITE_P(Device, LayerNormTest, both_types(), dtype_name);

// Inputs and outputs of both directions. `side` picks the host's or the device's.
struct Problem {
  std::int64_t n, d;
  Dropout drop;
  std::vector<std::uint64_t> samples;
  DeviceList<std::uint64_t> device_samples;
  Pair x, residual, dy, extra;
  Pair bias, gamma, beta;
  Pair sum, y, dsum, dx;
  Pair mean, rstd, dgamma, dbeta, dbias;

  Problem(Shape shape, DType dtype, float p, std::int64_t gap)
      : n(shape.rows),
        d(shape.cols),
        drop{.p = p, .key = 77},
        samples(sample_names(shape.rows)),
        device_samples(samples),
        x(random_matrix(n, d, 1, dtype), dtype, gap),
        residual(random_matrix(n, d, 3, dtype, 2), dtype, gap),
        dy(random_matrix(n, d, 6, dtype), dtype, gap),
        extra(random_matrix(n, d, 7, dtype), dtype, gap),
        bias(random_matrix(1, d, 2, DType::f32), DType::f32, 0),
        gamma(random_matrix(1, d, 4, DType::f32, 2), DType::f32, 0),
        beta(random_matrix(1, d, 5, DType::f32), DType::f32, 0),
        sum(n, d, dtype, gap),
        y(n, d, dtype, gap),
        dsum(n, d, dtype, gap),
        dx(n, d, dtype, gap),
        mean(1, n, DType::f32, 0),
        rstd(1, n, DType::f32, 0),
        dgamma(1, d, DType::f32, 0),
        dbeta(1, d, DType::f32, 0),
        dbias(1, d, DType::f32, 0) {}

  static std::vector<std::uint64_t> sample_names(std::int64_t n) {
    std::vector<std::uint64_t> names(static_cast<std::size_t>(n));
    std::iota(names.begin(), names.end(), 1ull << 40);
    return names;
  }

  AddLayerNorm host_forward() {
    return {.sum = sum.host(),
            .y = y.host(),
            .mean = mean.host_span(),
            .rstd = rstd.host_span(),
            .x = x.host(),
            .bias = bias.host_span(),
            .residual = residual.host(),
            .gamma = gamma.host_span(),
            .beta = beta.host_span(),
            .dropout = drop,
            .grid = {.rows = n, .cols = 1, .sample = samples}};
  }
  AddLayerNorm device_forward() {
    return {.sum = sum.device(),
            .y = y.device(),
            .mean = mean.device_span(),
            .rstd = rstd.device_span(),
            .x = x.device(),
            .bias = bias.device_span(),
            .residual = residual.device(),
            .gamma = gamma.device_span(),
            .beta = beta.device_span(),
            .dropout = drop,
            .grid = {.rows = n, .cols = 1, .sample = device_samples.span()}};
  }
  AddLayerNormBackward host_backward() {
    return {.dsum = dsum.host(),
            .dx = dx.host(),
            .dgamma = dgamma.host_span(),
            .dbeta = dbeta.host_span(),
            .dbias = dbias.host_span(),
            .dy = dy.host(),
            .dsum_extra = extra.host(),
            .sum = sum.host(),
            .mean = mean.host_span(),
            .rstd = rstd.host_span(),
            .gamma = gamma.host_span(),
            .dropout = drop,
            .grid = {.rows = n, .cols = 1, .sample = samples}};
  }
  AddLayerNormBackward device_backward() {
    return {.dsum = dsum.device(),
            .dx = dx.device(),
            .dgamma = dgamma.device_span(),
            .dbeta = dbeta.device_span(),
            .dbias = dbias.device_span(),
            .dy = dy.device(),
            .dsum_extra = extra.device(),
            .sum = sum.device(),
            .mean = mean.device_span(),
            .rstd = rstd.device_span(),
            .gamma = gamma.device_span(),
            .dropout = drop,
            .grid = {.rows = n, .cols = 1, .sample = device_samples.span()}};
  }
  void run_backward(const AddLayerNormBackward& op) const {
    const Workspace work(add_layernorm_backward_workspace(n, d));
    add_layernorm_backward(work.launch(), op);
  }
};

TEST_P(LayerNormTest, MatchesTheCpu) {
  for (const Shape shape : kShapes)
    for (const std::int64_t gap : kGaps)
      for (const float p : {0.0f, 0.1f}) {
        if (shape.rows == 0) continue;  // below
        Problem in(shape, dtype(), p, gap);
        cpu().add_layernorm_forward(in.host_forward());
        add_layernorm_forward(launch_, in.device_forward());
        SCOPED_TRACE(testing::Message()
                     << shape.rows << " x " << shape.cols << ", gap " << gap << ", p " << p);
        EXPECT_LE(in.sum.error(), kLayerNorm.of(dtype()));
        EXPECT_LE(in.mean.error(), kStatistics.of(dtype()));
        EXPECT_LE(in.rstd.error(), kLayerNorm.of(DType::f32));
        EXPECT_LE(in.y.error(), kLayerNorm.of(dtype()));
        if (shape.cols == 1) continue;  // the gradient through one column is 0, the error relative
        cpu().add_layernorm_backward(in.host_backward());
        in.run_backward(in.device_backward());
        EXPECT_LE(in.dsum.error(), kLayerNorm.of(dtype()));
        EXPECT_LE(in.dx.error(), kLayerNorm.of(dtype()));
        EXPECT_LE(in.dgamma.error(), kLayerNorm.of(DType::f32));
        EXPECT_LE(in.dbeta.error(), kLayerNorm.of(DType::f32));
        EXPECT_LE(in.dbias.error(), kLayerNorm.of(DType::f32));
      }
}

TEST_P(LayerNormTest, NoRowsGiveNoGradient) {
  Problem in({0, 64}, dtype(), 0.1f, 0);
  add_layernorm_forward(launch_, in.device_forward());
  in.run_backward(in.device_backward());
  EXPECT_EQ(in.dgamma.values(), std::vector<double>(64, 0.0));
  EXPECT_EQ(in.dbias.values(), std::vector<double>(64, 0.0));
}

// More rows than one piece, for sums that several blocks contribute to.
TEST_P(LayerNormTest, ManyRows) {
  Problem in({150, 64}, dtype(), 0.2f, 0);
  cpu().add_layernorm_forward(in.host_forward());
  add_layernorm_forward(launch_, in.device_forward());
  cpu().add_layernorm_backward(in.host_backward());
  in.run_backward(in.device_backward());
  EXPECT_LE(in.y.error(), kLayerNorm.of(dtype()));
  EXPECT_LE(in.dx.error(), kLayerNorm.of(dtype()));
  EXPECT_LE(in.dgamma.error(), kLayerNorm.of(DType::f32));
  EXPECT_LE(in.dbias.error(), kLayerNorm.of(DType::f32));
}

TEST_P(LayerNormTest, RowsOfEqualValuesGiveBeta) {
  Problem in({4, 80}, dtype(), 0, 0);
  Matrix constant(4, 80);
  for (std::int64_t r = 0; r < 4; ++r)
    for (std::int64_t c = 0; c < 80; ++c) constant(r, c) = r == 3 ? 0 : std::pow(64, r);
  Pair x(constant, dtype(), 0);
  AddLayerNorm op = in.device_forward();
  op.x = x.device();
  op.bias = {};
  op.residual = {};
  add_layernorm_forward(launch_, op);
  Matrix want(4, 80);
  const std::vector<double> beta = in.beta.values();
  for (std::size_t i = 0; i < want.values.size(); ++i) want.values[i] = beta[i % 80];
  EXPECT_EQ(in.y.values(), want.as_stored(dtype()).values);
}

TEST_P(LayerNormTest, NanInARowStaysInThatRow) {
  Problem in({3, 80}, dtype(), 0, 0);
  Matrix values = random_matrix(3, 80, 1, dtype());
  values(1, 40) = std::nan("");
  Pair x(values, dtype(), 0);
  AddLayerNorm op = in.device_forward();
  op.x = x.device();
  add_layernorm_forward(launch_, op);
  const std::vector<double> y = in.y.values();
  for (std::size_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isnan(y[i]), i / 80 == 1);
}

TEST_P(LayerNormTest, ForwardOptionalPartsAndAliases) {
  for (const std::int64_t d : {80, 1280}) {  // a warp, and several, a row
    Problem full({7, d}, dtype(), 0.2f, 0), in({7, d}, dtype(), 0.2f, 0);
    add_layernorm_forward(launch_, full.device_forward());
    AddLayerNorm op = in.device_forward();
    op.sum = {};
    add_layernorm_forward(launch_, op);
    EXPECT_EQ(in.y.values(), full.y.values());
    EXPECT_EQ(in.rstd.values(), full.rstd.values());
    op.y = {};
    op.sum = in.residual.device();  // over the residual, without a normalization
    add_layernorm_forward(launch_, op);
    EXPECT_EQ(in.residual.values(), full.sum.values());
    op = in.device_forward();
    op.bias = {};
    op.residual = {};
    op.dropout = {};
    op.grid = {};
    op.sum = in.x.device();  // over x, which is the sum
    const std::vector<double> x = in.x.values();
    add_layernorm_forward(launch_, op);
    EXPECT_EQ(in.x.values(), x);
  }
}

TEST_P(LayerNormTest, BackwardOptionalPartsAndAliases) {
  for (const std::int64_t d : {80, 1280}) {
    Problem full({7, d}, dtype(), 0, 0), in({7, d}, dtype(), 0, 0);
    add_layernorm_forward(launch_, full.device_forward());
    add_layernorm_forward(launch_, in.device_forward());
    full.run_backward(full.device_backward());
    AddLayerNormBackward op = in.device_backward();
    op.dsum = op.dx = in.dy.device();
    op.dbias = {};
    in.run_backward(op);
    EXPECT_EQ(in.dy.values(), full.dsum.values());
    EXPECT_EQ(in.dgamma.values(), full.dgamma.values());
    // Without a normalization the gradient of the sum goes through.
    const std::vector<double> extra = in.extra.values();
    in.run_backward({.dsum = in.extra.device(),
                     .dx = in.dx.device(),
                     .dbias = in.dbias.device_span(),
                     .dsum_extra = in.extra.device()});
    EXPECT_EQ(in.extra.values(), extra);
    EXPECT_EQ(in.dx.values(), extra);
    Pair sums(1, d, DType::f32, 0);
    cpu().column_sum(sums.host_span(), in.extra.host());
    EXPECT_LE(relative_error(in.dbias.values(), demist::test::doubles(sums.host_span())),
              kColumnSum.of(DType::f32));
  }
}

TEST_P(LayerNormTest, SameBitsAlignedOrNotAndInAnyOrderOfThreads) {
  for (const std::int64_t d : {80, 2560}) {
    const auto compute = [&](std::int64_t gap) {
      Problem in({20, d}, dtype(), 0.1f, gap);
      add_layernorm_forward(launch_, in.device_forward());
      in.run_backward(in.device_backward());
      std::vector<double> all = in.y.values();
      for (const Pair* output : {&in.dx, &in.dgamma, &in.dbias})
        std::ranges::copy(output->values(), std::back_inserter(all));
      return all;
    };
    expect_same_bits([&] { return compute(0); });
    EXPECT_EQ(compute(0), compute(3));
  }
}

TEST(LayerNormLimit, LongRowsAreRefused) {
  Pair x(1, kMaxLayerNormColumns + 1, DType::f32, 0);
  EXPECT_THROW(add_layernorm_forward({}, {.sum = x.device(), .x = x.device()}), ConfigError);
}

}  // namespace
}  // namespace demist::cuda::test
