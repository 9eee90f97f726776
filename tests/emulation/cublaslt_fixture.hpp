// One cuBLASLt product for tests: descriptors, operands with padded leading dimensions, a
// reference. SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "tests/emulation/device_buffer.hpp"

namespace demist::cuda::test {

struct Shape {
  std::uint64_t m, n, k;
};

// Where the matrices of a batch lie: one after the other, or side by side in the lines of one (the
// heads of a token); from how many bytes on.
struct Place {
  bool side_by_side = false;
  std::size_t offset = 0;
};

// A matrix on the host as numbers, on the device as `type`.
class Matrix {
 public:
  static constexpr std::int64_t kPadding = 8;

  void shape(std::uint64_t rows, std::uint64_t cols, cudaDataType_t type, cublasLtOrder_t order,
             int batch, Place place = {}) {
    rows_ = rows, cols_ = cols, type_ = type, order_ = order, batch_ = batch;
    const auto line = static_cast<std::size_t>(by_columns() ? rows : cols);
    const auto lines = static_cast<std::size_t>(by_columns() ? cols : rows);
    const std::size_t abreast = place.side_by_side ? static_cast<std::size_t>(batch) : 1;
    ld_ = static_cast<std::int64_t>(abreast * line) + kPadding;
    stride_ = place.side_by_side ? line : static_cast<std::size_t>(ld_) * lines;
    first_ = place.offset / element_bytes();
    size_ =
        first_ + static_cast<std::size_t>(ld_) * lines * static_cast<std::size_t>(batch) / abreast;
  }
  bool by_columns() const { return order_ == CUBLASLT_ORDER_COL; }
  std::int64_t ld() const { return ld_; }
  std::size_t stride() const { return stride_; }
  std::size_t index(std::uint64_t row, std::uint64_t col, int batch) const {
    const auto line = static_cast<std::size_t>(ld_);
    return first_ + static_cast<std::size_t>(batch) * stride() +
           (by_columns() ? col * line + row : row * line + col);
  }
  double at(std::uint64_t row, std::uint64_t col, int batch) const {
    return values_[index(row, col, batch)];
  }
  void fill(std::mt19937& random) {
    std::normal_distribution<float> normal;
    values_.resize(size_);
    for (float& value : values_) value = rounded(normal(random));
    upload();
  }
  void upload() {
    std::vector<char> bytes(values_.size() * element_bytes());
    for (std::size_t i = 0; i < values_.size(); ++i) {
      const __nv_bfloat16 narrow = __float2bfloat16(values_[i]);
      std::memcpy(bytes.data() + i * element_bytes(),
                  type_ == CUDA_R_32F ? static_cast<const void*>(&values_[i])
                                      : static_cast<const void*>(&narrow),
                  element_bytes());
    }
    device_.emplace(bytes);
  }
  std::vector<char> bits() const { return device_->host(); }
  std::vector<float> download() const {
    const std::vector<char> bytes = bits();
    std::vector<float> values(bytes.size() / element_bytes());
    for (std::size_t i = 0; i < values.size(); ++i) {
      __nv_bfloat16 narrow;
      if (type_ == CUDA_R_32F) {
        std::memcpy(&values[i], bytes.data() + i * 4, 4);
      } else {
        std::memcpy(&narrow, bytes.data() + i * 2, 2);
        values[i] = __bfloat162float(narrow);
      }
    }
    return values;
  }
  char* data() const { return device_->data() + first_ * element_bytes(); }
  const std::vector<float>& values() const { return values_; }
  std::size_t element_bytes() const { return type_ == CUDA_R_32F ? 4 : 2; }

  // Owned by the caller.
  cublasLtMatrixLayout_t make_layout() const {
    cublasLtMatrixLayout_t layout = nullptr;
    EXPECT_EQ(cublasLtMatrixLayoutCreate(&layout, type_, rows_, cols_, ld_), CUBLAS_STATUS_SUCCESS);
    const auto set = [&](cublasLtMatrixLayoutAttribute_t attribute, auto value) {
      EXPECT_EQ(cublasLtMatrixLayoutSetAttribute(layout, attribute, &value, sizeof value),
                CUBLAS_STATUS_SUCCESS);
    };
    set(CUBLASLT_MATRIX_LAYOUT_ORDER, static_cast<std::int32_t>(order_));
    if (batch_ > 1) {
      set(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<std::int32_t>(batch_));
      set(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, static_cast<std::int64_t>(stride()));
    }
    return layout;
  }

 private:
  float rounded(float value) const {
    return type_ == CUDA_R_32F ? value : __bfloat162float(__float2bfloat16(value));
  }

  std::uint64_t rows_ = 0, cols_ = 0;
  cudaDataType_t type_ = CUDA_R_32F;
  cublasLtOrder_t order_ = CUBLASLT_ORDER_COL;
  int batch_ = 1;
  std::int64_t ld_ = 0;
  std::size_t stride_ = 0, first_ = 0, size_ = 0;  // elements
  std::vector<float> values_;
  std::optional<DeviceBuffer<char>> device_;
};

// D = alpha op(A) op(B) + beta D + bias.
class Product {
 public:
  Product(Shape shape, cudaDataType_t in, cudaDataType_t out) : shape_(shape), in_(in), out_(out) {
    EXPECT_EQ(cublasLtCreate(&handle_), CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(cublasLtMatmulDescCreate(&description_, CUBLAS_COMPUTE_32F, CUDA_R_32F),
              CUBLAS_STATUS_SUCCESS);
  }
  ~Product() {
    for (cublasLtMatrixLayout_t layout : {a_layout_, b_layout_, d_layout_})
      EXPECT_EQ(layout == nullptr ? CUBLAS_STATUS_SUCCESS : cublasLtMatrixLayoutDestroy(layout),
                CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(cublasLtMatmulDescDestroy(description_), CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(cublasLtDestroy(handle_), CUBLAS_STATUS_SUCCESS);
  }
  Product(const Product&) = delete;
  Product& operator=(const Product&) = delete;

  template <class T>
  cublasStatus_t set(cublasLtMatmulDescAttributes_t attribute, T value) {
    return cublasLtMatmulDescSetAttribute(description_, attribute, &value, sizeof value);
  }
  void transpose(bool a, bool b) {
    trans_a_ = a, trans_b_ = b;
    EXPECT_EQ(set(CUBLASLT_MATMUL_DESC_TRANSA, a ? CUBLAS_OP_T : CUBLAS_OP_N),
              CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(set(CUBLASLT_MATMUL_DESC_TRANSB, b ? CUBLAS_OP_T : CUBLAS_OP_N),
              CUBLAS_STATUS_SUCCESS);
  }
  void set_order(cublasLtOrder_t order) { order_ = order; }
  void set_batch(int batch) { batch_ = batch; }
  void set_scalars(float alpha, float beta) { alpha_ = alpha, beta_ = beta; }
  void use_bias() { has_bias_ = true; }
  void set_places(Place a, Place b, Place d) { a_place_ = a, b_place_ = b, d_place_ = d; }

  void fill(unsigned seed) {
    const auto [m, n, k] = shape_;
    a_.shape(trans_a_ ? k : m, trans_a_ ? m : k, in_, order_, batch_, a_place_);
    b_.shape(trans_b_ ? n : k, trans_b_ ? k : n, in_, order_, batch_, b_place_);
    d_.shape(m, n, out_, order_, batch_, d_place_);
    bias_.shape(m, 1, out_, CUBLASLT_ORDER_COL, 1, {false, a_place_.offset});
    std::mt19937 random(seed);
    for (Matrix* matrix : {&a_, &b_, &d_, &bias_}) matrix->fill(random);
    a_layout_ = a_.make_layout(), b_layout_ = b_.make_layout(), d_layout_ = d_.make_layout();
    if (has_bias_) {
      EXPECT_EQ(set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS), CUBLAS_STATUS_SUCCESS);
      EXPECT_EQ(set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, out_), CUBLAS_STATUS_SUCCESS);
      EXPECT_EQ(set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<void*>(bias_.data())),
                CUBLAS_STATUS_SUCCESS);
    }
  }

  std::vector<cublasLtMatmulHeuristicResult_t> search(std::uint64_t workspace, int wanted,
                                                      std::uint32_t alignment = 256) {
    cublasLtMatmulPreference_t preference = nullptr;
    EXPECT_EQ(cublasLtMatmulPreferenceCreate(&preference), CUBLAS_STATUS_SUCCESS);
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      EXPECT_EQ(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value),
                CUBLAS_STATUS_SUCCESS);
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace);
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
           std::uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      prefer(attribute, alignment);
    std::vector<cublasLtMatmulHeuristicResult_t> results(static_cast<std::size_t>(wanted));
    int found = 0;
    status_ = cublasLtMatmulAlgoGetHeuristic(handle_, description_, a_layout_, b_layout_, d_layout_,
                                             d_layout_, preference, wanted, results.data(), &found);
    results.resize(static_cast<std::size_t>(found));
    EXPECT_EQ(cublasLtMatmulPreferenceDestroy(preference), CUBLAS_STATUS_SUCCESS);
    return results;
  }
  cublasStatus_t search_status() const { return status_; }
  // What the library says of an algorithm that was found earlier, as one read from a file.
  cublasLtMatmulHeuristicResult_t needs_of(const cublasLtMatmulAlgo_t& algorithm) const {
    cublasLtMatmulHeuristicResult_t needs{};
    needs.state = cublasLtMatmulAlgoCheck(handle_, description_, a_layout_, b_layout_, d_layout_,
                                          d_layout_, &algorithm, &needs);
    return needs;
  }

  // Offsets in bytes spoil the pointers, for tests of what the library refuses.
  cublasStatus_t run(const cublasLtMatmulHeuristicResult_t* result, std::size_t a_offset = 0,
                     std::size_t workspace_offset = 0) {
    d_.upload();
    const std::size_t bytes = result == nullptr ? 0 : result->workspaceSize;
    workspace_.emplace(bytes + 256);
    return cublasLtMatmul(handle_, description_, &alpha_, a_.data() + a_offset, a_layout_,
                          b_.data(), b_layout_, &beta_, d_.data(), d_layout_, d_.data(), d_layout_,
                          result == nullptr ? nullptr : &result->algo,
                          workspace_->data() + workspace_offset, bytes, nullptr);
  }

  std::vector<char> bits() const { return d_.bits(); }

  // Errors relative to the root mean square of a sum; what lies between lines is as it was.
  void expect_near(double tolerance) const {
    const std::vector<float> got = d_.download();
    std::vector<double> want(d_.values().begin(), d_.values().end());
    std::vector<bool> inside(want.size());
    for (int batch = 0; batch < batch_; ++batch)
      for (std::uint64_t i = 0; i < shape_.m; ++i)
        for (std::uint64_t j = 0; j < shape_.n; ++j) {
          const std::size_t at = d_.index(i, j, batch);
          want[at] = reference(i, j, batch);
          inside[at] = true;
        }
    const double scale = std::sqrt(static_cast<double>(shape_.k));
    for (std::size_t i = 0; i < want.size(); ++i)
      ASSERT_NEAR(got[i], want[i], inside[i] ? tolerance * (scale + std::abs(want[i])) : 0) << i;
  }

  cublasLtHandle_t handle() const { return handle_; }
  cublasLtMatrixLayout_t a_layout() const { return a_layout_; }
  cublasLtMatrixLayout_t d_layout() const { return d_layout_; }
  const Matrix& a() const { return a_; }
  const Matrix& d() const { return d_; }

 private:
  double reference(std::uint64_t i, std::uint64_t j, int batch) const {
    double sum = 0;
    for (std::uint64_t l = 0; l < shape_.k; ++l)
      sum += (trans_a_ ? a_.at(l, i, batch) : a_.at(i, l, batch)) *
             (trans_b_ ? b_.at(j, l, batch) : b_.at(l, j, batch));
    const double bias = has_bias_ ? bias_.at(i, 0, 0) : 0;
    return alpha_ * sum + beta_ * d_.at(i, j, batch) + bias;
  }

  Shape shape_;
  cudaDataType_t in_, out_;
  cublasLtOrder_t order_ = CUBLASLT_ORDER_COL;
  bool trans_a_ = false, trans_b_ = false, has_bias_ = false;
  int batch_ = 1;
  float alpha_ = 1, beta_ = 0;
  Place a_place_, b_place_, d_place_;
  Matrix a_, b_, d_, bias_;
  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulDesc_t description_ = nullptr;
  cublasLtMatrixLayout_t a_layout_ = nullptr, b_layout_ = nullptr, d_layout_ = nullptr;
  std::optional<DeviceBuffer<char>> workspace_;
  cublasStatus_t status_ = CUBLAS_STATUS_SUCCESS;
};

}  // namespace demist::cuda::test
