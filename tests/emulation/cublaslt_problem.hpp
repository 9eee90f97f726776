// What a cuBLASLt product is made of, inside the opaque descriptors of the real header.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cublasLt.h>
#include <cuda_bf16.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace demist::emu {

struct MatrixLayout {
  cudaDataType_t type = CUDA_R_32F;
  std::int32_t order = CUBLASLT_ORDER_COL;
  std::uint64_t rows = 0, cols = 0;
  std::int64_t ld = 0;
  std::int32_t batch = 1;
  std::int64_t batch_stride = 0;  // elements

  bool by_columns() const { return order == CUBLASLT_ORDER_COL; }
  std::size_t index(std::size_t row, std::size_t col) const {
    return by_columns() ? col * static_cast<std::size_t>(ld) + row
                        : row * static_cast<std::size_t>(ld) + col;
  }
  std::size_t element_bytes() const { return type == CUDA_R_32F ? 4 : 2; }
  // Bytes from the first element of the first batch to the last of the last.
  std::size_t extent() const {
    const auto stride = static_cast<std::size_t>(batch_stride);
    const auto batches = static_cast<std::size_t>(batch);
    return (stride * (batches - 1) + index(rows - 1, cols - 1) + 1) * element_bytes();
  }
  bool operator==(const MatrixLayout&) const = default;
};

struct MatmulDescription {
  cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
  cudaDataType_t scale = CUDA_R_32F;
  std::int32_t trans_a = CUBLAS_OP_N, trans_b = CUBLAS_OP_N;
  std::uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
  std::int32_t bias_type = -1;  // -1: D's
};

struct SearchPreference {
  std::uint64_t workspace = 0;
  // A, B, C, D: what the caller promises for its pointers.
  std::array<std::uint32_t, 4> alignment = {256, 256, 256, 256};
  std::uint32_t reduction_schemes = CUBLASLT_REDUCTION_SCHEME_MASK;
};

// What a heuristic search promised, and for what.
struct Algorithm {
  std::uint64_t problem = 0;  // hash of it
  std::uint64_t workspace = 0;
  std::array<std::uint32_t, 4> alignment = {};
  std::uint32_t number = 0;
  std::uint32_t magic = 0;
};

static_assert(sizeof(MatrixLayout) <= sizeof(cublasLtMatrixLayoutOpaque_t));
static_assert(sizeof(MatmulDescription) <= sizeof(cublasLtMatmulDescOpaque_t));
static_assert(sizeof(SearchPreference) <= sizeof(cublasLtMatmulPreferenceOpaque_t));
static_assert(sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t));

struct Problem {
  MatmulDescription description;
  MatrixLayout a, b, c, d;

  std::size_t m() const { return d.rows; }
  std::size_t n() const { return d.cols; }
  std::size_t k() const { return description.trans_a == CUBLAS_OP_N ? a.cols : a.rows; }
  bool has_bias() const { return description.epilogue == CUBLASLT_EPILOGUE_BIAS; }
  cudaDataType_t bias_type() const {
    return description.bias_type < 0 ? d.type : static_cast<cudaDataType_t>(description.bias_type);
  }
  // Empty, or why the real library refuses it, or may: then we do.
  std::string objection() const;
  // Of everything that an algorithm is chosen by; pointers and scalars are not.
  std::uint64_t hash() const;
};

struct Operands {
  float alpha = 1, beta = 0;
  const void *a = nullptr, *b = nullptr, *c = nullptr;
  void* d = nullptr;
};

// D = alpha op(A) op(B) + beta C (+ bias of each row), with fp32 sums of `parts` equal parts of the
// inner dimension, which are then added in order: other parts, other last bits.
void run_product(const Problem& problem, const Operands& operands, std::size_t parts);

// How many algorithms a search offers at most, and how many products each has run so far.
inline constexpr std::size_t kAlgorithms = 3;
std::array<std::uint64_t, kAlgorithms>& products_run();

}  // namespace demist::emu
