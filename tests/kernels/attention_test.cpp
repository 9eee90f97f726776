// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/backend.hpp"
#include "tests/kernels/attention_oracle.hpp"

namespace demist {
namespace {

struct Case {
  const char* name;
  std::int64_t rows, cols, heads, head_dim;
  float dropout;
  enum class Keys { all, padded, documents, empty_rows } keys;
};

// One attention call's tensors. Values are drawn per token, so that a larger problem can hold a
// smaller one.
template <class S>
struct Problem {
  Case shape;
  std::vector<std::uint64_t> sample;
  std::vector<std::int32_t> begin, end;
  Attention op;
  Tensor qkv, dout, out, lse, dqkv;

  explicit Problem(const Case& c, std::uint64_t first_sample = 0)
      : shape(c),
        sample(static_cast<std::size_t>(c.rows)),
        qkv(dtype_of<S>(), tokens(), 3 * width()),
        dout(dtype_of<S>(), tokens(), width()),
        out(dtype_of<S>(), tokens(), width()),
        lse(DType::f32, c.heads, tokens()),
        dqkv(dtype_of<S>(), tokens(), 3 * width()) {
    std::iota(sample.begin(), sample.end(), first_sample);
    for (std::int64_t t = 0; t < tokens(); ++t) fill_token(t);
    op.heads = c.heads;
    op.head_dim = c.head_dim;
    op.grid = {c.rows, c.cols, sample};
    op.keys = {begin, end};
    op.dropout = {c.dropout, stream_key(7, "attention", 3)};
  }
  Problem(const Problem&) = delete;

  std::int64_t tokens() const { return shape.rows * shape.cols; }
  std::int64_t width() const { return shape.heads * shape.head_dim; }

  void run(Backend& backend) {
    backend.attention_forward(out.view(), lse.view(), qkv.view(), op);
    backend.attention_backward(dqkv.view(), dout.view(), qkv.view(), out.view(), lse.view(), op);
  }

 private:
  void fill_token(std::int64_t t) {
    const std::uint64_t name = sample[static_cast<std::size_t>(t / shape.cols)];
    const std::int64_t column = t % shape.cols;
    std::mt19937_64 generator(name * 100003 + static_cast<std::uint64_t>(column));
    std::normal_distribution<float> normal;
    for (std::int64_t i = 0; i < 3 * width(); ++i)
      qkv.view().template as<S>()[t * 3 * width() + i] = S(normal(generator));
    for (std::int64_t i = 0; i < width(); ++i)
      dout.view().template as<S>()[t * width() + i] = S(normal(generator));
    add_range(static_cast<std::int64_t>(name), column);
  }

  void add_range(std::int64_t name, std::int64_t column) {
    const std::int64_t cols = shape.cols, length = cols - (name * 5 + 3) % cols;
    const std::int64_t cut = (cols + name) / 3;
    std::int64_t from = 0, to = cols;
    if (shape.keys == Case::Keys::padded) to = length;
    if (shape.keys == Case::Keys::documents) (column < cut ? to : from) = cut;
    if (shape.keys == Case::Keys::empty_rows && column % 3 == 0) from = to = column;
    begin.push_back(static_cast<std::int32_t>(from));
    end.push_back(static_cast<std::int32_t>(to));
  }
};

template <class S>
std::vector<double> doubles(ConstTensorView view) {
  std::vector<double> values;
  for (std::int64_t r = 0; r < view.rows; ++r)
    for (std::int64_t c = 0; c < view.cols; ++c)
      values.push_back(static_cast<float>(view.as<S>()[r * view.ld + c]));
  return values;
}

// ||actual - expected|| / ||expected||; NaN sticks.
double relative_error(const std::vector<double>& actual, const std::vector<double>& expected) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    difference += (actual[i] - expected[i]) * (actual[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

// Relative Frobenius limits. bf16: one rounding of the output is 2^-9 / sqrt(3); the backward pass
// multiplies rounded P and dS and starts from a rounded output.
struct Tolerance {
  double forward, lse, backward;
};
template <class S>
constexpr Tolerance kTolerance = dtype_of<S>() == DType::f32 ? Tolerance{1e-6, 1e-6, 2e-6}
                                                             : Tolerance{3.5e-3, 1e-6, 4e-3};

constexpr Case kCases[] = {
    {"one_token", 2, 1, 2, 8, 0.0f, Case::Keys::all},
    {"odd", 2, 31, 3, 8, 0.0f, Case::Keys::all},
    {"odd_padded_dropout", 3, 77, 2, 80, 0.1f, Case::Keys::padded},
    {"documents", 2, 128, 2, 64, 0.1f, Case::Keys::documents},
    {"empty_rows", 2, 31, 2, 16, 0.25f, Case::Keys::empty_rows},
    {"tiny_head", 1, 9, 1, 3, 0.0f, Case::Keys::padded},
    {"several_blocks", 1, 300, 1, 128, 0.1f, Case::Keys::documents},
};

class AttentionTest : public testing::TestWithParam<std::tuple<const char*, Case>> {
 protected:
  void SetUp() override {
    try {
      backend_ = make_cpu_backend(std::get<0>(GetParam()));
    } catch (const EnvironmentError& error) {
      GTEST_SKIP() << error.what();
    }
  }

  template <class S>
  void compare_with_oracle() {
    Problem<S> problem(std::get<1>(GetParam()));
    problem.run(*backend_);
    const oracle::AttentionOracle expected(problem.op, doubles<S>(problem.qkv.view()));
    const Tolerance limit = kTolerance<S>;
    EXPECT_LE(relative_error(doubles<S>(problem.out.view()), expected.out), limit.forward);
    EXPECT_LE(relative_error(doubles<float>(problem.lse.view()), expected.lse), limit.lse);
    EXPECT_LE(relative_error(doubles<S>(problem.dqkv.view()),
                             expected.backward(doubles<S>(problem.dout.view()))),
              limit.backward);
  }

  std::unique_ptr<Backend> backend_;
};

TEST_P(AttentionTest, MatchesTheOracleInFp32) { compare_with_oracle<float>(); }
TEST_P(AttentionTest, MatchesTheOracleInBf16) { compare_with_oracle<bf16>(); }

std::string case_name(const testing::TestParamInfo<AttentionTest::ParamType>& param) {
  return std::string(std::get<0>(param.param)) + "_" + std::get<1>(param.param).name;
}
INSTANTIATE_TEST_SUITE_P(Cpu, AttentionTest,
                         testing::Combine(testing::Values("avx2", "avx512", "avx512_bf16"),
                                          testing::ValuesIn(kCases)),
                         case_name);

TEST(AttentionOracle, BackwardIsTheDerivative) {
  for (const auto keys : {Case::Keys::padded, Case::Keys::documents, Case::Keys::empty_rows}) {
    Problem<float> problem({"", 2, 7, 2, 4, 0.3f, keys});
    const auto inputs = doubles<float>(problem.qkv.view());
    const auto dout = doubles<float>(problem.dout.view());
    const auto gradient = oracle::AttentionOracle(problem.op, inputs).backward(dout);
    const auto loss = [&](std::size_t i, double step) {
      auto moved = inputs;
      moved[i] += step;
      const oracle::AttentionOracle at(problem.op, moved);
      return std::inner_product(dout.begin(), dout.end(), at.out.begin(), 0.0);
    };
    constexpr double kStep = 1e-5;
    std::vector<double> numeric(inputs.size());
    for (std::size_t i = 0; i < inputs.size(); ++i)
      numeric[i] = (loss(i, kStep) - loss(i, -kStep)) / (2 * kStep);
    EXPECT_LE(relative_error(gradient, numeric), 1e-7);
  }
}

template <class S>
class AttentionInvariance : public testing::Test {
 protected:
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
  static constexpr Case kShape = {"", 3, 77, 4, 16, 0.1f, Case::Keys::documents};
};
using StorageTypes = testing::Types<float, bf16>;
TYPED_TEST_SUITE(AttentionInvariance, StorageTypes);

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.bytes() == b.bytes() && std::memcmp(a.view().data, b.view().data, a.bytes()) == 0;
}

TYPED_TEST(AttentionInvariance, SameBitsOnAnyNumberOfThreads) {
  Problem<TypeParam> one(this->kShape), three(this->kShape);
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  one.run(*this->backend_);
  omp_set_num_threads(3);
  three.run(*this->backend_);
  omp_set_num_threads(before);
  EXPECT_TRUE(same_bits(one.out, three.out));
  EXPECT_TRUE(same_bits(one.lse, three.lse));
  EXPECT_TRUE(same_bits(one.dqkv, three.dqkv));
}

TYPED_TEST(AttentionInvariance, SameBitsAloneAndInABatch) {
  Problem<TypeParam> batch(this->kShape);
  batch.run(*this->backend_);
  Case single = this->kShape;
  single.rows = 1;
  for (std::uint64_t r = 0; r < 3; ++r) {
    Problem<TypeParam> alone(single, r);
    alone.run(*this->backend_);
    const auto bytes = [](const Tensor& t) { return static_cast<const std::byte*>(t.view().data); };
    EXPECT_EQ(
        std::memcmp(bytes(alone.out), bytes(batch.out) + r * alone.out.bytes(), alone.out.bytes()),
        0);
    EXPECT_EQ(std::memcmp(bytes(alone.dqkv), bytes(batch.dqkv) + r * alone.dqkv.bytes(),
                          alone.dqkv.bytes()),
              0);
  }
}

// Tensor parallelism gives a rank some of the heads; `first_head` names their dropout rows.
TYPED_TEST(AttentionInvariance, SameBitsWhenHeadsAreSplit) {
  using S = TypeParam;
  Problem<S> whole(this->kShape);
  whole.run(*this->backend_);
  Case half = this->kShape;
  half.heads /= 2;
  for (std::int64_t part = 0; part < 2; ++part) {
    Problem<S> own(half);
    own.op.first_head = part * half.heads;
    const std::int64_t width = own.width();
    const auto piece = [&](const Tensor& from, std::int64_t column, std::int64_t t) {
      return from.view().template as<S>() + t * from.view().cols + column + part * width;
    };
    for (std::int64_t t = 0; t < own.tokens(); ++t) {
      const auto copy = [&](Tensor& to, std::int64_t at, const S* from) {
        std::copy_n(from, width, to.view().template as<S>() + t * to.view().cols + at);
      };
      for (std::int64_t i = 0; i < 3; ++i)
        copy(own.qkv, i * width, piece(whole.qkv, i * 2 * width, t));
      copy(own.dout, 0, piece(whole.dout, 0, t));
    }
    own.run(*this->backend_);
    for (std::int64_t t = 0; t < own.tokens(); ++t) {
      const auto same = [&](const Tensor& mine, std::int64_t at, const S* expected) {
        return std::memcmp(mine.view().template as<S>() + t * mine.view().cols + at, expected,
                           static_cast<std::size_t>(width) * sizeof(S)) == 0;
      };
      ASSERT_TRUE(same(own.out, 0, piece(whole.out, 0, t)));
      for (std::int64_t i = 0; i < 3; ++i)
        ASSERT_TRUE(same(own.dqkv, i * width, piece(whole.dqkv, i * 2 * width, t)));
    }
  }
}

TYPED_TEST(AttentionInvariance, RowsWithoutKeysGiveZeros) {
  using S = TypeParam;
  Problem<S> problem({"", 1, 31, 2, 16, 0.1f, Case::Keys::empty_rows});
  problem.run(*this->backend_);
  for (std::int64_t t = 0; t < 31; t += 3) {
    EXPECT_EQ(problem.lse.view().template as<float>()[t], 0.0f);
    for (std::int64_t i = 0; i < problem.width(); ++i) {
      EXPECT_EQ(static_cast<float>(problem.out.view().template as<S>()[t * 32 + i]), 0.0f);
      EXPECT_EQ(static_cast<float>(problem.dqkv.view().template as<S>()[t * 96 + i]), 0.0f);
    }
  }
}

TYPED_TEST(AttentionInvariance, NotANumberStaysVisible) {
  using S = TypeParam;
  Problem<S> problem(this->kShape);
  problem.qkv.view().template as<S>()[0] = S(std::nanf(""));
  problem.run(*this->backend_);
  EXPECT_TRUE(std::isnan(static_cast<float>(problem.out.view().template as<S>()[0])));
  EXPECT_TRUE(std::isnan(static_cast<float>(problem.dqkv.view().template as<S>()[0])));
}

TYPED_TEST(AttentionInvariance, LargeScoresDoNotOverflow) {
  using S = TypeParam;
  Problem<S> problem({"", 1, 40, 1, 16, 0.0f, Case::Keys::all});
  auto* const values = problem.qkv.view().template as<S>();
  for (std::int64_t i = 0; i < problem.tokens() * 3 * problem.width(); ++i)
    values[i] = S(static_cast<float>(values[i]) * 100.0f);
  problem.run(*this->backend_);
  const oracle::AttentionOracle expected(problem.op, doubles<S>(problem.qkv.view()));
  EXPECT_LE(relative_error(doubles<S>(problem.out.view()), expected.out), 4e-3);
}

}  // namespace
}  // namespace demist
