// SPDX-License-Identifier: Apache-2.0
#include <numeric>

#include "tests/support/kernel_fixture.hpp"
#include "tests/support/oracle_dropout.hpp"

namespace demist::test {
namespace {

class DropoutTest : public KernelTest {};
INSTANTIATE_TEST_SUITE_P(Cpu, DropoutTest, every_kernel(), kernel_name);

TEST_P(DropoutTest, DropsWhatTheScalarFormulaDrops) {
  const std::vector<std::uint64_t> samples = {0x123456789abcdef0u, 7, ~0ull};
  const TokenGrid grid{.rows = 3, .cols = 5, .sample = samples};
  for (const std::int64_t d : {1, 8, 80, 127, 128, 129, 384, 770})
    for (const float p : {0.001f, 0.1f, 0.5f, 0.999f}) {
      const Dropout dropout{.p = p, .key = stream_key(3, "dropout", 17)};
      const Matrix x = random_matrix(15, d, 5, dtype());
      Operand operand(x, dtype());
      backend().dropout(operand.view(), dropout, grid);
      Matrix want = x;
      for (std::int64_t r = 0; r < want.rows; ++r)
        for (std::int64_t c = 0; c < d; ++c) want(r, c) *= dropout_factor(dropout, grid, r, c);
      EXPECT_EQ(operand.values(), want.as_stored(dtype()).values) << d << " columns, p = " << p;
      EXPECT_TRUE(operand.gaps_are_intact());
    }
}

TEST_P(DropoutTest, KeepsTheMeanAndTheRate) {
  std::vector<std::uint64_t> samples(64);
  std::iota(samples.begin(), samples.end(), 1000);
  const TokenGrid grid{.rows = 64, .cols = 8, .sample = samples};
  Matrix ones(512, 256);
  for (double& value : ones.values) value = 1;
  Operand x(ones, dtype());
  backend().dropout(x.view(), {.p = 0.1f, .key = 99}, grid);
  double zeros = 0, sum = 0;
  for (const double value : x.values()) {
    zeros += value == 0;
    sum += value;
  }
  const double count = 512 * 256, sigma = std::sqrt(0.1 * 0.9 / count);
  EXPECT_NEAR(zeros / count, 0.1, 5 * sigma);
  EXPECT_NEAR(sum / count, 1, 5 * sigma / 0.9 + 1e-3);  // 1 / 0.9 rounded to bf16
}

TEST_P(DropoutTest, DoesNothingWhenOff) {
  const Matrix x = random_matrix(4, 9, 5, dtype());
  Operand operand(x, dtype());
  backend().dropout(operand.view(), {}, {});
  EXPECT_EQ(operand.values(), x.values);
}

TEST_P(DropoutTest, ARowDoesNotDependOnItsBatch) {
  const std::vector<std::uint64_t> both = {11, 12}, second = {12};
  const Matrix x = random_matrix(6, 200, 5, dtype());
  Matrix lower(3, 200);
  lower.values.assign(x.values.begin() + 600, x.values.end());
  Operand batch(x, dtype()), alone(lower, dtype());
  const Dropout dropout{.p = 0.3f, .key = 5};
  backend().dropout(batch.view(), dropout, {.rows = 2, .cols = 3, .sample = both});
  backend().dropout(alone.view(), dropout, {.rows = 1, .cols = 3, .sample = second});
  const auto all = batch.values();
  EXPECT_EQ(alone.values(), std::vector<double>(all.begin() + 600, all.end()));
}

}  // namespace
}  // namespace demist::test
