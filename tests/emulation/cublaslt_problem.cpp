// SPDX-License-Identifier: Apache-2.0
#include "tests/emulation/cublaslt_problem.hpp"

#include <algorithm>
#include <bit>
#include <initializer_list>
#include <vector>

namespace demist::emu {
namespace {

const char* objection_to(const MatrixLayout& layout) {
  if (layout.type != CUDA_R_32F && layout.type != CUDA_R_16BF)
    return "a matrix is neither fp32 nor bf16";
  if (layout.order != CUBLASLT_ORDER_COL && layout.order != CUBLASLT_ORDER_ROW)
    return "an order is neither column nor row";
  if (layout.rows == 0 || layout.cols == 0) return "a matrix is empty";
  const std::uint64_t line = layout.by_columns() ? layout.rows : layout.cols;
  if (layout.ld < 0 || static_cast<std::uint64_t>(layout.ld) < line)
    return "a leading dimension is shorter than a line of its matrix";
  if (layout.batch < 1 || layout.batch_stride < 0) return "a batch count or stride is out of range";
  return nullptr;
}

class Hash {
 public:
  template <class... T>
  void add(T... values) {
    for (const std::uint64_t value : {static_cast<std::uint64_t>(values)...})
      state_ = (state_ ^ value) * 0x100000001b3u + (state_ >> 29);
  }
  std::uint64_t value() const { return state_; }

 private:
  std::uint64_t state_ = 0xcbf29ce484222325u;
};

}  // namespace

std::string Problem::objection() const {
  for (const MatrixLayout* layout : {&a, &b, &c, &d}) {
    if (const char* text = objection_to(*layout)) return text;
    if (layout->order != d.order) return "matrices of different orders are not imitated";
    if (layout->batch != d.batch) return "batch counts differ";
  }
  const bool ta = description.trans_a != CUBLAS_OP_N, tb = description.trans_b != CUBLAS_OP_N;
  if ((ta ? a.cols : a.rows) != m() || (tb ? b.rows : b.cols) != n() ||
      (tb ? b.cols : b.rows) != k() || c.rows != d.rows || c.cols != d.cols)
    return "shapes disagree";
  if (a.type != b.type || c.type != d.type || (a.type == CUDA_R_32F && d.type == CUDA_R_16BF))
    return "no such combination of types";
  if (description.compute != CUBLAS_COMPUTE_32F || description.scale != CUDA_R_32F)
    return "only CUBLAS_COMPUTE_32F with CUDA_R_32F scales is imitated";
  if (d.batch > 1) {
    // One after the other, or side by side within the lines of one larger matrix.
    const auto stride = static_cast<std::uint64_t>(d.batch_stride);
    const std::uint64_t line = d.by_columns() ? d.rows : d.cols;
    const bool apart = stride >= d.index(d.rows - 1, d.cols - 1) + 1;
    const bool interleaved =
        stride >= line &&
        stride * static_cast<std::uint64_t>(d.batch - 1) + line <= static_cast<std::uint64_t>(d.ld);
    if (!apart && !interleaved) return "batches of D overlap";
  }
  if (description.epilogue != CUBLASLT_EPILOGUE_DEFAULT && !has_bias())
    return "of the epilogues only DEFAULT and BIAS are imitated";
  if (has_bias() && description.bias == nullptr)
    return "BIAS needs its pointer before a search, which may look at its alignment";
  if (has_bias() && bias_type() != d.type) return "the bias must have D's type";
  if (has_bias() && !d.by_columns()) return "BIAS with rows in order is not imitated";
  if (has_bias() && d.batch > 1) return "BIAS with batches is not imitated";
  return {};
}

std::uint64_t Problem::hash() const {
  Hash hash;
  for (const MatrixLayout* layout : {&a, &b, &c, &d})
    hash.add(layout->type, layout->order, layout->rows, layout->cols, layout->ld, layout->batch,
             layout->batch_stride);
  hash.add(description.compute, description.scale, description.trans_a, description.trans_b,
           description.epilogue, bias_type());
  return hash.value();
}

namespace {

float get(const void* data, cudaDataType_t type, std::size_t i) {
  if (type == CUDA_R_32F) return static_cast<const float*>(data)[i];
  return std::bit_cast<float>(std::uint32_t{static_cast<const std::uint16_t*>(data)[i]} << 16);
}

void put(void* data, cudaDataType_t type, std::size_t i, float value) {
  if (type == CUDA_R_32F)
    static_cast<float*>(data)[i] = value;
  else
    static_cast<__nv_bfloat16*>(data)[i] = __float2bfloat16(value);
}

constexpr std::size_t kPanel = 64;  // columns of op(B) side by side

// sums[0 .. kPanel) = a[0 .. k) panel[k][kPanel].
__attribute__((target_clones("avx512f", "avx2", "default"))) void multiply(
    float* __restrict sums, const float* __restrict a, const float* __restrict panel,
    std::size_t k) {
  float local[kPanel] = {};
  for (std::size_t l = 0; l < k; ++l)
    for (std::size_t x = 0; x < kPanel; ++x) local[x] += a[l] * panel[l * kPanel + x];
  for (std::size_t x = 0; x < kPanel; ++x) sums[x] = local[x];
}

void run_one(const Problem& p, const Operands& o, std::size_t batch, std::size_t parts) {
  const auto offset = [batch](const MatrixLayout& layout) {
    return batch * static_cast<std::size_t>(layout.batch_stride);
  };
  const std::size_t m = p.m(), n = p.n(), k = p.k();
  const bool ta = p.description.trans_a != CUBLAS_OP_N, tb = p.description.trans_b != CUBLAS_OP_N;
  std::vector<float> a(m * k), panel(k * kPanel), sums(kPanel), part(kPanel);
  for (std::size_t i = 0; i < m; ++i)
    for (std::size_t l = 0; l < k; ++l)
      a[i * k + l] = get(o.a, p.a.type, offset(p.a) + (ta ? p.a.index(l, i) : p.a.index(i, l)));
  for (std::size_t first = 0; first < n; first += kPanel) {
    const std::size_t width = n - first < kPanel ? n - first : kPanel;
    for (std::size_t l = 0; l < k; ++l)
      for (std::size_t x = 0; x < width; ++x)
        panel[l * kPanel + x] = get(
            o.b, p.b.type, offset(p.b) + (tb ? p.b.index(first + x, l) : p.b.index(l, first + x)));
    for (std::size_t i = 0; i < m; ++i) {
      std::ranges::fill(sums, 0.0f);
      for (std::size_t q = 0; q < parts; ++q) {
        const std::size_t from = q * k / parts, to = (q + 1) * k / parts;
        multiply(part.data(), a.data() + i * k + from, panel.data() + from * kPanel, to - from);
        for (std::size_t x = 0; x < kPanel; ++x) sums[x] += part[x];
      }
      for (std::size_t x = 0; x < width; ++x) {
        float value = o.alpha * sums[x];
        if (o.beta != 0)
          value += o.beta * get(o.c, p.c.type, offset(p.c) + p.c.index(i, first + x));
        if (p.has_bias()) value += get(p.description.bias, p.bias_type(), i);
        put(o.d, p.d.type, offset(p.d) + p.d.index(i, first + x), value);
      }
    }
  }
}

}  // namespace

void run_product(const Problem& problem, const Operands& operands, std::size_t parts) {
  for (std::int32_t batch = 0; batch < problem.d.batch; ++batch)
    run_one(problem, operands, static_cast<std::size_t>(batch), parts);
}

std::array<std::uint64_t, kAlgorithms>& products_run() {
  static std::array<std::uint64_t, kAlgorithms> instance{};
  return instance;
}

}  // namespace demist::emu
