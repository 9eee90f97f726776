// cuBLASLt thinks in columns: row-major out = op(a) op(b) is its out^T = op(b)^T op(a)^T, with the
// operands in the other order and every matrix read as its transpose. Nothing is ever transposed in
// memory.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/gemm_plan.hpp"

#include <array>
#include <charconv>

#include "core/error.hpp"
#include "kernels/cuda/work_sizes.hpp"

namespace demist::cuda {
namespace {

// What every tensor can promise, whatever row it starts at.
constexpr std::uint32_t kAlignment = 16;
// Split-k may add partial sums in fp32, in a fixed order, but never through the output's type.
constexpr std::uint32_t kReductions =
    CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;

const char* text_of(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "the library could not start";
    case CUBLAS_STATUS_ALLOC_FAILED:
      return "out of memory";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "invalid argument";
    case CUBLAS_STATUS_ARCH_MISMATCH:
      return "this device lacks the data type";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "the kernel failed";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "not supported";
    default:
      return "internal error";
  }
}

cudaDataType_t type_of(DType dtype) { return dtype == DType::f32 ? CUDA_R_32F : CUDA_R_16BF; }

}  // namespace

std::string describe(const GemmShape& s) {
  return std::string(name_of(s.in)) + " product [" + std::to_string(s.m) + ", " +
         std::to_string(s.k) + "] x [" + std::to_string(s.k) + ", " + std::to_string(s.n) + "]";
}

std::string name_of(const GemmShape& s) {
  const auto numbers = [](std::initializer_list<std::int64_t> values) {
    std::string text;
    for (const std::int64_t value : values) text.append(" ").append(std::to_string(value));
    return text;
  };
  const char* const form = s.transpose == Transpose::none ? " NN"
                           : s.transpose == Transpose::a  ? " TN"
                                                          : " NT";
  std::string text = name_of(s.in) + std::string(form) + numbers({s.m, s.n, s.k}) + ", rows" +
                     numbers({s.a_ld, s.b_ld, s.out_ld});
  if (s.batch > 1) text += ", batch" + numbers({s.batch, s.a_stride, s.b_stride, s.out_stride});
  if (s.bias) text += ", bias";
  return text + ", to " + name_of(s.out);
}

void check(cublasStatus_t status, const std::string& what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw EnvironmentError("cuBLASLt " + std::to_string(cublasLtGetVersion()) + ": " + what + ": " +
                           text_of(status));
}

GemmLayout::GemmLayout(DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t ld) {
  check(cublasLtMatrixLayoutCreate(&layout_, type_of(dtype), static_cast<std::uint64_t>(rows),
                                   static_cast<std::uint64_t>(cols), ld),
        "matrix layout");
}

void GemmLayout::batches(std::int64_t count, std::int64_t stride) {
  const auto batch = static_cast<std::int32_t>(count);
  check(cublasLtMatrixLayoutSetAttribute(layout_, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch,
                                         sizeof batch),
        "batch count");
  check(cublasLtMatrixLayoutSetAttribute(layout_, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                         &stride, sizeof stride),
        "batch stride");
}

// Row-major a [m,k] is column-major [k,m]: the sizes below are those of the stored matrices.
GemmPlan::GemmPlan(const GemmShape& s)
    : shape(s),
      first(s.in, s.transpose == Transpose::b ? s.k : s.n, s.transpose == Transpose::b ? s.n : s.k,
            s.b_ld),
      second(s.in, s.transpose == Transpose::a ? s.m : s.k, s.transpose == Transpose::a ? s.k : s.m,
             s.a_ld),
      result(s.out, s.n, s.m, s.out_ld) {
  check(cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "product");
  const cublasOperation_t first_op = s.transpose == Transpose::b ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t second_op = s.transpose == Transpose::a ? CUBLAS_OP_T : CUBLAS_OP_N;
  set(CUBLASLT_MATMUL_DESC_TRANSA, first_op);
  set(CUBLASLT_MATMUL_DESC_TRANSB, second_op);
  if (s.bias) {
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type_of(s.out));
  }
  if (s.batch == 1) return;
  first.batches(s.batch, s.b_stride);
  second.batches(s.batch, s.a_stride);
  result.batches(s.batch, s.out_stride);
}

std::vector<cublasLtMatmulAlgo_t> GemmPlan::candidates(cublasLtHandle_t handle, int most) const {
  cublasLtMatmulPreference_t preference = nullptr;
  check(cublasLtMatmulPreferenceCreate(&preference), "preference");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value),
          "preference");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kGemmWorkspaceBytes);
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, kReductions);
  for (const auto alignment :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    prefer(alignment, kAlignment);
  std::vector<cublasLtMatmulHeuristicResult_t> found(static_cast<std::size_t>(most));
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle, product, first.get(), second.get(), result.get(),
                                     result.get(), preference, most, found.data(), &count);
  cublasLtMatmulPreferenceDestroy(preference);
  check(status, describe(shape));
  check(count == 0 ? CUBLAS_STATUS_NOT_SUPPORTED : found.front().state, describe(shape));
  std::vector<cublasLtMatmulAlgo_t> algorithms;
  for (int i = 0; i < count; ++i)
    if (const auto& one = found[static_cast<std::size_t>(i)]; one.state == CUBLAS_STATUS_SUCCESS)
      algorithms.push_back(one.algo);
  return algorithms;
}

bool GemmPlan::accepts(cublasLtHandle_t handle, const cublasLtMatmulAlgo_t& candidate) const {
  cublasLtMatmulHeuristicResult_t needs{};
  return cublasLtMatmulAlgoCheck(handle, product, first.get(), second.get(), result.get(),
                                 result.get(), &candidate, &needs) == CUBLAS_STATUS_SUCCESS &&
         needs.workspaceSize <= kGemmWorkspaceBytes;
}

namespace {

constexpr std::size_t kWordDigits = 16;
constexpr std::size_t kWords = std::size(cublasLtMatmulAlgo_t{}.data);

}  // namespace

std::string to_hex(const cublasLtMatmulAlgo_t& algorithm) {
  std::string text;
  for (const std::uint64_t word : algorithm.data) {
    std::array<char, kWordDigits> digits{};
    const char* const end = std::to_chars(digits.begin(), digits.end(), word, 16).ptr;
    const std::string_view written(digits.data(), static_cast<std::size_t>(end - digits.data()));
    text.append(kWordDigits - written.size(), '0').append(written);
  }
  return text;
}

cublasLtMatmulAlgo_t algorithm_from_hex(const std::string& text) {
  cublasLtMatmulAlgo_t algorithm{};
  bool right = text.size() == kWords * kWordDigits;
  for (std::size_t i = 0; right && i < kWords; ++i) {
    const char* const from = text.data() + i * kWordDigits;
    const auto [end, error] = std::from_chars(from, from + kWordDigits, algorithm.data[i], 16);
    right = error == std::errc() && end == from + kWordDigits;
  }
  if (!right) throw DataError("\"" + text + "\" is no algorithm of a product");
  return algorithm;
}

}  // namespace demist::cuda
