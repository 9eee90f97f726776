// SPDX-License-Identifier: Apache-2.0
#include <numeric>

#include "tests/support/kernel_fixture.hpp"

namespace demist::test {
namespace {

using Column = CrossEntropyColumn;

struct Problem {
  Matrix logits, bias;
  std::vector<std::int32_t> target;
  std::vector<float> weight, smooth;
  std::int64_t valid;

  Problem(std::int64_t m, std::int64_t columns, std::int64_t valid_columns, double scale = 5)
      : logits(random_matrix(m, columns, 1, DType::f32, scale)),
        bias(random_matrix(1, columns, 2, DType::f32)),
        valid(valid_columns) {
    for (std::int64_t r = 0; r < m; ++r) {
      target.push_back(static_cast<std::int32_t>(r * 7919 % valid));
      weight.push_back(0.25f + static_cast<float>(r % 3));
      smooth.push_back(r % 2 == 0 ? 0.0f : 0.125f);
    }
  }
  std::int64_t rows() const { return logits.rows; }
};

struct Statistics {
  std::vector<double> max, sum_exp, logit_sum, target_logit;
};

Statistics oracle_statistics(const Problem& in) {
  Statistics out;
  for (std::int64_t r = 0; r < in.rows(); ++r) {
    double max = -std::numeric_limits<double>::infinity(), sum_exp = 0, logit_sum = 0;
    for (std::int64_t c = 0; c < in.valid; ++c)
      max = std::max(max, in.logits(r, c) + in.bias(0, c));
    for (std::int64_t c = 0; c < in.valid; ++c) {
      sum_exp += std::exp(in.logits(r, c) + in.bias(0, c) - max);
      logit_sum += in.logits(r, c) + in.bias(0, c);
    }
    const std::int32_t target = in.target[static_cast<std::size_t>(r)];
    out.max.push_back(max);
    out.sum_exp.push_back(sum_exp);
    out.logit_sum.push_back(logit_sum);
    out.target_logit.push_back(target < 0 ? 0 : in.logits(r, target) + in.bias(0, target));
  }
  return out;
}

std::vector<double> oracle_lse(const Problem& in) {
  const Statistics statistics = oracle_statistics(in);
  std::vector<double> lse;
  for (std::size_t r = 0; r < statistics.max.size(); ++r)
    lse.push_back(statistics.max[r] + std::log(statistics.sum_exp[r]));
  return lse;
}

// Sum over rows of weight * (lse - target logit) + smooth * (lse - mean logit).
double oracle_loss(const Problem& in) {
  const Statistics statistics = oracle_statistics(in);
  const std::vector<double> lse = oracle_lse(in);
  double loss = 0;
  for (std::size_t r = 0; r < lse.size(); ++r)
    loss += static_cast<double>(in.weight[r]) * (lse[r] - statistics.target_logit[r]) +
            static_cast<double>(in.smooth[r]) *
                (lse[r] - statistics.logit_sum[r] / static_cast<double>(in.valid));
  return loss;
}

// dlogits from given log-sum-exps, for one rank that holds the whole vocabulary.
Matrix oracle_backward(const Problem& in, std::span<const double> lse) {
  Matrix out(in.rows(), in.logits.cols);
  for (std::int64_t r = 0; r < in.rows(); ++r) {
    const auto row = static_cast<std::size_t>(r);
    const auto weight = static_cast<double>(in.weight[row]);
    const auto smooth = static_cast<double>(in.smooth[row]);
    for (std::int64_t c = 0; c < in.valid; ++c) {
      const double p = std::exp(in.logits(r, c) + in.bias(0, c) - lse[row]);
      out(r, c) = (weight + smooth) * p - smooth / static_cast<double>(in.valid);
      if (c == in.target[row]) out(r, c) -= weight;
    }
  }
  return out;
}

Matrix column_sums(const Matrix& matrix) {
  Matrix out(1, matrix.cols);
  for (std::int64_t r = 0; r < matrix.rows; ++r)
    for (std::int64_t c = 0; c < matrix.cols; ++c) out(0, c) += matrix(r, c);
  return out;
}

TEST(CrossEntropyOracle, BackwardMatchesDifferences) {
  Problem in(4, 9, 7, 2);
  const Matrix gradient = oracle_backward(in, oracle_lse(in));
  expect_gradient([&] { return oracle_loss(in); }, in.logits.values, gradient.values);
  expect_gradient([&] { return oracle_loss(in); }, in.bias.values, column_sums(gradient).values);
}

class CrossEntropyTest : public KernelTest {
 protected:
  struct Got {
    Operand logits, bias, statistics;
    std::vector<double> column(std::int64_t c) {
      const Matrix all = statistics.matrix();
      std::vector<double> values;
      for (std::int64_t r = 0; r < all.rows; ++r) values.push_back(all(r, c));
      return values;
    }
  };
  static CrossEntropyRows rows_of(const Problem& in, std::int64_t vocab_size) {
    return {in.target, in.weight, in.smooth, vocab_size};
  }
  Got statistics(const Problem& in, std::int64_t begin = 0) {
    Got got{{in.logits, DType::f32}, {in.bias, DType::f32}, {in.rows(), Column::count, DType::f32}};
    backend().cross_entropy_statistics(got.statistics.view(), got.logits.view(), got.bias.span(),
                                       in.target, {begin, in.valid});
    return got;
  }
  struct Loss {
    std::vector<float> lse;
    std::vector<double> row_loss;
  };
  Loss loss(ConstTensorView statistics, const CrossEntropyRows& rows) {
    Loss result{std::vector<float>(rows.target.size()), std::vector<double>(rows.target.size())};
    backend().cross_entropy_loss(result.lse, result.row_loss, statistics, rows);
    return result;
  }
  std::vector<float> lse(Got& got, const Problem& in) {
    return loss(got.statistics.view(), rows_of(in, in.valid)).lse;
  }
};
INSTANTIATE_TEST_SUITE_P(Cpu, CrossEntropyTest, every_kernel(), kernel_name);

struct Shape {
  std::int64_t rows, columns, valid;
};
const Shape kShapes[] = {{1, 1, 1},       {1, 7, 7},        {5, 8, 7},       {3, 1024, 1024},
                         {9, 8191, 8191}, {33, 2100, 2049}, {40, 1100, 1000}};

TEST_P(CrossEntropyTest, StatisticsMatchTheFormula) {
  for (const Shape& shape : kShapes) {
    const Problem in(shape.rows, shape.columns, shape.valid);
    Got got = statistics(in);
    const Statistics want = oracle_statistics(in);
    EXPECT_LE(relative_error(got.column(Column::max), want.max), kStatistics);
    EXPECT_LE(relative_error(got.column(Column::sum_exp), want.sum_exp), kStatistics);
    EXPECT_LE(relative_error(got.column(Column::target_logit), want.target_logit), kStatistics);
    // A sum that cancels: relative to the size of its terms.
    const auto sums = got.column(Column::logit_sum);
    for (std::size_t r = 0; r < sums.size(); ++r)
      EXPECT_NEAR(sums[r], want.logit_sum[r], 1e-6 * 5 * static_cast<double>(shape.valid));
    EXPECT_TRUE(got.statistics.gaps_are_intact());
  }
}

TEST_P(CrossEntropyTest, BackwardMatchesTheFormula) {
  for (const Shape& shape : kShapes) {
    if (shape.valid == 1) continue;  // p = 1: the gradient is 0 up to rounding
    const Problem in(shape.rows, shape.columns, shape.valid);
    Got got = statistics(in);
    const std::vector<float> sums = lse(got, in);
    const Matrix before = random_matrix(1, shape.columns, 3, DType::f32);
    Operand dlogits(shape.rows, shape.columns, dtype()), dbias(before, DType::f32);
    backend().cross_entropy_backward(dlogits.view(), dbias.span(), got.logits.view(),
                                     got.bias.span(), sums, rows_of(in, in.valid), {0, in.valid});
    const Matrix want = oracle_backward(in, oracle_lse(in));
    EXPECT_LE(relative_error(dlogits.values(), want.as_stored(dtype()).values),
              kCrossEntropy.of(dtype()));
    Matrix want_bias = column_sums(want);
    for (std::int64_t c = 0; c < shape.columns; ++c) want_bias(0, c) += before(0, c);
    EXPECT_LE(relative_error(dbias.values(), want_bias.values), kCrossEntropy.f32);
    EXPECT_TRUE(dlogits.gaps_are_intact() && dbias.gaps_are_intact());
    const Matrix written = dlogits.matrix();
    for (std::int64_t c = shape.valid; c < shape.columns; ++c) EXPECT_EQ(written(0, c), 0);
  }
}

TEST_P(CrossEntropyTest, BackwardInPlace) {
  for (const Shape& shape : {Shape{1, 7, 7}, Shape{5, 8, 7}, Shape{33, 2100, 2049}}) {
    const Problem in(shape.rows, shape.columns, shape.valid);
    Got got = statistics(in);
    const std::vector<float> sums = lse(got, in);
    Operand dlogits(shape.rows, shape.columns, dtype());
    Operand dbias(Matrix(1, shape.columns), DType::f32),
        again(Matrix(1, shape.columns), DType::f32);
    const TensorView logits = got.logits.view();
    backend().cross_entropy_backward(dlogits.view(), dbias.span(), logits, got.bias.span(), sums,
                                     rows_of(in, in.valid), {0, in.valid});
    const auto ratio = static_cast<std::int64_t>(4 / size_of(dtype()));
    const TensorView over{logits.data, dtype(), logits.rows, logits.cols, logits.ld * ratio};
    backend().cross_entropy_backward(over, again.span(), logits, got.bias.span(), sums,
                                     rows_of(in, in.valid), {0, in.valid});
    EXPECT_EQ(again.values(), dbias.values());
    for (std::int64_t r = 0; r < shape.rows; ++r)
      EXPECT_EQ(std::memcmp(over.row_slice(r, 1).data, dlogits.view().row_slice(r, 1).data,
                            static_cast<std::size_t>(shape.columns) * size_of(dtype())),
                0);
  }
}

// Two ranks hold half of the vocabulary each; together they do what one does.
TEST_P(CrossEntropyTest, PartsOfTheVocabularyCombine) {
  const Problem in(6, 2000, 2000);
  const Matrix want = oracle_backward(in, oracle_lse(in));
  const std::vector<double> want_lse = oracle_lse(in);
  const std::vector<float> sums = floats(want_lse);
  Tensor all(DType::f32, 12, Column::count);
  for (const std::int64_t begin : {0, 1200}) {
    const std::int64_t columns = begin == 0 ? 1200 : 800;
    Problem part(6, columns, columns);
    part.target = in.target;
    for (std::int64_t c = 0; c < columns; ++c) {
      part.bias(0, c) = in.bias(0, begin + c);
      for (std::int64_t r = 0; r < 6; ++r) part.logits(r, c) = in.logits(r, begin + c);
    }
    Got got = statistics(part, begin);
    backend().convert(all.view().row_slice(begin == 0 ? 0 : 6, 6), got.statistics.view());
    Operand dlogits(6, columns, dtype()), dbias(Matrix(1, columns), DType::f32);
    backend().cross_entropy_backward(dlogits.view(), dbias.span(), got.logits.view(),
                                     got.bias.span(), sums, rows_of(in, 2000), {begin, columns});
    Matrix want_part(6, columns);
    for (std::int64_t r = 0; r < 6; ++r)
      for (std::int64_t c = 0; c < columns; ++c) want_part(r, c) = want(r, begin + c);
    EXPECT_LE(relative_error(dlogits.values(), want_part.as_stored(dtype()).values),
              kCrossEntropy.of(dtype()));
  }
  const Loss got = loss(all.view(), rows_of(in, 2000));
  EXPECT_LE(relative_error(doubles(got.lse), want_lse), kStatistics);
  const double total = std::accumulate(got.row_loss.begin(), got.row_loss.end(), 0.0);
  EXPECT_NEAR(total, oracle_loss(in), 1e-6 * std::abs(oracle_loss(in)));
}

TEST_P(CrossEntropyTest, LossMatchesTheFormula) {
  for (const Shape& shape : kShapes) {
    const Problem in(shape.rows, shape.columns, shape.valid);
    Got got = statistics(in);
    const Loss found = loss(got.statistics.view(), rows_of(in, in.valid));
    EXPECT_LE(relative_error(doubles(found.lse), oracle_lse(in)), kStatistics);
    const double total = std::accumulate(found.row_loss.begin(), found.row_loss.end(), 0.0);
    EXPECT_NEAR(total, oracle_loss(in), 2e-6 * static_cast<double>(5 * shape.rows));
  }
}

TEST_P(CrossEntropyTest, ExtremeLogits) {
  Problem in(2, 3000, 3000, 1e4);
  in.logits(0, 2999) = 1e4;
  in.logits(1, 5) = -1e4;
  Got got = statistics(in);
  const Statistics want = oracle_statistics(in);
  EXPECT_LE(relative_error(got.column(Column::max), want.max), kStatistics);
  // Rounding the logits to fp32 at 1e4 moves each exponential by up to 1e-3.
  EXPECT_LE(relative_error(got.column(Column::sum_exp), want.sum_exp), 2e-3);
  Operand dlogits(2, 3000, dtype()), dbias(Matrix(1, 3000), DType::f32);
  backend().cross_entropy_backward(dlogits.view(), dbias.span(), got.logits.view(), got.bias.span(),
                                   lse(got, in), rows_of(in, 3000), {0, 3000});
  EXPECT_LE(relative_error(dlogits.values(), oracle_backward(in, oracle_lse(in)).values), 5e-3);
}

TEST_P(CrossEntropyTest, RowsWithoutTargetAndNan) {
  Problem in(3, 40, 40);
  in.target = {-1, 40, 3};
  in.weight = {0, 0, 1};
  in.smooth = {0, 0, 0};
  in.logits(2, 30) = std::nan("");
  Got got = statistics(in);
  EXPECT_EQ(got.column(Column::target_logit)[0], 0);
  EXPECT_EQ(got.column(Column::target_logit)[1], 0);
  EXPECT_TRUE(std::isnan(got.column(Column::sum_exp)[2]));
  Operand dlogits(3, 40, dtype()), dbias(Matrix(1, 40), DType::f32);
  backend().cross_entropy_backward(dlogits.view(), dbias.span(), got.logits.view(), got.bias.span(),
                                   lse(got, in), rows_of(in, 40), {0, 40});
  const Matrix gradient = dlogits.matrix();
  for (std::int64_t c = 0; c < 40; ++c) {
    EXPECT_EQ(gradient(0, c), 0);
    EXPECT_TRUE(std::isnan(gradient(2, c)));
  }
}

TEST_P(CrossEntropyTest, APartWithoutTokensTakesNoPart) {
  Problem in(2, 16, 16);
  in.valid = 0;
  Got got = statistics(in);
  EXPECT_EQ(got.column(Column::max)[0], -std::numeric_limits<double>::infinity());
  EXPECT_EQ(got.column(Column::sum_exp), (std::vector<double>{0, 0}));
  EXPECT_EQ(got.column(Column::logit_sum), (std::vector<double>{0, 0}));
  EXPECT_EQ(got.column(Column::target_logit), (std::vector<double>{0, 0}));
}

TEST_P(CrossEntropyTest, SameBitsForOneAndTwoThreads) {
  const Problem in(101, 1500, 1499);
  expect_same_for_threads([&] {
    Got got = statistics(in);
    Operand dlogits(101, 1500, dtype()), dbias(Matrix(1, 1500), DType::f32);
    backend().cross_entropy_backward(dlogits.view(), dbias.span(), got.logits.view(),
                                     got.bias.span(), lse(got, in), rows_of(in, 1499), {0, 1499});
    std::vector<double> all;
    for (Operand* output : {&got.statistics, &dlogits, &dbias})
      for (const double value : output->values()) all.push_back(value);
    return all;
  });
}

}  // namespace
}  // namespace demist::test
