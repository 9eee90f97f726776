// The part of cuBLASLt that the product calls, with its C interface. What the real library refuses,
// and what is not imitated, is an error status and a line on stderr.
// SPDX-License-Identifier: Apache-2.0
#include <cublasLt.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <set>

#include "tests/emulation/counters.hpp"
#include "tests/emulation/cublaslt_problem.hpp"
#include "tests/emulation/device_memory.hpp"
#include "tests/emulation/emulator.hpp"
#include "tests/emulation/streams.hpp"

using demist::emu::Algorithm;
using demist::emu::counters;
using demist::emu::in_device_memory;
using demist::emu::Lock;
using demist::emu::lock_device;
using demist::emu::MatmulDescription;
using demist::emu::MatrixLayout;
using demist::emu::Operands;
using demist::emu::Problem;
using demist::emu::SearchPreference;

struct cublasLtContext {};

namespace {

constexpr std::uint32_t kMagic = 0xdeb15717u;
constexpr std::size_t kWorkspaceAlignment = 256;
constexpr std::size_t kRowAlignment = 16;
// What the algorithms of a search want, best first.
constexpr std::array<std::uint64_t, demist::emu::kAlgorithms> kWorkspaces{std::uint64_t{1} << 20,
                                                                          64 * 1024, 0};
constexpr std::chrono::seconds kSlowness{1};

cublasStatus_t refuse(cublasStatus_t status, const std::string& why) {
  std::fprintf(stderr, "emulated cuBLASLt: %s: %s\n", cublasLtGetStatusName(status), why.c_str());
  return status;
}

// The handles that exist; a stale one is found.
std::set<const void*>& living() {
  static std::set<const void*> instance;
  return instance;
}
bool lives(const void* handle) {
  const Lock lock = lock_device();
  return living().contains(handle);
}
template <class Handle>
Handle born(Handle handle) {
  const Lock lock = lock_device();
  living().insert(handle);
  return handle;
}
template <class Handle>
cublasStatus_t bury(Handle handle) {
  const Lock lock = lock_device();
  if (living().erase(handle) == 0)
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "destroying what does not exist");
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

// The descriptors' opaque words hold our structs.
template <class T, class Opaque>
T load(const Opaque* opaque) {
  T value;
  std::memcpy(static_cast<void*>(&value), opaque, sizeof value);
  return value;
}
template <class T, class Opaque>
void store(Opaque* opaque, const T& value) {
  std::memcpy(opaque, &value, sizeof value);
}

template <class T>
cublasStatus_t assign(T& field, const void* value, std::size_t bytes) {
  if (value == nullptr || bytes != sizeof(T))
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "an attribute's size is wrong");
  std::memcpy(&field, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t set_layout(MatrixLayout& layout, cublasLtMatrixLayoutAttribute_t attribute,
                          const void* value, std::size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
      return assign(layout.order, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
      return assign(layout.rows, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_COLS:
      return assign(layout.cols, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_LD:
      return assign(layout.ld, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
      return assign(layout.batch, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
      return assign(layout.batch_stride, value, bytes);
    default:
      return refuse(CUBLAS_STATUS_NOT_SUPPORTED,
                    "layout attribute " + std::to_string(attribute) + " is not imitated");
  }
}

cublasStatus_t set_transpose(std::int32_t& field, const void* value, std::size_t bytes) {
  std::int32_t operation = 0;
  const cublasStatus_t status = assign(operation, value, bytes);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  if (operation != CUBLAS_OP_N && operation != CUBLAS_OP_T)
    return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "a transpose is neither N nor T");
  field = operation;
  return status;
}

cublasStatus_t set_description(MatmulDescription& description,
                               cublasLtMatmulDescAttributes_t attribute, const void* value,
                               std::size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return set_transpose(description.trans_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return set_transpose(description.trans_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return assign(description.epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return assign(description.bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
      return assign(description.bias_type, value, bytes);
    default:
      return refuse(CUBLAS_STATUS_NOT_SUPPORTED,
                    "product attribute " + std::to_string(attribute) + " is not imitated");
  }
}

cublasStatus_t set_preference(SearchPreference& preference,
                              cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                              std::size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return assign(preference.workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return assign(preference.reduction_schemes, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
      return assign(preference.alignment[0], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
      return assign(preference.alignment[1], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
      return assign(preference.alignment[2], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return assign(preference.alignment[3], value, bytes);
    default:
      return refuse(CUBLAS_STATUS_NOT_SUPPORTED,
                    "preference " + std::to_string(attribute) + " is not imitated");
  }
}

struct Descriptors {
  cublasLtHandle_t handle;
  cublasLtMatmulDesc_t matmul;
  cublasLtMatrixLayout_t a, b, c, d;
};

bool all_given(const Descriptors& from) {
  return lives(from.handle) && from.matmul != nullptr && from.a != nullptr && from.b != nullptr &&
         from.c != nullptr && from.d != nullptr;
}

Problem problem_of(const Descriptors& from) {
  return {load<MatmulDescription>(from.matmul), load<MatrixLayout>(from.a),
          load<MatrixLayout>(from.b), load<MatrixLayout>(from.c), load<MatrixLayout>(from.d)};
}

Algorithm algorithm_for(const Problem& problem, const SearchPreference& preference,
                        std::uint32_t number) {
  return {problem.hash(), kWorkspaces[number], preference.alignment, number, kMagic};
}

// Null, or why it is no algorithm for this product.
const char* objection_to_choice(const Algorithm& algorithm, const Problem& problem) {
  const bool right = algorithm.magic == kMagic && algorithm.problem == problem.hash() &&
                     algorithm.number < kWorkspaces.size();
  return right ? nullptr : "the algorithm was chosen for another product";
}

bool overlap(const void* p, std::size_t p_bytes, const void* q, std::size_t q_bytes) {
  const auto* x = static_cast<const char*>(p);
  const auto* y = static_cast<const char*>(q);
  return x < y + q_bytes && y < x + p_bytes;
}

// The real library takes any rows, and multiplies them slowly; its kernels of choice rely on every
// matrix of a batch lying as the first one does.
std::string objection_to_distances(const MatrixLayout& layout, std::uint32_t alignment) {
  const auto bytes = [&](std::int64_t elements) {
    return static_cast<std::uint64_t>(elements) * layout.element_bytes();
  };
  const std::uint64_t lines = layout.by_columns() ? layout.cols : layout.rows;
  if (lines > 1 && bytes(layout.ld) % kRowAlignment != 0)
    return "'s lines do not start at multiples of 16 bytes";
  if (layout.batch > 1 && alignment != 0 && bytes(layout.batch_stride) % alignment != 0)
    return "'s batches are aligned to less than the " + std::to_string(alignment) +
           " bytes that its algorithm was chosen for";
  return {};
}

// Empty, or what is wrong with the pointers of a call.
std::string objection_to_pointers(const Problem& problem, const Operands& operands,
                                  const Algorithm& algorithm) {
  const bool reads_c = operands.beta != 0;
  const void* pointers[] = {operands.a, operands.b, operands.c, operands.d};
  const MatrixLayout* layouts[] = {&problem.a, &problem.b, &problem.c, &problem.d};
  for (int i = 0; i < 4; ++i) {
    if (i == 2 && !reads_c) continue;
    const std::string name(1, "ABCD"[i]);
    if (!in_device_memory(pointers[i], layouts[i]->extent()))
      return name + " does not lie in one piece of device memory";
    const std::uint32_t alignment = algorithm.alignment[static_cast<std::size_t>(i)];
    if (alignment != 0 && reinterpret_cast<std::uintptr_t>(pointers[i]) % alignment != 0)
      return name + " is aligned to less than the " + std::to_string(alignment) +
             " bytes that its algorithm was chosen for";
    if (const std::string why = objection_to_distances(*layouts[i], alignment); !why.empty())
      return name + why;
  }
  for (int i = 0; i < 2; ++i)
    if (overlap(pointers[i], layouts[i]->extent(), operands.d, problem.d.extent()))
      return "D overlaps an input";
  if (reads_c && operands.c == operands.d && problem.c != problem.d)
    return "C is D, but their layouts differ";
  if (reads_c && operands.c != operands.d &&
      overlap(operands.c, problem.c.extent(), operands.d, problem.d.extent()))
    return "C and D overlap";
  if (problem.has_bias()) {
    const std::size_t bytes = problem.m() * problem.d.element_bytes();
    if (!in_device_memory(problem.description.bias, bytes))
      return "the bias does not lie in one piece of device memory";
    if (reinterpret_cast<std::uintptr_t>(problem.description.bias) % 16 != 0)
      return "the bias is not aligned to 16 bytes";
  }
  return {};
}

std::string objection_to_workspace(const Algorithm& algorithm, const void* workspace,
                                   std::size_t bytes) {
  if (bytes < algorithm.workspace)
    return "the algorithm wants " + std::to_string(algorithm.workspace) + " bytes of workspace";
  if (bytes == 0) return {};
  if (!in_device_memory(workspace, bytes)) return "the workspace is not device memory";
  if (reinterpret_cast<std::uintptr_t>(workspace) % kWorkspaceAlignment != 0)
    return "the workspace is not aligned to 256 bytes";
  return {};
}

}  // namespace

extern "C" {

const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    default:
      return "CUBLAS_STATUS_INTERNAL_ERROR";
  }
}
const char* cublasLtGetStatusString(cublasStatus_t status) { return cublasLtGetStatusName(status); }
std::size_t cublasLtGetVersion() {
  return CUBLAS_VER_MAJOR * 10000 + CUBLAS_VER_MINOR * 100 + CUBLAS_VER_PATCH;
}
std::size_t cublasLtGetCudartVersion() { return CUDART_VERSION; }

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = born(new cublasLtContext);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return bury(handle); }

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t layout, std::size_t size,
                                                 cudaDataType type, std::uint64_t rows,
                                                 std::uint64_t cols, std::int64_t ld) {
  if (layout == nullptr || size < sizeof(MatrixLayout))
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "cublasLtMatrixLayoutInit");
  store(layout, MatrixLayout{.type = type, .rows = rows, .cols = cols, .ld = ld});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type,
                                          std::uint64_t rows, std::uint64_t cols, std::int64_t ld) {
  *layout = born(new cublasLtMatrixLayoutOpaque_t{});
  return cublasLtMatrixLayoutInit_internal(*layout, sizeof **layout, type, rows, cols, ld);
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) { return bury(layout); }
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void* value, std::size_t bytes) {
  auto changed = load<MatrixLayout>(layout);
  const cublasStatus_t status = set_layout(changed, attribute, value, bytes);
  store(layout, changed);
  return status;
}

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t description, std::size_t size,
                                               cublasComputeType_t compute, cudaDataType_t scale) {
  if (description == nullptr || size < sizeof(MatmulDescription))
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "cublasLtMatmulDescInit");
  store(description, MatmulDescription{.compute = compute, .scale = scale});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* description,
                                        cublasComputeType_t compute, cudaDataType_t scale) {
  *description = born(new cublasLtMatmulDescOpaque_t{});
  return cublasLtMatmulDescInit_internal(*description, sizeof **description, compute, scale);
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
  return bury(description);
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t description,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, std::size_t bytes) {
  auto changed = load<MatmulDescription>(description);
  const cublasStatus_t status = set_description(changed, attribute, value, bytes);
  store(description, changed);
  return status;
}

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t preference,
                                                     std::size_t size) {
  if (preference == nullptr || size < sizeof(SearchPreference))
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "cublasLtMatmulPreferenceInit");
  store(preference, SearchPreference{});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = born(new cublasLtMatmulPreferenceOpaque_t{});
  return cublasLtMatmulPreferenceInit_internal(*preference, sizeof **preference);
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  return bury(preference);
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, std::size_t bytes) {
  auto changed = load<SearchPreference>(preference);
  const cublasStatus_t status = set_preference(changed, attribute, value, bytes);
  store(preference, changed);
  return status;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t matmul,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t* results,
                                              int* found) {
  const Descriptors descriptors{handle, matmul, a, b, c, d};
  if (!all_given(descriptors) || preference == nullptr || wanted < 1)
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "cublasLtMatmulAlgoGetHeuristic: an argument");
  {
    const Lock lock = lock_device();
    ++counters().plans;
  }
  *found = 0;
  const Problem problem = problem_of(descriptors);
  if (const std::string why = problem.objection(); !why.empty())
    return refuse(CUBLAS_STATUS_NOT_SUPPORTED, why);
  const auto search = load<SearchPreference>(preference);
  for (std::uint32_t number = 0; number < kWorkspaces.size() && *found < wanted; ++number) {
    if (kWorkspaces[number] > search.workspace) continue;
    cublasLtMatmulHeuristicResult_t& result = results[(*found)++];
    result = {};
    store(&result.algo, algorithm_for(problem, search, number));
    result.workspaceSize = kWorkspaces[number];
    result.state = CUBLAS_STATUS_SUCCESS;
    result.wavesCount = 1;
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t matmul,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* algo,
                                       cublasLtMatmulHeuristicResult_t* result) {
  const Descriptors descriptors{handle, matmul, a, b, c, d};
  if (!all_given(descriptors) || algo == nullptr || result == nullptr)
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "cublasLtMatmulAlgoCheck: an argument");
  const Problem problem = problem_of(descriptors);
  if (const std::string why = problem.objection(); !why.empty())
    return refuse(CUBLAS_STATUS_NOT_SUPPORTED, why);
  const auto algorithm = load<Algorithm>(algo);
  if (const char* why = objection_to_choice(algorithm, problem); why != nullptr)
    return refuse(CUBLAS_STATUS_INVALID_VALUE, why);
  result->workspaceSize = algorithm.workspace;
  result->state = CUBLAS_STATUS_SUCCESS;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t matmul,
                              const void* alpha, const void* a, cublasLtMatrixLayout_t a_layout,
                              const void* b, cublasLtMatrixLayout_t b_layout, const void* beta,
                              const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo,
                              void* workspace, std::size_t workspace_bytes, cudaStream_t stream) {
  const Descriptors descriptors{handle, matmul, a_layout, b_layout, c_layout, d_layout};
  if (!all_given(descriptors) || alpha == nullptr || beta == nullptr)
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "cublasLtMatmul: an argument");
  const Problem problem = problem_of(descriptors);
  if (const std::string why = problem.objection(); !why.empty())
    return refuse(CUBLAS_STATUS_NOT_SUPPORTED, why);
  // Without an algorithm the library searches with default preferences: no workspace, 256 bytes.
  const auto algorithm =
      algo == nullptr ? algorithm_for(problem, {}, kWorkspaces.size() - 1) : load<Algorithm>(algo);
  if (const char* why = objection_to_choice(algorithm, problem); why != nullptr)
    return refuse(CUBLAS_STATUS_INVALID_VALUE, why);
  const Operands operands{
      *static_cast<const float*>(alpha), *static_cast<const float*>(beta), a, b, c, d};
  Lock lock = lock_device();
  std::string why = objection_to_pointers(problem, operands, algorithm);
  if (why.empty()) why = objection_to_workspace(algorithm, workspace, workspace_bytes);
  if (!why.empty()) return refuse(CUBLAS_STATUS_INVALID_VALUE, why);
  demist::emu::Work work;
  work.run = [=] {
    if (!objection_to_pointers(problem, operands, algorithm).empty())
      throw demist::emu::Fault("cublasLtMatmul: memory was freed before the product ran");
    if (algorithm.workspace != 0) std::memset(workspace, 0xff, algorithm.workspace);
    run_product(problem, operands, std::size_t{1} << algorithm.number);
    ++demist::emu::products_run()[algorithm.number];
    if (algorithm.number != demist::emu::options().fastest_algorithm)
      demist::emu::pretend(kSlowness);
    return demist::emu::Progress::done;
  };
  work.describe = [] { return std::string("cublasLtMatmul"); };
  return enqueue(lock, stream, std::move(work)) == cudaSuccess ? CUBLAS_STATUS_SUCCESS
                                                               : CUBLAS_STATUS_EXECUTION_FAILED;
}

}  // extern "C"
