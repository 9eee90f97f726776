// Matrix products by cuBLASLt, with a plan per shape that is made once.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <string>

#include "core/tensor.hpp"
#include "kernels/cuda/attention.hpp"
#include "kernels/cuda/gemm_plan.hpp"
#include "kernels/cuda/runtime.hpp"
#include "kernels/product_chooser.hpp"

namespace demist::cuda {

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
// choice for the shape, under preferences that never change, or the one adopted for it: with one
// GPU model, one version of the library and the same plans adopted, a shape has one algorithm and
// its results one set of bits, on any rank and in any run. Pointers and rows start at multiples of
// 16 bytes.
class Gemm final : public BatchedGemm, public ProductChooser {
 public:
  // Works in 32 MiB of `memory`.
  Gemm(const Stream& stream, Memory& memory);
  ~Gemm() override;

  void multiply(const GemmShape& shape, const GemmOperands& operands);
  void multiply(const MatrixBatch<void>& out, const MatrixBatch<const void>& a,
                const MatrixBatch<const void>& b, Transpose transpose, std::int64_t sequences,
                std::int64_t heads) override;
  static std::size_t version() { return cublasLtGetVersion(); }

  DeviceIdentity identity() const override;
  void begin_measuring(int candidates) override;
  std::vector<ProductPlan> end_measuring() override;
  void adopt(std::span<const ProductPlan> plans) override;

 private:
  GemmPlan& plan_for(const GemmShape& shape, const GemmOperands& operands);
  void choose(GemmPlan& plan, const GemmOperands& operands);
  void measure(GemmPlan& plan, const GemmOperands& operands);
  cublasStatus_t run(const GemmPlan& plan, const GemmOperands& operands,
                     const cublasLtMatmulAlgo_t& algorithm);

  const Stream& stream_;
  cublasLtHandle_t handle_ = nullptr;
  Buffer<std::byte> workspace_;
  std::map<GemmShape, std::unique_ptr<GemmPlan>> plans_;
  std::map<std::string, cublasLtMatmulAlgo_t> adopted_;  // by name_of(shape)
  int candidates_ = 0;                                   // 0: nothing is measured
  std::vector<ProductPlan> measured_;
};

}  // namespace demist::cuda
