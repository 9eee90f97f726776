// One matrix product as cuBLASLt describes it, and its algorithm.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cublasLt.h>

#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor.hpp"
#include "kernels/types.hpp"

namespace demist::cuda {

// All that a plan depends on. Row-major: out[m,n] = op(a) op(b), k the inner size; `batch` matrices
// whose strides are given in elements.
struct GemmShape {
  Transpose transpose = Transpose::none;
  DType in = DType::f32, out = DType::f32;
  bool bias = false;  // [n], of out's type
  std::int64_t m = 0, n = 0, k = 0;
  std::int64_t a_ld = 0, b_ld = 0, out_ld = 0;
  std::int64_t batch = 1, a_stride = 0, b_stride = 0, out_stride = 0;
  // NOLINTNEXTLINE(modernize-use-nullptr): clang-tidy means the zero of the generated code
  auto operator<=>(const GemmShape&) const = default;
};
// All of it, as it stands in files: "bf16 NT 4096 2304 768, rows 768 768 2304, bias, to bf16".
std::string name_of(const GemmShape& shape);
std::string describe(const GemmShape& shape);  // for messages

// Throws EnvironmentError that names the library and `what`.
void check(cublasStatus_t status, const std::string& what);

// A matrix's layout; columns first, as cuBLASLt thinks.
class GemmLayout {
 public:
  GemmLayout(DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t ld);
  ~GemmLayout() { cublasLtMatrixLayoutDestroy(layout_); }
  GemmLayout(const GemmLayout&) = delete;
  GemmLayout& operator=(const GemmLayout&) = delete;
  void batches(std::int64_t count, std::int64_t stride);
  cublasLtMatrixLayout_t get() const { return layout_; }

 private:
  cublasLtMatrixLayout_t layout_ = nullptr;
};

struct GemmPlan {
  explicit GemmPlan(const GemmShape& shape);
  ~GemmPlan() { cublasLtMatmulDescDestroy(product); }
  GemmPlan(const GemmPlan&) = delete;
  GemmPlan& operator=(const GemmPlan&) = delete;

  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, T value) {
    check(cublasLtMatmulDescSetAttribute(product, attribute, &value, sizeof value), "product");
  }
  // The library's choices under preferences that never change, best guess first; one at least.
  std::vector<cublasLtMatmulAlgo_t> candidates(cublasLtHandle_t handle, int most) const;
  // Whether this library, here, can run it in the workspace that there is.
  bool accepts(cublasLtHandle_t handle, const cublasLtMatmulAlgo_t& algorithm) const;

  const GemmShape shape;
  cublasLtMatmulDesc_t product = nullptr;
  GemmLayout first, second, result;
  cublasLtMatmulAlgo_t algorithm{};
};

// An algorithm as text: cuBLASLt promises that its bytes mean the same to the same version.
std::string to_hex(const cublasLtMatmulAlgo_t& algorithm);
cublasLtMatmulAlgo_t algorithm_from_hex(const std::string& text);  // throws DataError

}  // namespace demist::cuda
