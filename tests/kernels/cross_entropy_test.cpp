// SPDX-License-Identifier: Apache-2.0
#include "tests/support/kernel_fixture.hpp"

namespace demist::test {
namespace {

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
    Operand logits, max, sum_exp, logit_sum, target_logit;
  };
  Got statistics(const Problem& in) {
    const std::int64_t m = in.rows();
    Got got{{in.logits, DType::f32},
            {1, m, DType::f32},
            {1, m, DType::f32},
            {1, m, DType::f32},
            {1, m, DType::f32}};
    Operand bias(in.bias, DType::f32);
    backend().cross_entropy_statistics(got.max.span(), got.sum_exp.span(), got.logit_sum.span(),
                                       got.target_logit.span(), got.logits.view(), bias.span(),
                                       in.target, 0, in.valid);
    return got;
  }
  static std::vector<float> lse(Got& got) {
    std::vector<float> result;
    const auto max = got.max.values(), sum = got.sum_exp.values();
    for (std::size_t r = 0; r < max.size(); ++r)
      result.push_back(static_cast<float>(max[r] + std::log(sum[r])));
    return result;
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
    EXPECT_LE(relative_error(got.max.values(), want.max), kStatistics);
    EXPECT_LE(relative_error(got.sum_exp.values(), want.sum_exp), kStatistics);
    EXPECT_LE(relative_error(got.target_logit.values(), want.target_logit), kStatistics);
    // A sum that cancels: relative to the size of its terms.
    const auto sums = got.logit_sum.values();
    for (std::size_t r = 0; r < sums.size(); ++r)
      EXPECT_NEAR(sums[r], want.logit_sum[r], 1e-6 * 5 * static_cast<double>(shape.valid));
    EXPECT_TRUE(got.logits.gaps_are_intact());
    const Matrix logits = got.logits.matrix();
    for (std::int64_t c = shape.valid; c < shape.columns; ++c)
      EXPECT_EQ(logits(0, c), in.logits(0, c)) << "padding was touched";
  }
}

TEST_P(CrossEntropyTest, BackwardMatchesTheFormula) {
  for (const Shape& shape : kShapes) {
    if (shape.valid == 1) continue;  // p = 1: the gradient is 0 up to rounding
    const Problem in(shape.rows, shape.columns, shape.valid);
    Got got = statistics(in);
    const std::vector<float> sums = lse(got);
    const Matrix before = random_matrix(1, shape.columns, 3, DType::f32);
    Operand dlogits(shape.rows, shape.columns, dtype()), dbias(before, DType::f32);
    backend().cross_entropy_backward(dlogits.view(), dbias.span(), got.logits.view(), sums,
                                     in.target, in.weight, in.smooth, 0, in.valid, in.valid);
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
    const std::vector<float> sums = lse(got);
    Operand dlogits(shape.rows, shape.columns, dtype());
    Operand dbias(Matrix(1, shape.columns), DType::f32),
        again(Matrix(1, shape.columns), DType::f32);
    const TensorView logits = got.logits.view();
    backend().cross_entropy_backward(dlogits.view(), dbias.span(), logits, sums, in.target,
                                     in.weight, in.smooth, 0, in.valid, in.valid);
    const auto ratio = static_cast<std::int64_t>(4 / size_of(dtype()));
    const TensorView over{logits.data, dtype(), logits.rows, logits.cols, logits.ld * ratio};
    backend().cross_entropy_backward(over, again.span(), logits, sums, in.target, in.weight,
                                     in.smooth, 0, in.valid, in.valid);
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
  std::vector<double> combined_lse(6), target_logit(6);
  for (const std::int64_t begin : {0, 1200}) {
    const std::int64_t columns = begin == 0 ? 1200 : 800;
    Problem part(6, columns, columns);
    part.target = in.target;
    for (std::int64_t c = 0; c < columns; ++c) {
      part.bias(0, c) = in.bias(0, begin + c);
      for (std::int64_t r = 0; r < 6; ++r) part.logits(r, c) = in.logits(r, begin + c);
    }
    Operand logits(part.logits, DType::f32), bias(part.bias, DType::f32);
    Operand max(1, 6, DType::f32), sum(1, 6, DType::f32), logit_sum(1, 6, DType::f32);
    Operand target(1, 6, DType::f32);
    backend().cross_entropy_statistics(max.span(), sum.span(), logit_sum.span(), target.span(),
                                       logits.view(), bias.span(), in.target, begin, columns);
    for (std::size_t r = 0; r < 6; ++r) {
      combined_lse[r] += sum.values()[r] * std::exp(max.values()[r]);
      target_logit[r] += target.values()[r];
    }
    Operand dlogits(6, columns, dtype()), dbias(Matrix(1, columns), DType::f32);
    backend().cross_entropy_backward(dlogits.view(), dbias.span(), logits.view(), sums, in.target,
                                     in.weight, in.smooth, begin, columns, 2000);
    Matrix want_part(6, columns);
    for (std::int64_t r = 0; r < 6; ++r)
      for (std::int64_t c = 0; c < columns; ++c) want_part(r, c) = want(r, begin + c);
    EXPECT_LE(relative_error(dlogits.values(), want_part.as_stored(dtype()).values),
              kCrossEntropy.of(dtype()));
  }
  for (double& value : combined_lse) value = std::log(value);
  EXPECT_LE(relative_error(combined_lse, want_lse), kStatistics);
  EXPECT_LE(relative_error(target_logit, oracle_statistics(in).target_logit), kStatistics);
}

TEST_P(CrossEntropyTest, ExtremeLogits) {
  Problem in(2, 3000, 3000, 1e4);
  in.logits(0, 2999) = 1e4;
  in.logits(1, 5) = -1e4;
  Got got = statistics(in);
  const Statistics want = oracle_statistics(in);
  EXPECT_LE(relative_error(got.max.values(), want.max), kStatistics);
  // Rounding the logits to fp32 at 1e4 moves each exponential by up to 1e-3.
  EXPECT_LE(relative_error(got.sum_exp.values(), want.sum_exp), 2e-3);
  Operand dlogits(2, 3000, dtype()), dbias(Matrix(1, 3000), DType::f32);
  backend().cross_entropy_backward(dlogits.view(), dbias.span(), got.logits.view(), lse(got),
                                   in.target, in.weight, in.smooth, 0, 3000, 3000);
  EXPECT_LE(relative_error(dlogits.values(), oracle_backward(in, oracle_lse(in)).values), 5e-3);
}

TEST_P(CrossEntropyTest, RowsWithoutTargetAndNan) {
  Problem in(3, 40, 40);
  in.target = {-1, 40, 3};
  in.weight = {0, 0, 1};
  in.smooth = {0, 0, 0};
  in.logits(2, 30) = std::nan("");
  Got got = statistics(in);
  EXPECT_EQ(got.target_logit.values()[0], 0);
  EXPECT_EQ(got.target_logit.values()[1], 0);
  EXPECT_TRUE(std::isnan(got.sum_exp.values()[2]));
  Operand dlogits(3, 40, dtype()), dbias(Matrix(1, 40), DType::f32);
  backend().cross_entropy_backward(dlogits.view(), dbias.span(), got.logits.view(), lse(got),
                                   in.target, in.weight, in.smooth, 0, 40, 40);
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
  EXPECT_EQ(got.max.values()[0], -std::numeric_limits<double>::infinity());
  EXPECT_EQ(got.sum_exp.values(), (std::vector<double>{0, 0}));
  EXPECT_EQ(got.logit_sum.values(), (std::vector<double>{0, 0}));
  EXPECT_EQ(got.target_logit.values(), (std::vector<double>{0, 0}));
}

TEST_P(CrossEntropyTest, SameBitsForOneAndTwoThreads) {
  const Problem in(101, 1500, 1499);
  expect_same_for_threads([&] {
    Got got = statistics(in);
    Operand dlogits(101, 1500, dtype()), dbias(Matrix(1, 1500), DType::f32);
    backend().cross_entropy_backward(dlogits.view(), dbias.span(), got.logits.view(), lse(got),
                                     in.target, in.weight, in.smooth, 0, 1499, 1499);
    std::vector<double> all;
    for (Operand* output : {&got.max, &got.sum_exp, &got.logit_sum, &dlogits, &dbias})
      for (const double value : output->values()) all.push_back(value);
    return all;
  });
}

}  // namespace
}  // namespace demist::test
