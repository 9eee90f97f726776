// SPDX-License-Identifier: Apache-2.0
#include <numbers>

#include "tests/support/kernel_fixture.hpp"

namespace demist::test {
namespace {

double phi(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }
double gelu(double x) { return x * phi(x); }
double gelu_derivative(double x) {
  return phi(x) + x * std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
}

class GeluTest : public KernelTest {};
INSTANTIATE_TEST_SUITE_P(Cpu, GeluTest, every_kernel(), kernel_name);

struct Problem {
  Matrix pre, dout, bias;
  Problem(std::int64_t n, std::int64_t d, DType dtype)
      : pre(random_matrix(n, d, 1, dtype, 4)),
        dout(random_matrix(n, d, 2, dtype)),
        bias(random_matrix(1, d, 3, DType::f32)) {}
  double x(std::int64_t r, std::int64_t c) const { return pre(r, c) + bias(0, c); }
};

const std::pair<std::int64_t, std::int64_t> kShapes[] = {{1, 1},   {1, 8},    {5, 7},   {3, 64},
                                                         {37, 80}, {50, 384}, {70, 768}};

TEST_P(GeluTest, ForwardMatchesTheFormula) {
  for (const auto& [n, d] : kShapes) {
    const Problem problem(n, d, dtype());
    Operand pre(problem.pre, dtype()), out(n, d, dtype()), bias(problem.bias, DType::f32);
    backend().bias_gelu_forward(out.view(), pre.view(), bias.span());
    Matrix want(n, d);
    for (std::int64_t r = 0; r < n; ++r)
      for (std::int64_t c = 0; c < d; ++c) want(r, c) = gelu(problem.x(r, c));
    EXPECT_LE(relative_error(out.values(), want.as_stored(dtype()).values), kGelu.of(dtype()));
    EXPECT_TRUE(out.gaps_are_intact());
    backend().bias_gelu_forward(pre.view(), pre.view(), bias.span());
    EXPECT_EQ(pre.values(), out.values());
  }
}

TEST(GeluOracle, DerivativeMatchesDifferences) {
  std::vector<double> x, derivative;
  for (double v = -6; v <= 6; v += 0.37) x.push_back(v);
  for (const double v : x) derivative.push_back(gelu_derivative(v));
  const auto sum = [&] {
    double s = 0;
    for (const double v : x) s += gelu(v);
    return s;
  };
  expect_gradient(sum, x, derivative);
}

TEST_P(GeluTest, BackwardMatchesTheFormula) {
  for (const auto& [n, d] : kShapes) {
    const Problem problem(n, d, dtype());
    Operand pre(problem.pre, dtype()), dout(problem.dout, dtype()), dpre(n, d, dtype());
    Operand bias(problem.bias, DType::f32), dbias(1, d, DType::f32);
    backend().bias_gelu_backward(dpre.view(), dbias.span(), dout.view(), pre.view(), bias.span());
    Matrix want(n, d), want_bias(1, d);
    for (std::int64_t r = 0; r < n; ++r)
      for (std::int64_t c = 0; c < d; ++c) {
        want(r, c) = problem.dout(r, c) * gelu_derivative(problem.x(r, c));
        want_bias(0, c) += want(r, c);
      }
    EXPECT_LE(relative_error(dpre.values(), want.as_stored(dtype()).values), kGelu.of(dtype()));
    EXPECT_LE(relative_error(dbias.values(), want_bias.values), kStatistics);
    EXPECT_TRUE(dpre.gaps_are_intact() && dbias.gaps_are_intact());
    backend().bias_gelu_backward(dout.view(), dbias.span(), dout.view(), pre.view(), bias.span());
    EXPECT_EQ(dout.values(), dpre.values());
  }
}

TEST_P(GeluTest, LimitsAndNan) {
  const double infinity = std::numeric_limits<double>::infinity();
  Matrix x(1, 9), zero(1, 9), one(1, 9);
  x.values = {-1e4, 1e4, -30, 30, 0, -infinity, infinity, std::nan(""), -6};
  for (double& value : one.values) value = 1;
  Operand pre(x, dtype()), out(1, 9, dtype()), bias(zero, DType::f32);
  backend().bias_gelu_forward(out.view(), pre.view(), bias.span());
  const auto y = out.values();
  EXPECT_EQ(y[0], 0);
  EXPECT_EQ(y[1], rounded(1e4, dtype()));
  EXPECT_EQ(y[2], 0);
  EXPECT_EQ(y[3], 30);
  EXPECT_EQ(y[4], 0);
  EXPECT_EQ(y[5], 0);
  EXPECT_EQ(y[6], infinity);
  EXPECT_TRUE(std::isnan(y[7]));
  EXPECT_NEAR(y[8], 0, 1e-6);
  Operand dout(one, dtype()), dpre(1, 9, dtype()), dbias(1, 9, DType::f32);
  backend().bias_gelu_backward(dpre.view(), dbias.span(), dout.view(), pre.view(), bias.span());
  const auto dx = dpre.values();
  EXPECT_NEAR(dx[0], 0, 1e-6);
  EXPECT_NEAR(dx[1], 1, 1e-6);
  EXPECT_EQ(dx[4], 0.5);
  EXPECT_TRUE(std::isnan(dx[7]));
}

TEST_P(GeluTest, SameBitsForOneAndTwoThreads) {
  const Problem problem(301, 72, dtype());
  expect_same_for_threads([&] {
    Operand pre(problem.pre, dtype()), dout(problem.dout, dtype()), bias(problem.bias, DType::f32);
    Operand out(301, 72, dtype()), dbias(1, 72, DType::f32);
    backend().bias_gelu_forward(out.view(), pre.view(), bias.span());
    backend().bias_gelu_backward(dout.view(), dbias.span(), dout.view(), pre.view(), bias.span());
    auto all = out.values();
    for (Operand* more : {&dout, &dbias})
      for (const double value : more->values()) all.push_back(value);
    return all;
  });
}

}  // namespace
}  // namespace demist::test
