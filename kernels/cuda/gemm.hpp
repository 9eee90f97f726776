// Matrix products by cuBLASLt, with a plan per shape that is made once.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cublasLt.h>

#include <compare>
#include <cstdint>
#include <map>
#include <memory>

#include "core/tensor.hpp"
#include "kernels/cuda/attention.hpp"
#include "kernels/cuda/runtime.hpp"
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

// Of one matrix each, without bias: TensorView or MatrixBatch, as long as they have rows, cols, ld
// and dtype.
template <class Out, class In>
GemmShape shape_of(const Out& out, const In& a, const In& b, Transpose transpose) {
  GemmShape shape;
  shape.transpose = transpose;
  shape.in = a.dtype;
  shape.out = out.dtype;
  shape.m = out.rows;
  shape.n = out.cols;
  shape.k = transpose == Transpose::a ? a.rows : a.cols;
  shape.a_ld = a.ld;
  shape.b_ld = b.ld;
  shape.out_ld = out.ld;
  return shape;
}

struct GemmOperands {
  void* out = nullptr;
  const void* a = nullptr;
  const void* b = nullptr;
  const void* bias = nullptr;
  bool accumulate = false;
};

// Products of fp32 or bf16 with fp32 sums (fp32 without TF32). The algorithm is cuBLASLt's first
// choice for the shape, under preferences that never change: with one GPU model and one version of
// the library, a shape has one algorithm and its results one set of bits, on any rank and in any
// run. Pointers and rows start at multiples of 16 bytes.
class Gemm final : public BatchedGemm {
 public:
  // Works in 32 MiB of `memory`.
  Gemm(const Stream& stream, Memory& memory);
  ~Gemm() override;

  void multiply(const GemmShape& shape, const GemmOperands& operands);
  void multiply(const MatrixBatch<void>& out, const MatrixBatch<const void>& a,
                const MatrixBatch<const void>& b, Transpose transpose, std::int64_t sequences,
                std::int64_t heads) override;
  static std::size_t version() { return cublasLtGetVersion(); }

 private:
  struct Plan;
  Plan& plan_for(const GemmShape& shape);

  const Stream& stream_;
  cublasLtHandle_t handle_ = nullptr;
  Buffer<std::byte> workspace_;
  std::map<GemmShape, std::unique_ptr<Plan>> plans_;
};

}  // namespace demist::cuda
