// cuBLASLt's call forms that the product uses, against sums in double. Nothing here knows the
// emulation.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>

#include "tests/cuda/tolerance.hpp"
#include "tests/emulation/cublaslt_fixture.hpp"

namespace demist::cuda::test {
namespace {

constexpr std::uint64_t kWorkspace = std::uint64_t{4} << 20;

// Column-major names: a row-major Y = X W^T is D = A^T B with A = W, B = X.
struct Case {
  const char* name;
  bool trans_a, trans_b;
  cudaDataType_t in, out;
  float alpha, beta;
  bool bias;
  int batch;
  cublasLtOrder_t order;
  Place a{}, b{}, d{};
};

// The least that the product promises of pointers.
constexpr std::uint32_t kAlignment = 16;
constexpr Place kHeads{.side_by_side = true, .offset = kAlignment};
constexpr Place kAnywhere{.side_by_side = false, .offset = kAlignment};

class CublasLt : public testing::TestWithParam<Case> {};

TEST_P(CublasLt, MultipliesLikeSumsInDouble) {
  const Case& c = GetParam();
  Product product({.m = 24, .n = 40, .k = 56}, c.in, c.out);
  product.transpose(c.trans_a, c.trans_b);
  product.set_order(c.order);
  product.set_batch(c.batch);
  product.set_scalars(c.alpha, c.beta);
  product.set_places(c.a, c.b, c.d);
  if (c.bias) product.use_bias();
  product.fill(17);
  const auto results = product.search(kWorkspace, 1, c.a.offset > 0 ? kAlignment : 256);
  ASSERT_FALSE(results.empty());
  ASSERT_EQ(product.run(&results.front()), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  product.expect_near(c.out == CUDA_R_16BF ? kCublasLt.bf16 : kCublasLt.f32);
}

INSTANTIATE_TEST_SUITE_P(
    Forms, CublasLt,
    testing::Values(
        Case{"forward", true, false, CUDA_R_16BF, CUDA_R_16BF, 1, 0, false, 1, CUBLASLT_ORDER_COL},
        Case{"forward_bias", true, false, CUDA_R_16BF, CUDA_R_16BF, 1, 0, true, 1,
             CUBLASLT_ORDER_COL},
        Case{"input_gradient", false, false, CUDA_R_16BF, CUDA_R_16BF, 1, 0, false, 1,
             CUBLASLT_ORDER_COL},
        Case{"weight_gradient", false, true, CUDA_R_16BF, CUDA_R_32F, 1, 0, false, 1,
             CUBLASLT_ORDER_COL},
        Case{"weight_gradient_added", false, true, CUDA_R_16BF, CUDA_R_32F, 1, 1, false, 1,
             CUBLASLT_ORDER_COL},
        Case{"both_transposed", true, true, CUDA_R_16BF, CUDA_R_32F, 0.5f, 0, false, 1,
             CUBLASLT_ORDER_COL},
        Case{"fp32", true, false, CUDA_R_32F, CUDA_R_32F, 1, 0, false, 1, CUBLASLT_ORDER_COL},
        Case{"fp32_bias", true, false, CUDA_R_32F, CUDA_R_32F, 2, 0, true, 1, CUBLASLT_ORDER_COL},
        Case{"fp32_added", false, true, CUDA_R_32F, CUDA_R_32F, 1, 1, false, 1, CUBLASLT_ORDER_COL},
        Case{"logits", true, false, CUDA_R_16BF, CUDA_R_32F, 1, 0, true, 1, CUBLASLT_ORDER_COL},
        Case{"batches", true, false, CUDA_R_16BF, CUDA_R_16BF, 0.125f, 0, false, 6,
             CUBLASLT_ORDER_COL},
        Case{"batches_added", false, true, CUDA_R_16BF, CUDA_R_32F, 1, 1, false, 3,
             CUBLASLT_ORDER_COL},
        Case{"any_16_bytes", true, false, CUDA_R_16BF, CUDA_R_16BF, 1, 0, true, 1,
             CUBLASLT_ORDER_COL, kAnywhere, kAnywhere, kAnywhere},
        Case{"any_16_bytes_fp32", false, true, CUDA_R_32F, CUDA_R_32F, 1, 1, false, 1,
             CUBLASLT_ORDER_COL, kAnywhere, kAnywhere, kAnywhere},
        Case{"terms", true, false, CUDA_R_16BF, CUDA_R_32F, 1, 0, false, 1, CUBLASLT_ORDER_COL},
        Case{"input_gradient_terms", false, false, CUDA_R_16BF, CUDA_R_32F, 1, 0, false, 1,
             CUBLASLT_ORDER_COL},
        Case{"fp32_input_gradient", false, false, CUDA_R_32F, CUDA_R_32F, 1, 0, false, 1,
             CUBLASLT_ORDER_COL},
        Case{"heads_to_scores", true, false, CUDA_R_16BF, CUDA_R_32F, 1, 0, false, 4,
             CUBLASLT_ORDER_COL, kHeads, kHeads, kAnywhere},
        Case{"scores_to_heads", false, false, CUDA_R_16BF, CUDA_R_16BF, 1, 0, false, 4,
             CUBLASLT_ORDER_COL, kHeads, kAnywhere, kHeads},
        Case{"scores_to_keys", false, true, CUDA_R_16BF, CUDA_R_16BF, 1, 0, false, 4,
             CUBLASLT_ORDER_COL, kHeads, kAnywhere, kHeads},
        Case{"heads_to_scores_fp32", true, false, CUDA_R_32F, CUDA_R_32F, 1, 0, false, 4,
             CUBLASLT_ORDER_COL, kHeads, kHeads, kAnywhere},
        Case{"scores_to_heads_fp32", false, false, CUDA_R_32F, CUDA_R_32F, 1, 0, false, 4,
             CUBLASLT_ORDER_COL, kHeads, kAnywhere, kHeads},
        Case{"scores_to_keys_fp32", false, true, CUDA_R_32F, CUDA_R_32F, 1, 0, false, 4,
             CUBLASLT_ORDER_COL, kHeads, kAnywhere, kHeads},
        Case{"rows", false, true, CUDA_R_16BF, CUDA_R_16BF, 1, 0, false, 1, CUBLASLT_ORDER_ROW},
        Case{"rows_batches", true, false, CUDA_R_32F, CUDA_R_32F, 1, 1, false, 2,
             CUBLASLT_ORDER_ROW}),
    [](const auto& form) { return std::string(form.param.name); });

TEST(CublasLtSearch, OffersAlgorithmsWithinTheWorkspace) {
  Product product({.m = 16, .n = 32, .k = 64}, CUDA_R_16BF, CUDA_R_16BF);
  product.transpose(true, false);
  product.fill(3);
  for (const std::uint64_t limit : {std::uint64_t{0}, std::uint64_t{1} << 16, kWorkspace}) {
    const auto results = product.search(limit, 8);
    ASSERT_FALSE(results.empty());
    for (const auto& result : results) {
      EXPECT_EQ(result.state, CUBLAS_STATUS_SUCCESS);
      EXPECT_LE(result.workspaceSize, limit);
      ASSERT_EQ(product.run(&result), CUBLAS_STATUS_SUCCESS);
      ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      product.expect_near(kCublasLt.bf16);
    }
  }
}

TEST(CublasLtSearch, TheSameProductHasTheSameBits) {
  Product product({.m = 16, .n = 32, .k = 64}, CUDA_R_16BF, CUDA_R_32F);
  product.transpose(false, true);
  product.fill(4);
  const auto results = product.search(kWorkspace, 1);
  ASSERT_FALSE(results.empty());
  ASSERT_EQ(product.run(&results.front()), CUBLAS_STATUS_SUCCESS);
  const auto first = product.bits();
  ASSERT_EQ(product.run(&results.front()), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(product.bits(), first);
}

TEST(CublasLtSearch, AnAlgorithmFoundEarlierIsAccepted) {
  Product product({.m = 16, .n = 32, .k = 64}, CUDA_R_16BF, CUDA_R_16BF);
  product.transpose(true, false);
  product.fill(6);
  for (const auto& result : product.search(kWorkspace, 4)) {
    const auto needs = product.needs_of(result.algo);
    EXPECT_EQ(needs.state, CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(needs.workspaceSize, result.workspaceSize);
  }
}

TEST(CublasLtSearch, TheLibraryTellsItsVersion) {
  EXPECT_GE(cublasLtGetVersion(), 120000u);
  EXPECT_GE(cublasLtGetCudartVersion(), 12000u);
}

}  // namespace
}  // namespace demist::cuda::test
