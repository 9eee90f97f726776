// SPDX-License-Identifier: Apache-2.0
#include "tests/support/kernel_fixture.hpp"

namespace demist::test {
namespace {

class RowsTest : public KernelTest {};
INSTANTIATE_TEST_SUITE_P(Cpu, RowsTest, every_kernel(), kernel_name);

const std::pair<std::int64_t, std::int64_t> kShapes[] = {
    {1, 1}, {1, 8}, {40, 1}, {5, 7}, {37, 80}, {50, 384}, {17, 768}, {3, 40000}};

TEST_P(RowsTest, GatherCopiesAndScatterPutsBack) {
  for (const std::int64_t d : {1, 8, 80, 384}) {
    const Matrix x = random_matrix(20, d, 1, dtype());
    const std::vector<std::int32_t> rows = {19, 0, 7, 3};
    Operand source(x, dtype()), gathered(4, d, dtype()), scattered(20, d, dtype());
    backend().gather_rows(gathered.view(), source.view(), rows);
    backend().scatter_rows(scattered.view(), gathered.view(), rows);
    Matrix want(4, d), want_back(20, d);
    for (std::int64_t i = 0; i < 4; ++i)
      for (std::int64_t c = 0; c < d; ++c) {
        const std::int64_t r = rows[static_cast<std::size_t>(i)];
        want_back(r, c) = want(i, c) = x(r, c);
      }
    EXPECT_EQ(gathered.values(), want.values);
    EXPECT_EQ(scattered.values(), want_back.values);
    EXPECT_TRUE(gathered.gaps_are_intact() && scattered.gaps_are_intact());
    backend().scatter_rows(scattered.view(), gathered.view().row_slice(0, 0), {});
    EXPECT_EQ(scattered.values(), Matrix(20, d).values);
  }
}

TEST_P(RowsTest, ColumnSum) {
  for (const auto& [n, d] : kShapes) {
    const Matrix x = random_matrix(n, d, 2, dtype());
    Operand operand(x, dtype()), out(1, d, DType::f32);
    backend().column_sum(out.span(), operand.view());
    Matrix want(1, d);
    for (std::int64_t r = 0; r < n; ++r)
      for (std::int64_t c = 0; c < d; ++c) want(0, c) += x(r, c);
    EXPECT_LE(relative_error(out.values(), want.values), kColumnSum.of(dtype()));
    EXPECT_TRUE(out.gaps_are_intact());
  }
}

TEST_P(RowsTest, AddRoundsOnce) {
  for (const std::int64_t gap : {0, 3})
    for (const auto& [n, d] : kShapes) {
      const Matrix a = random_matrix(n, d, 3, dtype()), b = random_matrix(n, d, 4, dtype());
      Operand left(a, dtype(), gap), right(b, dtype(), gap), out(n, d, dtype(), gap);
      backend().add(out.view(), left.view(), right.view());
      Matrix want = a;
      for (std::size_t i = 0; i < want.values.size(); ++i) want.values[i] += b.values[i];
      EXPECT_EQ(out.values(), want.as_stored(dtype()).values);
      EXPECT_TRUE(out.gaps_are_intact());
      backend().add(left.view(), left.view(), right.view());
      EXPECT_EQ(left.values(), out.values());
      backend().add(right.view(), left.view(), right.view());  // a + b + b
      EXPECT_TRUE(right.gaps_are_intact());
    }
}

TEST_P(RowsTest, ConvertRoundsToNearestEven) {
  for (const std::int64_t gap : {0, 3})
    for (const auto& [n, d] : kShapes) {
      const Matrix x = random_matrix(n, d, 5, DType::f32, 100);
      Operand in(x, DType::f32, gap), out(n, d, dtype(), gap), back(n, d, DType::f32, gap);
      backend().convert(out.view(), in.view());
      EXPECT_EQ(out.values(), x.as_stored(dtype()).values);
      backend().convert(back.view(), out.view());
      EXPECT_EQ(back.values(), out.values());
      EXPECT_TRUE(out.gaps_are_intact() && back.gaps_are_intact());
    }
}

TEST_P(RowsTest, ConvertTiesAndSpecialValues) {
  const double infinity = std::numeric_limits<double>::infinity();
  Matrix x(1, 20);
  x.values = {1 + 0x1p-8,
              1 + 3 * 0x1p-8,
              1 + 0x1.01p-8,
              -1 - 0x1p-8,
              0,
              -0.0,
              0x1p-126,
              0x1.fffffep127,
              infinity,
              -infinity,
              1,
              2,
              3,
              4,
              5,
              6,
              7,
              8,
              9,
              10};
  Operand in(x, DType::f32), out(1, 20, dtype());
  backend().convert(out.view(), in.view());
  EXPECT_EQ(out.values(), x.as_stored(dtype()).values);
  for (double& value : x.values) value = std::nan("");
  Operand nan(x, DType::f32);
  backend().convert(out.view(), nan.view());
  for (const double value : out.values()) EXPECT_TRUE(std::isnan(value));
}

TEST_P(RowsTest, SameBitsForOneAndTwoThreads) {
  const Matrix x = random_matrix(1003, 77, 6, dtype());
  expect_same_for_threads([&] {
    Operand operand(x, dtype()), out(1, 77, DType::f32);
    backend().column_sum(out.span(), operand.view());
    return out.values();
  });
}

}  // namespace
}  // namespace demist::test
