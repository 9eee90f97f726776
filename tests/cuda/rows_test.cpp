// SPDX-License-Identifier: Apache-2.0
#include <numeric>

#include "tests/cuda/pair.hpp"
#include "tests/support/oracle_dropout.hpp"

namespace demist::cuda::test {
namespace {

class RowsTest : public RowKernelTest {};
INSTANTIATE_TEST_SUITE_P(Device, RowsTest, both_types(), dtype_name);

TEST_P(RowsTest, GatherAndScatterCopy) {
  for (const auto& [n, d] : kShapes)
    for (const std::int64_t gap : kGaps) {
      std::vector<std::int32_t> list;  // every third row, backwards
      for (std::int64_t r = n - 1; r >= 0; r -= 3) list.push_back(static_cast<std::int32_t>(r));
      const DeviceList<std::int32_t> rows(list);
      const auto count = static_cast<std::int64_t>(list.size());
      Pair x(random_matrix(n, d, 1, dtype()), dtype(), gap), some(count, d, dtype(), gap);
      Pair back(n, d, dtype(), gap);
      cpu().gather_rows(some.host(), x.host(), list);
      cpu().scatter_rows(back.host(), some.host(), list);
      gather_rows(launch_, some.device(), x.device(), rows);
      scatter_rows(launch_, back.device(), some.device(), rows);
      EXPECT_EQ(some.error(), 0) << n << " x " << d;
      EXPECT_EQ(back.error(), 0) << n << " x " << d;
    }
}

TEST_P(RowsTest, ColumnSumMatchesTheCpu) {
  for (const auto& [n, d] : {Shape{0, 5}, {1, 1}, {1, 300}, {33, 7}, {257, 80}, {70, 768}})
    for (const std::int64_t gap : kGaps) {
      Pair x(random_matrix(n, d, 1, dtype()), dtype(), gap), out(1, d, DType::f32, 0);
      cpu().column_sum(out.host_span(), x.host());
      const Workspace work(column_sum_workspace(n, d));
      column_sum(work.launch(), out.device_span(), x.device());
      EXPECT_LE(out.error(), kColumnSum.of(dtype())) << n << " x " << d << ", gap " << gap;
    }
}

TEST_P(RowsTest, ColumnSumHasTheSameBitsAlignedOrNotAndInAnyOrder) {
  const Matrix values = random_matrix(100, 264, 1, dtype());
  const auto compute = [&](std::int64_t gap) {
    Pair x(values, dtype(), gap), out(1, 264, DType::f32, 0);
    const Workspace work(column_sum_workspace(100, 264));
    column_sum(work.launch(), out.device_span(), x.device());
    return out.values();
  };
  EXPECT_EQ(compute(0), compute(3));
  expect_same_bits([&] { return compute(0); });
}

TEST_P(RowsTest, AddAndConvertHaveTheCpusBits) {
  for (const auto& [n, d] : kShapes)
    for (const std::int64_t gap : kGaps) {
      Pair a(random_matrix(n, d, 1, dtype()), dtype(), gap);
      Pair b(random_matrix(n, d, 2, dtype()), dtype(), gap), out(n, d, dtype(), gap);
      cpu().add(out.host(), a.host(), b.host());
      add(launch_, out.device(), a.device(), b.device());
      EXPECT_EQ(out.error(), 0);
      add(launch_, a.device(), a.device(), b.device());
      EXPECT_EQ(a.values(), out.values());

      Pair wide(random_matrix(n, d, 3, DType::f32), DType::f32, gap), narrow(n, d, dtype(), gap);
      Pair back(n, d, DType::f32, gap);
      cpu().convert(narrow.host(), wide.host());
      convert(launch_, narrow.device(), wide.device());
      EXPECT_EQ(narrow.error(), 0);
      convert(launch_, back.device(), narrow.device());
      EXPECT_EQ(back.values(), narrow.values());
    }
}

TEST_P(RowsTest, ConvertRoundsTiesToEvenAndKeepsWhatIsNotFinite) {
  Matrix values(1, 8);
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  values.values = {1 + 0x1p-8, 1 + 0x3p-8, 1 + 0x1.0002p-8, -0.0, kInfinity, -kInfinity, 3.4e38, 0};
  Pair in(values, DType::f32, 0), out(1, 8, DType::bf16, 0);
  convert(launch_, out.device(), in.device());
  EXPECT_EQ(out.values(), (std::vector<double>{1, 1 + 0x1p-6, 1 + 0x1p-7, -0.0, kInfinity,
                                               -kInfinity, kInfinity, 0}));
}

TEST_P(RowsTest, DropoutDrawsTheCpusBits) {
  const std::vector<std::uint64_t> samples = {7, (1ull << 40) + 3, ~0ull};
  const DeviceList<std::uint64_t> device_samples(samples);
  for (const std::int64_t d : {1, 7, 64, 128, 300, 384, 2560})
    for (const std::int64_t gap : kGaps) {
      const Dropout drop{.p = 0.3f, .key = 0x123456789abcdefull};
      TokenGrid grid{.rows = 3, .cols = 2, .sample = samples};
      Pair x(random_matrix(6, d, 1, dtype()), dtype(), gap);
      cpu().dropout(x.host(), drop, grid);
      grid.sample = device_samples.span();
      dropout(launch_, x.device(), drop, grid);
      EXPECT_EQ(x.error(), 0) << d;
    }
}

// Against the words of kernels/types.hpp, for numbers that only kept elements can be.
TEST_P(RowsTest, DropoutFollowsTheDefinition) {
  const std::vector<std::uint64_t> samples = {11, 12};
  const DeviceList<std::uint64_t> device_samples(samples);
  const Dropout drop{.p = 0.5f, .key = 99};
  Matrix ones(4, 200);
  std::ranges::fill(ones.values, 1.0);
  Pair x(ones, dtype(), 0);
  dropout(launch_, x.device(), drop, {.rows = 2, .cols = 2, .sample = device_samples.span()});
  const TokenGrid grid{.rows = 2, .cols = 2, .sample = samples};
  const std::vector<double> got = x.values();
  for (std::int64_t r = 0; r < 4; ++r)
    for (std::int64_t c = 0; c < 200; ++c)
      EXPECT_EQ(got[static_cast<std::size_t>(r * 200 + c)],
                demist::test::dropout_factor(drop, grid, r, c));
}

}  // namespace
}  // namespace demist::cuda::test
