// Kernel tests run on every instruction set of this machine and in both storage types, on matrices
// of doubles that the storage type holds exactly.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <omp.h>

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "core/philox.hpp"
#include "core/tensor.hpp"
#include "kernels/backend.hpp"
#include "tests/support/tolerance.hpp"

namespace demist::test {

inline double rounded(double x, DType dtype) {
  const auto f = static_cast<float>(x);
  return static_cast<double>(dtype == DType::f32 ? f : static_cast<float>(bf16(f)));
}

// A row-major matrix of doubles: what oracles compute with.
struct Matrix {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<double> values;

  Matrix() = default;
  Matrix(std::int64_t r, std::int64_t c)
      : rows(r), cols(c), values(static_cast<std::size_t>(r * c)) {}
  double& operator()(std::int64_t r, std::int64_t c) {
    return values[static_cast<std::size_t>(r * cols + c)];
  }
  double operator()(std::int64_t r, std::int64_t c) const {
    return values[static_cast<std::size_t>(r * cols + c)];
  }
  Matrix as_stored(DType dtype) const {
    Matrix result = *this;
    for (double& value : result.values) value = rounded(value, dtype);
    return result;
  }
};

// Uniform in [-scale, scale), rounded to the storage type.
inline Matrix random_matrix(std::int64_t rows, std::int64_t cols, std::uint64_t seed, DType dtype,
                            double scale = 1) {
  Matrix result(rows, cols);
  for (std::size_t i = 0; i < result.values.size(); ++i) {
    const double u = uniform(draw(stream_key(seed, "kernel test", 0), i, 0));
    result.values[i] = rounded(scale * (2 * u - 1), dtype);
  }
  return result;
}

// A kernel's operand. Rows are `gap` elements longer than needed, and the gaps are watched.
class Operand {
 public:
  Operand(const Matrix& matrix, DType dtype, std::int64_t gap = 3)
      : tensor_(dtype, matrix.rows, matrix.cols + gap), rows_(matrix.rows), cols_(matrix.cols) {
    std::memset(tensor_.view().data, kCanary, tensor_.bytes());
    for (std::int64_t r = 0; r < rows_; ++r)
      for (std::int64_t c = 0; c < cols_; ++c) set(r, c, static_cast<float>(matrix(r, c)));
  }
  Operand(std::int64_t rows, std::int64_t cols, DType dtype, std::int64_t gap = 3)
      : Operand(nan_matrix(rows, cols), dtype, gap) {}

  TensorView view() { return tensor_.view().col_slice(0, cols_); }
  std::span<float> span() {  // of a row vector in fp32
    return {tensor_.view().as<float>(), static_cast<std::size_t>(cols_)};
  }

  Matrix matrix() {
    Matrix result(rows_, cols_);
    for (std::int64_t r = 0; r < rows_; ++r)
      for (std::int64_t c = 0; c < cols_; ++c) result(r, c) = static_cast<double>(get(r, c));
    return result;
  }
  std::vector<double> values() { return matrix().values; }

  // Nothing was written beyond the last column.
  bool gaps_are_intact() {
    const TensorView all = tensor_.view();
    const std::size_t element = size_of(all.dtype);
    for (std::int64_t r = 0; r < all.rows; ++r) {
      const auto* row = static_cast<const unsigned char*>(all.row_slice(r, 1).data);
      for (std::size_t i = static_cast<std::size_t>(cols_) * element;
           i < static_cast<std::size_t>(all.cols) * element; ++i)
        if (row[i] != kCanary) return false;
    }
    return true;
  }

 private:
  static constexpr unsigned char kCanary = 0x5a;
  static Matrix nan_matrix(std::int64_t rows, std::int64_t cols) {
    Matrix result(rows, cols);
    for (double& value : result.values) value = std::nan("");
    return result;
  }
  float get(std::int64_t r, std::int64_t c) {
    const TensorView all = tensor_.view();
    if (all.dtype == DType::f32) return all.as<float>()[r * all.ld + c];
    return static_cast<float>(all.as<bf16>()[r * all.ld + c]);
  }
  void set(std::int64_t r, std::int64_t c, float value) {
    const TensorView all = tensor_.view();
    if (all.dtype == DType::f32)
      all.as<float>()[r * all.ld + c] = value;
    else
      all.as<bf16>()[r * all.ld + c] = bf16(value);
  }

  Tensor tensor_;
  std::int64_t rows_;
  std::int64_t cols_;
};

inline std::vector<double> doubles(std::span<const float> values) {
  return {values.begin(), values.end()};
}
inline std::vector<float> floats(std::span<const double> values) {
  std::vector<float> result;
  for (const double value : values) result.push_back(static_cast<float>(value));
  return result;
}

// Central differences of `loss` by each element of x against an analytic gradient.
inline void expect_gradient(const std::function<double()>& loss, std::span<double> x,
                            std::span<const double> gradient) {
  std::vector<double> differences;
  for (double& value : x) {
    const double original = value;
    value = original + kDifferenceStep;
    const double above = loss();
    value = original - kDifferenceStep;
    const double below = loss();
    value = original;
    differences.push_back((above - below) / (2 * kDifferenceStep));
  }
  EXPECT_LE(relative_error(gradient, differences), kDifferences);
}

// The sum of a .* b: with b fixed, a loss whose gradient by a is b.
inline double dot(std::span<const double> a, std::span<const double> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// Runs `compute` with 1 and with 2 threads, which must leave the same values in what it returns.
inline void expect_same_for_threads(const std::function<std::vector<double>()>& compute) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const auto one = compute();
  omp_set_num_threads(2);
  const auto two = compute();
  omp_set_num_threads(before);
  EXPECT_EQ(one, two);
}

class KernelTest : public testing::TestWithParam<std::tuple<const char*, DType>> {
 protected:
  void SetUp() override {
    try {
      backend_ = make_cpu_backend(std::get<0>(GetParam()));
    } catch (const EnvironmentError& error) {
      GTEST_SKIP() << error.what();
    }
  }
  Backend& backend() { return *backend_; }
  DType dtype() const { return std::get<1>(GetParam()); }

 private:
  std::unique_ptr<Backend> backend_;
};

inline auto every_kernel() {
  return testing::Combine(testing::Values("avx2", "avx512"),
                          testing::Values(DType::f32, DType::bf16));
}
inline std::string kernel_name(const testing::TestParamInfo<KernelTest::ParamType>& info) {
  return std::string(std::get<0>(info.param)) + "_" + name_of(std::get<1>(info.param));
}

}  // namespace demist::test
