// cuBLASLt thinks in columns: row-major out = op(a) op(b) is its out^T = op(b)^T op(a)^T, with the
// operands in the other order and every matrix read as its transpose. Nothing is ever transposed in
// memory.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/gemm.hpp"

#include <string>

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

std::string describe(const GemmShape& s) {
  return std::string(name_of(s.in)) + " product [" + std::to_string(s.m) + ", " +
         std::to_string(s.k) + "] x [" + std::to_string(s.k) + ", " + std::to_string(s.n) + "]";
}

void check(cublasStatus_t status, const std::string& what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw EnvironmentError("cuBLASLt " + std::to_string(cublasLtGetVersion()) + ": " + what + ": " +
                           text_of(status));
}

cudaDataType_t type_of(DType dtype) { return dtype == DType::f32 ? CUDA_R_32F : CUDA_R_16BF; }

class Layout {
 public:
  Layout(DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t ld) {
    check(cublasLtMatrixLayoutCreate(&layout_, type_of(dtype), static_cast<std::uint64_t>(rows),
                                     static_cast<std::uint64_t>(cols), ld),
          "matrix layout");
  }
  ~Layout() { cublasLtMatrixLayoutDestroy(layout_); }
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;
  void batches(std::int64_t count, std::int64_t stride) {
    const auto batch = static_cast<std::int32_t>(count);
    check(cublasLtMatrixLayoutSetAttribute(layout_, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch,
                                           sizeof batch),
          "batch count");
    check(cublasLtMatrixLayoutSetAttribute(layout_, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                           &stride, sizeof stride),
          "batch stride");
  }
  cublasLtMatrixLayout_t get() const { return layout_; }

 private:
  cublasLtMatrixLayout_t layout_ = nullptr;
};

}  // namespace

// Row-major a [m,k] is column-major [k,m]: the sizes below are those of the stored matrices.
struct Gemm::Plan {
  explicit Plan(const GemmShape& s)
      : first(s.in, s.transpose == Transpose::b ? s.k : s.n,
              s.transpose == Transpose::b ? s.n : s.k, s.b_ld),
        second(s.in, s.transpose == Transpose::a ? s.m : s.k,
               s.transpose == Transpose::a ? s.k : s.m, s.a_ld),
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
  ~Plan() { cublasLtMatmulDescDestroy(product); }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, T value) {
    check(cublasLtMatmulDescSetAttribute(product, attribute, &value, sizeof value), "product");
  }
  void choose_algorithm(cublasLtHandle_t handle, const GemmShape& shape);

  cublasLtMatmulDesc_t product = nullptr;
  Layout first, second, result;
  cublasLtMatmulAlgo_t algorithm{};
};

void Gemm::Plan::choose_algorithm(cublasLtHandle_t handle, const GemmShape& shape) {
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
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle, product, first.get(), second.get(), result.get(),
                                     result.get(), preference, 1, &found, &count);
  cublasLtMatmulPreferenceDestroy(preference);
  check(status, describe(shape));
  check(count == 0 ? CUBLAS_STATUS_NOT_SUPPORTED : found.state, describe(shape));
  algorithm = found.algo;
}

Gemm::Gemm(const Stream& stream, Memory& memory)
    : stream_(stream), workspace_(kGemmWorkspaceBytes, memory) {
  check(cublasLtCreate(&handle_), "start");
}

Gemm::~Gemm() { cublasLtDestroy(handle_); }

Gemm::Plan& Gemm::plan_for(const GemmShape& shape) {
  std::unique_ptr<Plan>& plan = plans_[shape];
  if (!plan) {
    auto fresh = std::make_unique<Plan>(shape);
    fresh->choose_algorithm(handle_, shape);
    plan = std::move(fresh);
  }
  return *plan;
}

void Gemm::multiply(const GemmShape& shape, const GemmOperands& operands) {
  Plan& plan = plan_for(shape);
  if (shape.bias) plan.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, operands.bias);
  const float one = 1, beta = operands.accumulate ? 1 : 0;
  check(cublasLtMatmul(handle_, plan.product, &one, operands.b, plan.first.get(), operands.a,
                       plan.second.get(), &beta, operands.out, plan.result.get(), operands.out,
                       plan.result.get(), &plan.algorithm, workspace_.data(), kGemmWorkspaceBytes,
                       stream_.get()),
        describe(shape));
}

// cuBLASLt strides over one batch dimension: the heads; sequences go one by one.
void Gemm::multiply(const MatrixBatch<void>& out, const MatrixBatch<const void>& a,
                    const MatrixBatch<const void>& b, Transpose transpose, std::int64_t sequences,
                    std::int64_t heads) {
  GemmShape shape = shape_of(out, a, b, transpose);
  shape.batch = heads;
  shape.a_stride = a.head_stride;
  shape.b_stride = b.head_stride;
  shape.out_stride = out.head_stride;
  const auto at = [](const auto& matrix, std::int64_t sequence) {
    using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(matrix.data)>>,
                                    const std::byte, std::byte>;
    return static_cast<Byte*>(matrix.data) +
           sequence * matrix.sequence_stride * static_cast<std::int64_t>(size_of(matrix.dtype));
  };
  for (std::int64_t s = 0; s < sequences; ++s)
    multiply(shape, {.out = at(out, s), .a = at(a, s), .b = at(b, s), .bias = nullptr});
}

}  // namespace demist::cuda
