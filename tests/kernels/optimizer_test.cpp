// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "tests/support/kernel_fixture.hpp"
#include "tests/support/one_tensor.hpp"

namespace demist::test {
namespace {

class OptimizerTest : public KernelTest {
 protected:
  float max_abs(std::span<const float> values, float so_far = 0) {
    backend().max_abs({&so_far, 1}, values);
    return so_far;
  }
  // Returns the largest |grad|.
  float add(std::span<std::int64_t> acc, std::span<const float> grad, int exponent) {
    const OneTensor tensor(std::ssize(grad), exponent);
    std::vector<float> largest(tensor.size());
    backend().fixed_point_add(acc, largest, grad, tensor.view());
    return *std::ranges::max_element(largest);
  }
};
INSTANTIATE_TEST_SUITE_P(Cpu, OptimizerTest, every_kernel(), kernel_name);

const std::int64_t kSizes[] = {1, 7, 8, 1023, 1024, 1025, 100003};

std::vector<float> random_floats(std::int64_t n, std::uint64_t seed, double scale = 1) {
  return floats(random_matrix(1, n, seed, DType::f32, scale).values);
}

TEST_P(OptimizerTest, FixedPointRoundsToNearestEven) {
  const std::vector<float> grad = {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 0.75f, -0.25f, 3.0f, 2.5f};
  std::vector<std::int64_t> acc(9, 100);
  add(acc, grad, 0);
  EXPECT_EQ(acc, (std::vector<std::int64_t>{100, 102, 102, 100, 98, 101, 100, 103, 102}));
}

TEST_P(OptimizerTest, FixedPointAddsExactly) {
  for (const std::int64_t n : kSizes)
    for (const int exponent : {0, 30, 52, 61}) {
      const std::vector<float> grad = random_floats(n, 1);
      std::vector<std::int64_t> acc(static_cast<std::size_t>(n), -5), want = acc;
      add(acc, grad, exponent);
      for (std::size_t i = 0; i < want.size(); ++i)
        want[i] += std::llrint(std::ldexp(static_cast<double>(grad[i]), exponent));
      EXPECT_EQ(acc, want) << n << " elements, exponent " << exponent;
    }
  std::vector<float> tiny = {0x1p-140f, 0x1p-149f};
  std::vector<std::int64_t> acc(2);
  add(acc, tiny, 150);
  EXPECT_EQ(acc, (std::vector<std::int64_t>{1024, 2}));
}

// Two tensors with scales of their own, a gap between them that nobody touches, and one of them in
// two pieces.
TEST_P(OptimizerTest, FixedPointWorksOnPieces) {
  const std::vector<ScaledPiece> pieces = {{0, 10, 1}, {10, 5, 1}, {24, 9, 0}};
  const std::vector<double> scale = {0x1p3, 0x1p20};
  const std::vector<float> grad = random_floats(40, 8);
  std::vector<std::int64_t> acc(40, 7), want = acc;
  std::vector<float> out(40, -9), want_out = out, want_largest = {0, 0, 100};
  const auto each = [&](auto&& body) {
    for (std::size_t p = 0; p < pieces.size(); ++p)
      for (std::int64_t i = 0; i < pieces[p].count; ++i)
        body(p, static_cast<std::size_t>(pieces[p].begin + i),
             scale[static_cast<std::size_t>(pieces[p].tensor)]);
  };
  each([&](std::size_t p, std::size_t i, double by) {
    want[i] += std::llrint(static_cast<double>(grad[i]) * by);
    want_out[i] = static_cast<float>(static_cast<double>(want[i]) / by);
    want_largest[p] = std::max(want_largest[p], std::abs(grad[i]));
  });
  std::vector<float> largest = {0, 0, 100}, only_largest = largest;
  const ScaledPieces view{pieces, scale, true};
  EXPECT_THROW(backend().fixed_point_add(acc, largest, grad, view), InternalError) << "10 % 8";
  backend().fixed_point_add(acc, largest, grad, {pieces, scale, false});
  backend().fixed_point_add({}, only_largest, grad, {pieces, scale, false});
  backend().fixed_point_to_float(out, acc, {pieces, scale, false});
  EXPECT_EQ(acc, want);
  EXPECT_EQ(out, want_out);
  EXPECT_EQ(largest, want_largest);
  EXPECT_EQ(only_largest, want_largest);
  std::vector<float> bad = grad;
  bad[30] = std::nanf("");
  backend().fixed_point_add({}, only_largest, bad, {pieces, scale, false});
  EXPECT_EQ(only_largest[1], want_largest[1]);
  EXPECT_TRUE(std::isnan(only_largest[2]));
}

TEST_P(OptimizerTest, FixedPointRoundIsAddThenToFloat) {
  for (const std::int64_t n : kSizes)
    for (const int exponent : {-3, 0, 20, 61}) {
      std::vector<float> grad = random_floats(n, 5);
      std::vector<std::int64_t> acc(grad.size());
      std::vector<float> want(grad.size());
      add(acc, grad, exponent);
      backend().fixed_point_to_float(want, acc, OneTensor(n, exponent).view());
      backend().fixed_point_round(grad, grad, OneTensor(n, exponent).view());
      EXPECT_EQ(grad, want) << n << " elements, exponent " << exponent;
    }
}

TEST_P(OptimizerTest, FixedPointToFloatRoundsOnce) {
  // 2^54 + 2^30 + 1 is above a tie of fp32: by way of a double it would round down.
  std::vector<std::int64_t> acc = {(1ll << 54) + (1ll << 30) + 1,
                                   -(1ll << 54),
                                   1,
                                   0,
                                   -3,
                                   7,
                                   8,
                                   9,
                                   (1ll << 54) + (1ll << 30) + 1,
                                   5};
  std::vector<float> out(acc.size());
  backend().fixed_point_to_float(out, acc, OneTensor(10, 54).view());
  for (std::size_t i = 0; i < acc.size(); ++i)
    EXPECT_EQ(out[i], std::ldexp(static_cast<float>(acc[i]), -54)) << i;
  EXPECT_EQ(out[0], 1 + 0x1p-23f);
  EXPECT_EQ(out[8], 1 + 0x1p-23f);
}

TEST_P(OptimizerTest, MaxAbsFindsTheLargestAndWhatIsNotFinite) {
  for (const std::int64_t n : kSizes) {
    std::vector<float> values = random_floats(n, 2);
    const std::size_t middle = values.size() / 2;
    values[middle] = -3;
    EXPECT_EQ(max_abs(values), 3.0f);
    values[values.size() - 1] = 3.5f;
    EXPECT_EQ(max_abs(values), 3.5f);
    EXPECT_EQ(max_abs(values, 4.5f), 4.5f) << "the largest so far counts";
    EXPECT_TRUE(std::isnan(max_abs(values, std::nanf("")))) << "NaN sticks";
    for (const float bad : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
      values[middle] = -bad;
      EXPECT_TRUE(std::isnan(max_abs(values))) << n;
    }
  }
  const std::vector<float> zeros(20);
  EXPECT_EQ(max_abs({}), 0.0f);
  EXPECT_EQ(max_abs(zeros), 0.0f);
}

TEST_P(OptimizerTest, TileSumSquares) {
  for (const std::int64_t n : kSizes) {
    const std::vector<float> values = random_floats(n, 3);
    std::vector<double> out(static_cast<std::size_t>((n + 1023) / 1024), -1), want(out.size());
    backend().tile_sum_squares(out, values);
    for (std::size_t i = 0; i < values.size(); ++i)
      want[i / 1024] += static_cast<double>(values[i]) * static_cast<double>(values[i]);
    EXPECT_LE(relative_error(out, want), 1e-14);
    if (std::get<0>(GetParam()) == std::string("avx2")) continue;
    std::vector<double> elsewhere(out.size());
    make_cpu_backend("avx2")->tile_sum_squares(elsewhere, values);
    EXPECT_EQ(out, elsewhere) << "the bits depend on the machine";
  }
}

struct Adam {
  std::vector<float> param, m, v, grad;
  explicit Adam(std::int64_t n)
      : param(random_floats(n, 4)),
        m(random_floats(n, 5, 0.1)),
        v(random_floats(n, 6, 0.1)),
        grad(random_floats(n, 7)) {
    for (float& value : v) value = std::abs(value);
  }
};

constexpr AdamW kAdam{.lr = 0.01f,
                      .beta1 = 0.9f,
                      .beta2 = 0.98f,
                      .epsilon = 1e-6f,
                      .weight_decay = 0.1f,
                      .bias_correction1 = 1 / 0.271f,
                      .bias_correction2 = 1 / 0.0588f,
                      .grad_scale = 0.5f};

TEST_P(OptimizerTest, AdamWMatchesTheFormula) {
  for (const std::int64_t n : kSizes) {
    Adam state(n);
    const Adam before = state;
    Operand work(1, n, dtype());
    backend().adamw(state.param, state.m, state.v, state.grad, work.view(), kAdam);
    const auto real = [](float x) { return static_cast<double>(x); };
    const double b1 = real(kAdam.beta1), b2 = real(kAdam.beta2);
    std::vector<double> param, m, v;
    for (std::size_t i = 0; i < before.param.size(); ++i) {
      const double g = real(before.grad[i]) * real(kAdam.grad_scale), p = real(before.param[i]);
      m.push_back(b1 * real(before.m[i]) + (1 - b1) * g);
      v.push_back(b2 * real(before.v[i]) + (1 - b2) * g * g);
      const double root = std::sqrt(v.back() * real(kAdam.bias_correction2));
      const double step = m.back() * real(kAdam.bias_correction1) / (root + real(kAdam.epsilon));
      param.push_back(p - real(kAdam.lr) * (step + real(kAdam.weight_decay) * p));
    }
    EXPECT_LE(relative_error(doubles(state.m), m), kAdamW.f32);
    EXPECT_LE(relative_error(doubles(state.v), v), kAdamW.f32);
    EXPECT_LE(relative_error(doubles(state.param), param), kAdamW.f32);
    Matrix stored(1, n);
    stored.values = doubles(state.param);
    EXPECT_EQ(work.values(), stored.as_stored(dtype()).values);
    EXPECT_TRUE(work.gaps_are_intact());
    Adam without = before;
    backend().adamw(without.param, without.m, without.v, without.grad, {}, kAdam);
    EXPECT_EQ(without.param, state.param);
  }
}

TEST_P(OptimizerTest, SameBitsForOneAndTwoThreads) {
  expect_same_for_threads([&] {
    Adam state(100003);
    backend().adamw(state.param, state.m, state.v, state.grad, {}, kAdam);
    return doubles(state.param);
  });
}

}  // namespace
}  // namespace demist::test
