// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/gemm.hpp"

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <tuple>
#include <unordered_map>

#include "core/parallel_for.hpp"

namespace demist::cpu {
namespace {

using dnnl::memory;

struct Operands {
  TensorView out;
  ConstTensorView a, b;
  Transpose transpose;
  bool accumulate;
  std::span<const float> bias;
  std::int64_t k() const { return transpose == Transpose::a ? a.rows : a.cols; }
};

// Everything a compiled product depends on. Creating one compiles code (milliseconds).
struct ProductKey {
  std::int64_t m, n, k;
  std::int64_t out_ld, a_ld, b_ld;
  DType out, in;
  Transpose transpose;
  bool accumulate, bias;
  int threads;
  auto tied() const {
    return std::tie(m, n, k, out_ld, a_ld, b_ld, out, in, transpose, accumulate, bias, threads);
  }
  bool operator<(const ProductKey& other) const { return tied() < other.tied(); }
};

memory::data_type dnnl_type(DType dtype) {
  return dtype == DType::f32 ? memory::data_type::f32 : memory::data_type::bf16;
}

memory::desc dense(std::int64_t rows, std::int64_t cols, DType dtype, std::int64_t ld,
                   bool transposed) {
  const memory::dims strides = transposed ? memory::dims{1, ld} : memory::dims{ld, 1};
  return {{rows, cols}, dnnl_type(dtype), strides};
}

struct Product {
  dnnl::matmul::primitive_desc desc;
  dnnl::matmul primitive;

  Product(const dnnl::engine& engine, const ProductKey& key)
      : desc(describe(engine, key)), primitive(desc) {}

 private:
  static dnnl::matmul::primitive_desc describe(const dnnl::engine& engine, const ProductKey& key) {
    const auto a = dense(key.m, key.k, key.in, key.a_ld, key.transpose == Transpose::a);
    const auto b = dense(key.k, key.n, key.in, key.b_ld, key.transpose == Transpose::b);
    const auto out = dense(key.m, key.n, key.out, key.out_ld, false);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (key.accumulate) {
      dnnl::post_ops sum;
      sum.append_sum();
      attributes.set_post_ops(sum);
    }
    if (!key.bias) return {{a, b, out}, attributes, engine};
    const memory::desc bias({1, key.n}, memory::data_type::f32, memory::dims{key.n, 1});
    return {{a, b, bias, out}, attributes, engine};
  }
};

// The compiled products of one calling thread, and the memory they work in.
class Products {
 public:
  const Product& find(const ProductKey& key) {
    if (const auto found = products_.find(key); found != products_.end()) return found->second;
    if (products_.size() >= kMaxProducts) products_.clear();
    return products_.try_emplace(key, engine_, key).first->second;
  }

  void run(const Product& product, const Operands& op) {
    const auto memory_of = [&](const memory::desc& desc, const void* data) {
      return memory(desc, engine_, const_cast<void*>(data));  // oneDNN has no const memory
    };
    const auto& desc = product.desc;
    std::unordered_map<int, memory> arguments{
        {DNNL_ARG_SRC, memory_of(desc.src_desc(), op.a.data)},
        {DNNL_ARG_WEIGHTS, memory_of(desc.weights_desc(), op.b.data)},
        {DNNL_ARG_DST, memory_of(desc.dst_desc(), op.out.data)},
        {DNNL_ARG_SCRATCHPAD, memory_of(desc.scratchpad_desc(), scratch(desc))}};
    if (!op.bias.empty())
      arguments.emplace(DNNL_ARG_BIAS, memory_of(desc.bias_desc(), op.bias.data()));
    product.primitive.execute(stream_, arguments);
    stream_.wait();
  }

 private:
  void* scratch(const dnnl::matmul::primitive_desc& desc) {
    const std::size_t bytes = desc.scratchpad_desc().get_size();
    if (bytes > scratch_.size()) scratch_ = Buffer<std::byte>(bytes);
    return scratch_.data();
  }

  static constexpr std::size_t kMaxProducts = 1024;
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  std::map<ProductKey, Product> products_;
  Buffer<std::byte> scratch_;
};

// Sets the number of OpenMP threads for a scope.
class ThreadLimit {
 public:
  explicit ThreadLimit(int threads) : before_(omp_get_max_threads()) {
    omp_set_num_threads(threads);
  }
  ~ThreadLimit() { omp_set_num_threads(before_); }
  ThreadLimit(const ThreadLimit&) = delete;
  ThreadLimit& operator=(const ThreadLimit&) = delete;

 private:
  int before_;
};

// oneDNN splits a long reduction over idle threads, which changes the order of the sum. Found by
// experiment (2.6.3; 1 to 64 threads): with AVX-512 only for a transposed `a`, from k = 2048 when
// the output is narrow, else above; this file then cuts k itself. With AVX2 for outputs of at most
// 64 columns, which are left to one thread.
constexpr std::int64_t kLongestReduction = 2048;
constexpr std::int64_t kLongestNarrowReduction = 1984;
constexpr std::int64_t kNarrowOutput = 384;
constexpr std::int64_t kNarrowOutputAvx2 = 64;

bool has_avx512() {
  static const bool yes = [] {
    const auto isa = dnnl::get_effective_cpu_isa();
    return isa != dnnl::cpu_isa::sse41 && isa != dnnl::cpu_isa::avx && isa != dnnl::cpu_isa::avx2 &&
           isa != dnnl::cpu_isa::avx2_vnni;
  }();
  return yes;
}

std::int64_t longest_reduction(const Operands& op) {
  if (op.transpose != Transpose::a) return op.k();
  return std::min(op.out.rows, op.out.cols) < kNarrowOutput ? kLongestNarrowReduction
                                                            : kLongestReduction;
}

// The empty sum: out = bias or 0; nothing to add when accumulating.
void fill_with_bias(TensorView out, std::span<const float> bias) {
  for (std::int64_t r = 0; r < out.rows; ++r)
    for (std::int64_t c = 0; c < out.cols; ++c) {
      const float value = bias.empty() ? 0.0f : bias[static_cast<std::size_t>(c)];
      if (out.dtype == DType::f32)
        out.as<float>()[r * out.ld + c] = value;
      else
        out.as<bf16>()[r * out.ld + c] = bf16(value);
    }
}

void multiply(const Operands& op, int threads) {
  const ThreadLimit limit(threads);
  const ProductKey key{op.out.rows,  op.out.cols,   op.k(),           op.out.ld,
                       op.a.ld,      op.b.ld,       op.out.dtype,     op.a.dtype,
                       op.transpose, op.accumulate, !op.bias.empty(), threads};
  thread_local Products products;
  products.run(products.find(key), op);
}

// a^T b in pieces of k, added in their own order. The output is fp32.
void multiply_in_pieces(const Operands& op, int threads) {
  const std::int64_t pieces = div_ceil(op.k(), longest_reduction(op));
  const std::int64_t rows = div_ceil(div_ceil(op.k(), pieces), 64) * 64;
  for (std::int64_t begin = 0; begin < op.k(); begin += rows) {
    const std::int64_t count = std::min(rows, op.k() - begin);
    Operands piece = op;
    piece.a = op.a.row_slice(begin, count);
    piece.b = op.b.row_slice(begin, count);
    piece.accumulate = op.accumulate || begin > 0;
    if (begin > 0) piece.bias = {};
    multiply(piece, threads);
  }
}

template <class To, class From>
void convert(TensorView out, ConstTensorView in) {
  To* const to = out.as<To>();
  const From* const from = in.as<From>();
#pragma omp parallel for
  for (std::int64_t r = 0; r < in.rows; ++r)
    for (std::int64_t c = 0; c < in.cols; ++c)
      to[r * out.ld + c] = To(static_cast<float>(from[r * in.ld + c]));
}

// oneDNN multiplies bf16 from AVX-512 on; before, in fp32 with one rounding on store.
void multiply_widened(const Operands& op) {
  Tensor a(DType::f32, op.a.rows, op.a.cols), b(DType::f32, op.b.rows, op.b.cols);
  convert<float, bf16>(a.view(), op.a);
  convert<float, bf16>(b.view(), op.b);
  if (op.out.dtype == DType::f32)
    return gemm(op.out, a.view(), b.view(), op.transpose, op.accumulate, op.bias);
  Tensor out(DType::f32, op.out.rows, op.out.cols);
  gemm(out.view(), a.view(), b.view(), op.transpose, false, op.bias);
  convert<bf16, float>(op.out, out.view());
}

}  // namespace

void gemm(TensorView out, ConstTensorView a, ConstTensorView b, Transpose transpose,
          bool accumulate, std::span<const float> bias) {
  const Operands op{out, a, b, transpose, accumulate, bias};
  if (out.size() == 0) return;
  if (op.k() == 0) {
    if (!accumulate) fill_with_bias(out, bias);
    return;
  }
  if (a.dtype == DType::bf16 && !has_avx512()) return multiply_widened(op);
  const bool splits = op.k() > longest_reduction(op);
  const bool in_pieces = splits && out.dtype == DType::f32;
  const bool one_thread = omp_in_parallel() || (splits && !in_pieces) ||
                          (!has_avx512() && out.cols <= kNarrowOutputAvx2);
  const int threads = one_thread ? 1 : omp_get_max_threads();
  if (in_pieces)
    multiply_in_pieces(op, threads);
  else
    multiply(op, threads);
}

}  // namespace demist::cpu
