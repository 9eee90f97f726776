// Wrong calls of cuBLASLt must be refused. For the emulated device only: the real library accepts
// more than the emulation imitates, and may crash where this refuses.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "tests/emulation/cublaslt_fixture.hpp"

namespace demist::cuda::test {
namespace {

constexpr std::uint64_t kWorkspace = std::uint64_t{4} << 20;

class CublasLtDefects : public testing::Test {
 protected:
  void SetUp() override {
    product_.transpose(true, false);
    product_.fill(5);
    results_ = product_.search(kWorkspace, 3);
    ASSERT_EQ(results_.size(), 3u);
    ASSERT_GT(results_.front().workspaceSize, 0u);
  }
  template <class T>
  void change(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t attribute, T value) {
    ASSERT_EQ(cublasLtMatrixLayoutSetAttribute(layout, attribute, &value, sizeof value),
              CUBLAS_STATUS_SUCCESS);
  }
  void expect_unsupported() {
    EXPECT_TRUE(product_.search(kWorkspace, 1).empty());
    EXPECT_EQ(product_.search_status(), CUBLAS_STATUS_NOT_SUPPORTED);
    EXPECT_EQ(product_.run(&results_.front()), CUBLAS_STATUS_NOT_SUPPORTED);
  }
  Product product_{{.m = 16, .n = 24, .k = 32}, CUDA_R_16BF, CUDA_R_16BF};
  std::vector<cublasLtMatmulHeuristicResult_t> results_;
};

TEST_F(CublasLtDefects, ARightCallPasses) {
  EXPECT_EQ(product_.run(&results_.front()), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(product_.run(nullptr), CUBLAS_STATUS_SUCCESS);
}

TEST_F(CublasLtDefects, ShapesMustAgree) {
  change(product_.a_layout(), CUBLASLT_MATRIX_LAYOUT_ROWS, std::uint64_t{31});
  expect_unsupported();
}

TEST_F(CublasLtDefects, LinesMustFit) {
  change(product_.d_layout(), CUBLASLT_MATRIX_LAYOUT_LD, std::int64_t{15});
  expect_unsupported();
}

TEST_F(CublasLtDefects, BatchesMustAgree) {
  change(product_.a_layout(), CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, std::int32_t{2});
  expect_unsupported();
}

TEST_F(CublasLtDefects, ALargerMatrixThanItsMemoryIsRefused) {
  change(product_.a_layout(), CUBLASLT_MATRIX_LAYOUT_LD, product_.a().ld() + 1);
  const auto results = product_.search(kWorkspace, 1);
  ASSERT_FALSE(results.empty());
  EXPECT_EQ(product_.run(&results.front()), CUBLAS_STATUS_INVALID_VALUE);
}

TEST_F(CublasLtDefects, AnAlgorithmBelongsToItsProduct) {
  change(product_.d_layout(), CUBLASLT_MATRIX_LAYOUT_LD, product_.d().ld() - 1);
  EXPECT_EQ(product_.run(&results_.front()), CUBLAS_STATUS_INVALID_VALUE);
}

TEST_F(CublasLtDefects, PointersAreAsAlignedAsPromised) {
  EXPECT_EQ(product_.run(&results_.front(), 16), CUBLAS_STATUS_INVALID_VALUE);
}

TEST_F(CublasLtDefects, LinesAreAsAlignedAsPointers) {
  change(product_.d_layout(), CUBLASLT_MATRIX_LAYOUT_LD, product_.d().ld() - 1);
  const auto results = product_.search(kWorkspace, 1);
  ASSERT_FALSE(results.empty());
  EXPECT_EQ(product_.run(&results.front()), CUBLAS_STATUS_INVALID_VALUE);
}

TEST_F(CublasLtDefects, BatchesAreAsAlignedAsPointers) {
  Product product({.m = 24, .n = 40, .k = 56}, CUDA_R_16BF, CUDA_R_16BF);
  product.transpose(true, false);
  product.set_batch(3);
  product.fill(5);
  for (const std::int64_t closer : {0, 8}) {
    const auto stride = static_cast<std::int64_t>(product.a().stride()) - closer;
    change(product.a_layout(), CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, stride);
    const auto results = product.search(kWorkspace, 1, 32);
    ASSERT_FALSE(results.empty());
    EXPECT_EQ(product.run(&results.front()),
              closer == 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE);
  }
}

TEST_F(CublasLtDefects, TheWorkspaceIsLargeEnoughAndAligned) {
  EXPECT_EQ(product_.run(&results_.front(), 0, 16), CUBLAS_STATUS_INVALID_VALUE);
  auto poor = results_.front();
  poor.workspaceSize -= 1;
  EXPECT_EQ(product_.run(&poor), CUBLAS_STATUS_INVALID_VALUE);
}

TEST_F(CublasLtDefects, WhatIsNotImitatedIsRefused) {
  ASSERT_EQ(product_.set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_GELU),
            CUBLAS_STATUS_SUCCESS);
  expect_unsupported();
  EXPECT_EQ(product_.set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, std::int8_t{1}),
            CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(product_.set(CUBLASLT_MATMUL_DESC_TRANSA, std::int64_t{0}),
            CUBLAS_STATUS_INVALID_VALUE);
}

TEST_F(CublasLtDefects, ABiasHasTheTypeOfTheResult) {
  const DeviceBuffer<float> bias(16);
  ASSERT_EQ(product_.set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS),
            CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(product_.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.data()), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(product_.set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUDA_R_32F), CUBLAS_STATUS_SUCCESS);
  expect_unsupported();
}

TEST_F(CublasLtDefects, ABiasIsKnownBeforeTheSearch) {
  ASSERT_EQ(product_.set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS),
            CUBLAS_STATUS_SUCCESS);
  expect_unsupported();
}

TEST_F(CublasLtDefects, TypesMustCombine) {
  Product narrow({.m = 16, .n = 8, .k = 8}, CUDA_R_32F, CUDA_R_16BF);
  narrow.fill(1);
  EXPECT_TRUE(narrow.search(0, 1).empty());
  EXPECT_EQ(narrow.search_status(), CUBLAS_STATUS_NOT_SUPPORTED);
}

}  // namespace
}  // namespace demist::cuda::test
