// SPDX-License-Identifier: Apache-2.0
#include <numeric>

#include "tests/support/kernel_fixture.hpp"
#include "tests/support/oracle_dropout.hpp"

namespace demist::test {
namespace {

// One call's inputs. `extra` is the gradient that reaches the sum beside the normalization.
struct Problem {
  Matrix x, bias, residual, gamma, beta, dy, extra;
  Dropout drop;
  std::vector<std::uint64_t> samples;
  double epsilon = 1e-5;

  Problem(std::int64_t n, std::int64_t d, DType dtype, float p = 0)
      : x(random_matrix(n, d, 1, dtype)),
        bias(random_matrix(1, d, 2, DType::f32)),
        residual(random_matrix(n, d, 3, dtype, 2)),
        gamma(random_matrix(1, d, 4, DType::f32, 2)),
        beta(random_matrix(1, d, 5, DType::f32)),
        dy(random_matrix(n, d, 6, dtype)),
        extra(random_matrix(n, d, 7, dtype)),
        drop{.p = p, .key = 77},
        samples(static_cast<std::size_t>(n)) {
    std::iota(samples.begin(), samples.end(), 1ull << 40);
  }
  TokenGrid grid() const { return {.rows = x.rows, .cols = 1, .sample = samples}; }
  double factor(std::int64_t r, std::int64_t c) const { return dropout_factor(drop, grid(), r, c); }
};

Matrix oracle_sum(const Problem& in) {
  Matrix sum = in.residual;
  for (std::int64_t r = 0; r < sum.rows; ++r)
    for (std::int64_t c = 0; c < sum.cols; ++c)
      sum(r, c) += in.factor(r, c) * (in.x(r, c) + in.bias(0, c));
  return sum;
}

struct Statistics {
  std::vector<double> mean, rstd;
};

Statistics oracle_statistics(const Problem& in, const Matrix& sum) {
  Statistics result;
  const auto d = static_cast<double>(sum.cols);
  for (std::int64_t r = 0; r < sum.rows; ++r) {
    double mean = 0, variance = 0;
    for (std::int64_t c = 0; c < sum.cols; ++c) mean += sum(r, c) / d;
    for (std::int64_t c = 0; c < sum.cols; ++c) variance += std::pow(sum(r, c) - mean, 2) / d;
    result.mean.push_back(mean);
    result.rstd.push_back(1 / std::sqrt(variance + in.epsilon));
  }
  return result;
}

Matrix oracle_normalized(const Problem& in, const Matrix& sum) {
  const Statistics statistics = oracle_statistics(in, sum);
  Matrix result = sum;
  for (std::int64_t r = 0; r < sum.rows; ++r)
    for (std::int64_t c = 0; c < sum.cols; ++c) {
      const auto row = static_cast<std::size_t>(r);
      result(r, c) = (sum(r, c) - statistics.mean[row]) * statistics.rstd[row];
    }
  return result;
}

Matrix oracle_y(const Problem& in, const Matrix& sum) {
  Matrix y = oracle_normalized(in, sum);
  for (std::int64_t r = 0; r < y.rows; ++r)
    for (std::int64_t c = 0; c < y.cols; ++c) y(r, c) = y(r, c) * in.gamma(0, c) + in.beta(0, c);
  return y;
}

struct Gradients {
  Matrix dsum, dx, dgamma, dbeta, dbias;
};

// By the chain rule through mean and variance, one step at a time.
Gradients oracle_backward(const Problem& in, const Matrix& sum) {
  const std::int64_t n = sum.rows, d = sum.cols;
  const Matrix normal = oracle_normalized(in, sum);
  const Statistics statistics = oracle_statistics(in, sum);
  Gradients out{Matrix(n, d), Matrix(n, d), Matrix(1, d), Matrix(1, d), Matrix(1, d)};
  for (std::int64_t r = 0; r < n; ++r) {
    const double rstd = statistics.rstd[static_cast<std::size_t>(r)];
    double dvariance = 0, dmean = 0;
    for (std::int64_t c = 0; c < d; ++c) {
      const double dnormal = in.dy(r, c) * in.gamma(0, c);
      dvariance += dnormal * normal(r, c) / rstd * -0.5 * rstd * rstd * rstd;
      dmean -= dnormal * rstd;
      out.dgamma(0, c) += in.dy(r, c) * normal(r, c);
      out.dbeta(0, c) += in.dy(r, c);
    }
    for (std::int64_t c = 0; c < d; ++c) {
      const double centered = normal(r, c) / rstd;
      out.dsum(r, c) = in.dy(r, c) * in.gamma(0, c) * rstd +
                       (dvariance * 2 * centered + dmean) / static_cast<double>(d) + in.extra(r, c);
      out.dx(r, c) = out.dsum(r, c) * in.factor(r, c);
      out.dbias(0, c) += out.dx(r, c);
    }
  }
  return out;
}

TEST(LayerNormOracle, BackwardMatchesDifferences) {
  Problem in(3, 7, DType::f32, 0.3f);
  const Gradients gradients = oracle_backward(in, oracle_sum(in));
  const auto loss = [&] {
    const Matrix sum = oracle_sum(in);
    return dot(oracle_y(in, sum).values, in.dy.values) + dot(sum.values, in.extra.values);
  };
  expect_gradient(loss, in.x.values, gradients.dx.values);
  expect_gradient(loss, in.residual.values, gradients.dsum.values);
  expect_gradient(loss, in.bias.values, gradients.dbias.values);
  expect_gradient(loss, in.gamma.values, gradients.dgamma.values);
  expect_gradient(loss, in.beta.values, gradients.dbeta.values);
}

class LayerNormTest : public KernelTest {};
INSTANTIATE_TEST_SUITE_P(Cpu, LayerNormTest, every_kernel(), kernel_name);

struct Forward {
  Operand sum, y, mean, rstd;
};

Forward run_forward(Backend& backend, const Problem& in, DType dtype) {
  const std::int64_t n = in.x.rows, d = in.x.cols;
  Operand x(in.x, dtype), residual(in.residual, dtype), bias(in.bias, DType::f32);
  Operand gamma(in.gamma, DType::f32), beta(in.beta, DType::f32);
  Forward out{{n, d, dtype}, {n, d, dtype}, {1, n, DType::f32}, {1, n, DType::f32}};
  backend.add_layernorm_forward({.sum = out.sum.view(),
                                 .y = out.y.view(),
                                 .mean = out.mean.span(),
                                 .rstd = out.rstd.span(),
                                 .x = x.view(),
                                 .bias = bias.span(),
                                 .residual = residual.view(),
                                 .gamma = gamma.span(),
                                 .beta = beta.span(),
                                 .epsilon = static_cast<float>(in.epsilon),
                                 .dropout = in.drop,
                                 .grid = in.grid()});
  EXPECT_TRUE(out.sum.gaps_are_intact() && out.y.gaps_are_intact());
  return out;
}

const std::pair<std::int64_t, std::int64_t> kShapes[] = {
    {1, 8}, {1, 1}, {40, 1}, {5, 7}, {3, 64}, {37, 80}, {20, 384}, {50, 768}, {2, 1024}};

TEST_P(LayerNormTest, ForwardMatchesTheFormula) {
  for (const auto& [n, d] : kShapes)
    for (const float p : {0.0f, 0.1f}) {
      const Problem in(n, d, dtype(), p);
      Forward got = run_forward(backend(), in, dtype());
      const Matrix sum = oracle_sum(in).as_stored(dtype());
      EXPECT_LE(relative_error(got.sum.values(), sum.values), kLayerNorm.of(dtype()));
      // From here on with the sum as the kernel stored it.
      const Matrix stored = got.sum.matrix();
      const Statistics statistics = oracle_statistics(in, stored);
      EXPECT_LE(relative_error(got.mean.values(), statistics.mean), kStatistics);
      EXPECT_LE(relative_error(got.rstd.values(), statistics.rstd), kStatistics);
      EXPECT_LE(relative_error(got.y.values(), oracle_y(in, stored).as_stored(dtype()).values),
                kLayerNorm.of(dtype()));
    }
}

TEST_P(LayerNormTest, RowsOfEqualValuesGiveBeta) {
  Problem in(4, 80, dtype());
  for (double& value : in.x.values) value = 0;
  for (double& value : in.bias.values) value = 0;
  for (std::int64_t r = 0; r < 4; ++r)
    for (std::int64_t c = 0; c < 80; ++c) in.residual(r, c) = r == 3 ? 0 : std::pow(100, r);
  in.residual = in.residual.as_stored(dtype());
  Forward got = run_forward(backend(), in, dtype());
  Matrix want(4, 80);
  for (std::int64_t r = 0; r < 4; ++r)
    for (std::int64_t c = 0; c < 80; ++c) want(r, c) = in.beta(0, c);
  EXPECT_LE(relative_error(got.y.values(), want.as_stored(dtype()).values), kLayerNorm.of(dtype()));
}

TEST_P(LayerNormTest, NanInARowStaysInThatRow) {
  Problem in(3, 80, dtype());
  in.x(1, 40) = std::nan("");
  const Matrix y = run_forward(backend(), in, dtype()).y.matrix();
  for (std::int64_t r = 0; r < 3; ++r)
    for (std::int64_t c = 0; c < 80; ++c) EXPECT_EQ(std::isnan(y(r, c)), r == 1);
}

TEST_P(LayerNormTest, OptionalPartsAndAliases) {
  const Problem in(7, 80, dtype(), 0.2f);
  Forward full = run_forward(backend(), in, dtype());
  Operand x(in.x, dtype()), residual(in.residual, dtype()), bias(in.bias, DType::f32);
  Operand gamma(in.gamma, DType::f32), beta(in.beta, DType::f32);
  Operand y(7, 80, dtype()), mean(1, 7, DType::f32), rstd(1, 7, DType::f32);
  AddLayerNorm op{.y = y.view(),
                  .mean = mean.span(),
                  .rstd = rstd.span(),
                  .x = x.view(),
                  .bias = bias.span(),
                  .residual = residual.view(),
                  .gamma = gamma.span(),
                  .beta = beta.span(),
                  .dropout = in.drop,
                  .grid = in.grid()};
  backend().add_layernorm_forward(op);  // no sum
  EXPECT_EQ(y.values(), full.y.values());
  EXPECT_EQ(mean.values(), full.mean.values());
  op.y = {};
  op.sum = residual.view();  // the sum over the residual, no normalization
  backend().add_layernorm_forward(op);
  EXPECT_EQ(residual.values(), full.sum.values());
  // Neither bias nor residual nor dropout: y is the LayerNorm of x.
  Problem plain = in;
  plain.drop = {};
  for (double& value : plain.bias.values) value = 0;
  for (double& value : plain.residual.values) value = 0;
  Forward want = run_forward(backend(), plain, dtype());
  backend().add_layernorm_forward({.sum = x.view(),
                                   .y = y.view(),
                                   .mean = mean.span(),
                                   .rstd = rstd.span(),
                                   .x = x.view(),
                                   .gamma = gamma.span(),
                                   .beta = beta.span()});
  EXPECT_EQ(x.values(), in.x.values);
  EXPECT_EQ(y.values(), want.y.values());
}

struct Backward {
  Operand dsum, dx, dgamma, dbeta, dbias;
};

Backward run_backward(Backend& backend, const Problem& in, Forward& forward, DType dtype) {
  const std::int64_t n = in.x.rows, d = in.x.cols;
  Operand dy(in.dy, dtype), extra(in.extra, dtype), gamma(in.gamma, DType::f32);
  Backward out{
      {n, d, dtype}, {n, d, dtype}, {1, d, DType::f32}, {1, d, DType::f32}, {1, d, DType::f32}};
  backend.add_layernorm_backward({.dsum = out.dsum.view(),
                                  .dx = out.dx.view(),
                                  .dgamma = out.dgamma.span(),
                                  .dbeta = out.dbeta.span(),
                                  .dbias = out.dbias.span(),
                                  .dy = dy.view(),
                                  .dsum_extra = extra.view(),
                                  .sum = forward.sum.view(),
                                  .mean = forward.mean.span(),
                                  .rstd = forward.rstd.span(),
                                  .gamma = gamma.span(),
                                  .dropout = in.drop,
                                  .grid = in.grid()});
  EXPECT_TRUE(out.dsum.gaps_are_intact() && out.dx.gaps_are_intact());
  EXPECT_TRUE(out.dgamma.gaps_are_intact() && out.dbias.gaps_are_intact());
  return out;
}

TEST_P(LayerNormTest, BackwardMatchesTheFormula) {
  for (const auto& [n, d] : kShapes) {
    if (d == 1) continue;  // the gradient through one column is exactly 0, the error relative
    for (const float p : {0.0f, 0.1f}) {
      const Problem in(n, d, dtype(), p);
      Forward forward = run_forward(backend(), in, dtype());
      Backward got = run_backward(backend(), in, forward, dtype());
      const Gradients want = oracle_backward(in, forward.sum.matrix());
      const auto expect_near = [&](Operand& output, const Matrix& oracle, DType stored) {
        EXPECT_LE(relative_error(output.values(), oracle.as_stored(stored).values),
                  kLayerNorm.of(stored))
            << n << " x " << d << ", p = " << p;
      };
      expect_near(got.dsum, want.dsum, dtype());
      expect_near(got.dx, want.dx, dtype());
      expect_near(got.dgamma, want.dgamma, DType::f32);
      expect_near(got.dbeta, want.dbeta, DType::f32);
      expect_near(got.dbias, want.dbias, DType::f32);
    }
  }
}

TEST_P(LayerNormTest, BackwardOptionalPartsAndAliases) {
  const Problem in(7, 80, dtype());
  Forward forward = run_forward(backend(), in, dtype());
  Backward full = run_backward(backend(), in, forward, dtype());
  Operand dy(in.dy, dtype()), extra(in.extra, dtype()), gamma(in.gamma, DType::f32);
  Operand dgamma(1, 80, DType::f32), dbeta(1, 80, DType::f32), dbias(1, 80, DType::f32);
  AddLayerNormBackward op{.dsum = dy.view(),
                          .dx = dy.view(),
                          .dgamma = dgamma.span(),
                          .dbeta = dbeta.span(),
                          .dy = dy.view(),
                          .dsum_extra = extra.view(),
                          .sum = forward.sum.view(),
                          .mean = forward.mean.span(),
                          .rstd = forward.rstd.span(),
                          .gamma = gamma.span()};
  backend().add_layernorm_backward(op);
  EXPECT_EQ(dy.values(), full.dsum.values());
  EXPECT_EQ(dgamma.values(), full.dgamma.values());
  // Without a normalization the gradient of the sum goes through.
  Operand dx(7, 80, dtype());
  backend().add_layernorm_backward(
      {.dsum = extra.view(), .dx = dx.view(), .dbias = dbias.span(), .dsum_extra = extra.view()});
  EXPECT_EQ(extra.values(), in.extra.values);
  EXPECT_EQ(dx.values(), in.extra.values);
}

TEST_P(LayerNormTest, SameBitsForOneAndTwoThreads) {
  const Problem in(301, 72, dtype(), 0.1f);
  expect_same_for_threads([&] {
    Forward forward = run_forward(backend(), in, dtype());
    Backward backward = run_backward(backend(), in, forward, dtype());
    std::vector<double> all;
    for (Operand* output :
         {&forward.y, &backward.dx, &backward.dgamma, &backward.dbeta, &backward.dbias})
      for (const double value : output->values()) all.push_back(value);
    return all;
  });
}

}  // namespace
}  // namespace demist::test
