// SPDX-License-Identifier: Apache-2.0
#include "tests/cuda/pair.hpp"

namespace demist::cuda::test {
namespace {

class CrossEntropyTest : public RowKernelTest {};
INSTANTIATE_TEST_SUITE_P(Device, CrossEntropyTest, both_types(), dtype_name);

using Column = CrossEntropyColumn;

// m rows over one part of a vocabulary: `valid` words from `begin` on, in `columns` columns.
struct Problem {
  std::int64_t m, columns;
  bool with_bias;
  VocabularyPart part;
  std::vector<std::int32_t> target;
  std::vector<float> weight, smooth;
  DeviceList<std::int32_t> device_target;
  DeviceList<float> device_weight, device_smooth;
  Pair logits, bias, statistics, lse, dbias;
  std::vector<double> row_loss;
  DeviceList<double> device_row_loss;

  struct Size {
    std::int64_t rows, columns, valid, begin = 0, gap = 0;
  };
  Problem(Size size, double scale, bool has_bias = true)
      : m(size.rows),
        columns(size.columns),
        with_bias(has_bias),
        part{.begin = size.begin, .valid = size.valid},
        target(targets(size)),
        weight(numbers(m, 3, 0.25f)),
        smooth(numbers(m, 2, 0.0f)),
        device_target(target),
        device_weight(weight),
        device_smooth(smooth),
        logits(random_matrix(m, columns, 1, DType::f32, scale), DType::f32, size.gap),
        bias(random_matrix(1, columns, 2, DType::f32), DType::f32, 0),
        statistics(m, Column::count, DType::f32, 0),
        lse(1, m, DType::f32, 0),
        dbias(random_matrix(1, columns, 3, DType::f32), DType::f32, 0),
        row_loss(static_cast<std::size_t>(m)),
        device_row_loss(row_loss) {}

  std::span<const float> host_bias() { return with_bias ? bias.host_span() : std::span<float>{}; }
  std::span<const float> device_bias() {
    return with_bias ? bias.device_span() : std::span<float>{};
  }
  CrossEntropyRows host_rows() const { return {target, weight, smooth, part.begin + part.valid}; }
  CrossEntropyRows device_rows() const {
    return {device_target, device_weight, device_smooth, part.begin + part.valid};
  }

 private:
  // Some in another part, before and behind this one.
  static std::vector<std::int32_t> targets(const Size& size) {
    std::vector<std::int32_t> list;
    for (std::int64_t r = 0; r < size.rows; ++r)
      list.push_back(static_cast<std::int32_t>(r * 7919 % (size.begin + size.valid + 2)));
    return list;
  }
  static std::vector<float> numbers(std::int64_t count, std::int64_t period, float first) {
    std::vector<float> list;
    for (std::int64_t i = 0; i < count; ++i)
      list.push_back(first + 0.125f * static_cast<float>(i % period));
    return list;
  }
};

// From 2,048 columns on, dlogits over logits takes several launches.
const Problem::Size kSizes[] = {{1, 7, 7},         {5, 7, 5},       {3, 64, 64, 0, 3},
                                {40, 80, 77, 100}, {2, 8192, 8191}, {3, 8192, 8191, 50, 8},
                                {17, 2048, 2048},  {6, 4104, 4101}, {1, 8191, 8191, 0, 5}};

void run_on_cpu(Backend& cpu, Problem& in) {
  cpu.cross_entropy_statistics(in.statistics.host(), in.logits.host(), in.host_bias(), in.target,
                               in.part);
  cpu.cross_entropy_loss(in.lse.host_span(), in.row_loss, in.statistics.host(), in.host_rows());
}

void run_on_device(Problem& in) {
  cross_entropy_statistics({}, in.statistics.device(), in.logits.device(), in.device_bias(),
                           in.device_target, in.part);
  cross_entropy_loss({}, in.lse.device_span(), in.device_row_loss, in.statistics.device(),
                     in.device_rows());
}

TEST_P(CrossEntropyTest, ForwardMatchesTheCpu) {
  for (const Problem::Size& size : kSizes)
    for (const bool with_bias : {false, true})
      for (const double scale : {5.0, 1e4}) {
        Problem in(size, scale, with_bias);
        run_on_cpu(cpu(), in);
        run_on_device(in);
        SCOPED_TRACE(testing::Message() << size.rows << " x " << size.columns << " of "
                                        << size.valid << ", logits of " << scale);
        EXPECT_LE(in.statistics.error(), kStatistics.f32);
        EXPECT_LE(in.lse.error(), kStatistics.f32);
        EXPECT_LE(relative_error(in.device_row_loss.host(), in.row_loss), kCrossEntropy.f32);
      }
}

TEST_P(CrossEntropyTest, BackwardMatchesTheCpu) {
  for (const Problem::Size& size : kSizes)
    for (const auto& [in_place, with_bias] :
         {std::pair{false, true}, {true, true}, {true, false}}) {
      Problem in(size, 5, with_bias);
      run_on_cpu(cpu(), in);
      run_on_device(in);
      // The same log-sum-exp for both: its error is the forward pass's.
      const std::span<float> lse = in.lse.host_span();
      const DeviceList<float> device_lse({lse.begin(), lse.end()});
      Pair apart(in.m, in.columns, dtype(), size.gap);
      Pair& out = in_place ? in.logits : apart;
      cpu().cross_entropy_backward(out.host_as(dtype()), in.dbias.host_span(), in.logits.host(),
                                   in.host_bias(), lse, in.host_rows(), in.part);
      const Workspace work(cross_entropy_backward_workspace(in.m, in.columns));
      cross_entropy_backward(work.launch(), out.device_as(dtype()), in.dbias.device_span(),
                             in.logits.device(), in.device_bias(), device_lse, in.device_rows(),
                             in.part);
      SCOPED_TRACE(testing::Message()
                   << size.rows << " x " << size.columns << " of " << size.valid
                   << (in_place ? ", in place" : "") << (with_bias ? "" : ", without bias"));
      EXPECT_LE(out.error_as(dtype()), kCrossEntropy.of(dtype()));
      EXPECT_LE(in.dbias.error(), kCrossEntropy.f32);
    }
}

// Two parts of a vocabulary say what the whole says.
TEST_P(CrossEntropyTest, PartsCombineToTheWhole) {
  constexpr std::int64_t kRows = 9, kFirst = 40, kSecond = 37;
  const Matrix logits = random_matrix(kRows, kFirst + kSecond, 1, DType::f32, 3);
  Problem whole({kRows, kFirst + kSecond, kFirst + kSecond}, 3, false);
  run_on_device(whole);
  Pair both(2 * kRows, Column::count, DType::f32, 0);
  const auto run_part = [&](std::int64_t begin, std::int64_t count, std::int64_t index) {
    Matrix part(kRows, count);
    for (std::int64_t r = 0; r < kRows; ++r)
      for (std::int64_t c = 0; c < count; ++c) part(r, c) = logits(r, begin + c);
    Pair columns(part, DType::f32, 0);
    cross_entropy_statistics({}, both.device().row_slice(index * kRows, kRows), columns.device(),
                             {}, whole.device_target, {.begin = begin, .valid = count});
  };
  run_part(0, kFirst, 0);
  run_part(kFirst, kSecond, 1);
  Pair lse(1, kRows, DType::f32, 0);
  const DeviceList<double> row_loss(std::vector<double>(kRows, 0.0));
  cross_entropy_loss({}, lse.device_span(), row_loss, both.device(), whole.device_rows());
  EXPECT_LE(relative_error(lse.values(), whole.lse.values()), kStatistics.f32);
  EXPECT_LE(relative_error(row_loss.host(), whole.device_row_loss.host()), kCrossEntropy.f32);
}

TEST_P(CrossEntropyTest, APartWithoutWordsAddsNothing) {
  Problem in({3, 16, 0}, 1);
  run_on_device(in);
  const std::vector<double> statistics = in.statistics.values();
  for (std::size_t r = 0; r < 3; ++r) {
    EXPECT_EQ(statistics[r * 4 + Column::max], -std::numeric_limits<double>::infinity());
    for (const std::int64_t column : {Column::sum_exp, Column::logit_sum, Column::target_logit})
      EXPECT_EQ(statistics[r * 4 + static_cast<std::size_t>(column)], 0);
  }
  Pair dlogits(3, 16, dtype(), 0);
  const std::vector<double> dbias = in.dbias.values();
  const Workspace work(cross_entropy_backward_workspace(3, 16));
  cross_entropy_backward(work.launch(), dlogits.device(), in.dbias.device_span(),
                         in.logits.device(), in.device_bias(), in.lse.device_span(),
                         in.device_rows(), in.part);
  EXPECT_EQ(dlogits.values(), std::vector<double>(48, 0.0));
  EXPECT_EQ(in.dbias.values(), dbias);
}

TEST_P(CrossEntropyTest, NanAndInfinityStayInTheirRow) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  Matrix logits = random_matrix(4, 40, 1, DType::f32, 3);
  logits(1, 13) = std::nan("");
  logits(2, 30) = kInfinity;
  for (std::int64_t c = 0; c < 39; ++c) logits(3, c) = -kInfinity;  // a single word is possible
  logits(3, 39) = 2;
  Problem in({4, 40, 40}, 1);
  Pair odd(logits, DType::f32, 0);
  cross_entropy_statistics({}, in.statistics.device(), odd.device(), {}, in.device_target, in.part);
  cross_entropy_loss({}, in.lse.device_span(), in.device_row_loss, in.statistics.device(),
                     in.device_rows());
  const std::vector<double> lse = in.lse.values();
  EXPECT_TRUE(std::isfinite(lse[0]));
  EXPECT_TRUE(std::isnan(lse[1]));
  EXPECT_FALSE(std::isfinite(lse[2]));
  EXPECT_EQ(lse[3], 2);
}

TEST_P(CrossEntropyTest, SameBitsInAnyOrderOfThreads) {
  expect_same_bits([&] {
    Problem in({40, 4104, 4101}, 5);
    run_on_device(in);
    const Workspace work(cross_entropy_backward_workspace(in.m, in.columns));
    cross_entropy_backward(work.launch(), in.logits.device_as(dtype()), in.dbias.device_span(),
                           in.logits.device(), in.device_bias(), in.lse.device_span(),
                           in.device_rows(), in.part);
    std::vector<double> all = in.dbias.values();
    std::ranges::copy(in.lse.values(), std::back_inserter(all));
    return all;
  });
}

}  // namespace
}  // namespace demist::cuda::test
