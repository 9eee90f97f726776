// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/gemm.hpp"

#include <algorithm>
#include <limits>

#include "kernels/cuda/work_sizes.hpp"

namespace demist::cuda {
namespace {

constexpr int kRepeats = 5;
// Below this share of the first choice's time another one is faster, and not just lucky.
constexpr double kWorthwhile = 0.97;

}  // namespace

Gemm::Gemm(const Stream& stream, Memory& memory)
    : stream_(stream), workspace_(kGemmWorkspaceBytes, memory) {
  check(cublasLtCreate(&handle_), "start");
}

Gemm::~Gemm() { cublasLtDestroy(handle_); }

GemmPlan& Gemm::plan_for(const GemmShape& shape, const GemmOperands& operands) {
  std::unique_ptr<GemmPlan>& plan = plans_[shape];
  if (!plan) {
    auto fresh = std::make_unique<GemmPlan>(shape);
    choose(*fresh, operands);
    plan = std::move(fresh);
  }
  return *plan;
}

void Gemm::choose(GemmPlan& plan, const GemmOperands& operands) {
  // Searches may look at it.
  if (plan.shape.bias) plan.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, operands.bias);
  if (candidates_ > 0) return measure(plan, operands);
  const auto adopted = adopted_.find(name_of(plan.shape));
  if (adopted == adopted_.end()) {
    plan.algorithm = plan.candidates(handle_, 1).front();
  } else {
    if (!plan.accepts(handle_, adopted->second))
      throw EnvironmentError(
          "cuBLASLt " + std::to_string(version()) + " refuses the algorithm of " +
          describe(plan.shape) +
          " that this stage's device plan names; delete the plan to measure anew");
    plan.algorithm = adopted->second;
  }
}

// The best of several runs: what else the machine does makes runs longer, never shorter.
void Gemm::measure(GemmPlan& plan, const GemmOperands& operands) {
  // Sums between ranks, on streams of their own, would take part of the device.
  check(cudaDeviceSynchronize(), "work on the device");
  const std::vector<cublasLtMatmulAlgo_t> all = plan.candidates(handle_, candidates_);
  std::vector<double> seconds;
  for (const cublasLtMatmulAlgo_t& algorithm : all) {
    double best = std::numeric_limits<double>::infinity();
    for (int i = 0; i <= kRepeats; ++i) {
      TimedEvent start, end;
      start.record(stream_);
      if (run(plan, operands, algorithm) != CUBLAS_STATUS_SUCCESS) break;
      end.record(stream_);
      const double once = end.seconds_since(start);
      if (i > 0) best = std::min(best, once);  // the first one loads the kernel
    }
    seconds.push_back(best);
  }
  const auto fastest =
      static_cast<std::size_t>(std::ranges::min_element(seconds) - seconds.begin());
  const bool worthwhile = seconds[fastest] < kWorthwhile * seconds.front();
  plan.algorithm = all[worthwhile ? fastest : 0];
  if (worthwhile) measured_.push_back({name_of(plan.shape), to_hex(plan.algorithm)});
}

cublasStatus_t Gemm::run(const GemmPlan& plan, const GemmOperands& operands,
                         const cublasLtMatmulAlgo_t& algorithm) {
  const float one = 1, beta = operands.accumulate ? 1 : 0;
  return cublasLtMatmul(handle_, plan.product, &one, operands.b, plan.first.get(), operands.a,
                        plan.second.get(), &beta, operands.out, plan.result.get(), operands.out,
                        plan.result.get(), &algorithm, workspace_.data(), kGemmWorkspaceBytes,
                        stream_.get());
}

void Gemm::multiply(const GemmShape& shape, const GemmOperands& operands) {
  GemmPlan& plan = plan_for(shape, operands);
  if (shape.bias) plan.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, operands.bias);
  check(run(plan, operands, plan.algorithm), describe(shape));
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

DeviceIdentity Gemm::identity() const {
  int device = 0;
  cudaDeviceProp properties{};
  check(cudaGetDevice(&device), "current device");
  check(cudaGetDeviceProperties(&properties, device), "device properties");
  return {properties.name, properties.multiProcessorCount, "cuBLASLt " + std::to_string(version())};
}

void Gemm::begin_measuring(int candidates) {
  candidates_ = candidates;
  plans_.clear();
  measured_.clear();
}

std::vector<ProductPlan> Gemm::end_measuring() {
  candidates_ = 0;
  plans_.clear();
  std::ranges::sort(measured_, {}, &ProductPlan::product);
  return std::move(measured_);
}

void Gemm::adopt(std::span<const ProductPlan> plans) {
  std::map<std::string, cublasLtMatmulAlgo_t> adopted;
  for (const ProductPlan& plan : plans) adopted[plan.product] = algorithm_from_hex(plan.algorithm);
  adopted_ = std::move(adopted);
  plans_.clear();
}

}  // namespace demist::cuda
