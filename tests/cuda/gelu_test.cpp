// SPDX-License-Identifier: Apache-2.0
#include "tests/cuda/pair.hpp"

namespace demist::cuda::test {
namespace {

class GeluTest : public RowKernelTest {};
INSTANTIATE_TEST_SUITE_P(Device, GeluTest, both_types(), dtype_name);

TEST_P(GeluTest, MatchesTheCpu) {
  for (const auto& [n, d] : kShapes)
    for (const std::int64_t gap : kGaps) {
      Pair pre(random_matrix(n, d, 1, dtype(), 2), dtype(), gap), out(n, d, dtype(), gap);
      Pair bias(random_matrix(1, d, 2, DType::f32), DType::f32, 0);
      Pair dout(random_matrix(n, d, 3, dtype()), dtype(), gap), dpre(n, d, dtype(), gap);
      Pair dbias(1, d, DType::f32, 0);
      cpu().bias_gelu_forward(out.host(), pre.host(), bias.host_span());
      cpu().bias_gelu_backward(dpre.host(), dbias.host_span(), dout.host(), pre.host(),
                               bias.host_span());
      const Workspace work(bias_gelu_backward_workspace(n, d));
      bias_gelu_forward(launch_, out.device(), pre.device(), bias.device_span());
      bias_gelu_backward(work.launch(), dpre.device(), dbias.device_span(), dout.device(),
                         pre.device(), bias.device_span());
      SCOPED_TRACE(testing::Message() << n << " x " << d << ", gap " << gap);
      EXPECT_LE(out.error(), kGelu.of(dtype()));
      EXPECT_LE(dpre.error(), kGelu.of(dtype()));
      EXPECT_LE(dbias.error(), kGelu.of(DType::f32));
    }
}

// The columns' sums in more than one piece, and each output over an input.
TEST_P(GeluTest, ManyRowsInPlace) {
  const std::int64_t n = 300, d = 264;
  Pair pre(random_matrix(n, d, 1, dtype(), 4), dtype(), 0);
  Pair bias(random_matrix(1, d, 2, DType::f32), DType::f32, 0);
  Pair grad(random_matrix(n, d, 3, dtype()), dtype(), 0), dbias(1, d, DType::f32, 0);
  cpu().bias_gelu_backward(grad.host(), dbias.host_span(), grad.host(), pre.host(),
                           bias.host_span());
  cpu().bias_gelu_forward(pre.host(), pre.host(), bias.host_span());
  const Workspace work(bias_gelu_backward_workspace(n, d));
  bias_gelu_backward(work.launch(), grad.device(), dbias.device_span(), grad.device(), pre.device(),
                     bias.device_span());
  bias_gelu_forward(launch_, pre.device(), pre.device(), bias.device_span());
  EXPECT_LE(grad.error(), kGelu.of(dtype()));
  EXPECT_LE(dbias.error(), kGelu.of(DType::f32));
  EXPECT_LE(pre.error(), kGelu.of(dtype()));
}

TEST_P(GeluTest, LimitsAndNan) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  Matrix values(1, 8);
  values.values = {-kInfinity, kInfinity, std::nan(""), 0, -100, 100, -6, 6};
  Pair pre(values, dtype(), 0), bias(Matrix(1, 8), DType::f32, 0);
  bias_gelu_forward(launch_, pre.device(), pre.device(), bias.device_span());
  const std::vector<double> y = pre.values();
  EXPECT_EQ(y[0], 0);
  EXPECT_EQ(y[1], kInfinity);
  EXPECT_TRUE(std::isnan(y[2]));
  EXPECT_EQ(y[3], 0);
  EXPECT_EQ(y[4], 0);
  EXPECT_EQ(y[5], 100);

  Pair again(values, dtype(), 0), dbias(1, 8, DType::f32, 0);
  Matrix ones(1, 8);
  std::ranges::fill(ones.values, 1.0);
  Pair slope(ones, dtype(), 0);
  const Workspace work(bias_gelu_backward_workspace(1, 8));
  bias_gelu_backward(work.launch(), slope.device(), dbias.device_span(), slope.device(),
                     again.device(), bias.device_span());
  const std::vector<double> s = slope.values();
  EXPECT_EQ(s[0], 0);
  EXPECT_EQ(s[1], 1);
  EXPECT_TRUE(std::isnan(s[2]));
  EXPECT_EQ(s[3], 0.5);
}

TEST_P(GeluTest, SameBitsInAnyOrderOfThreads) {
  expect_same_bits([&] {
    Pair pre(random_matrix(100, 80, 1, dtype()), dtype(), 0), dpre(100, 80, dtype(), 0);
    Pair bias(random_matrix(1, 80, 2, DType::f32), DType::f32, 0), dbias(1, 80, DType::f32, 0);
    const Workspace work(bias_gelu_backward_workspace(100, 80));
    bias_gelu_backward(work.launch(), dpre.device(), dbias.device_span(), pre.device(),
                       pre.device(), bias.device_span());
    return dbias.values();
  });
}

}  // namespace
}  // namespace demist::cuda::test
