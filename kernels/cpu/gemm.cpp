// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/gemm.hpp"

#include <omp.h>
#include <pthread.h>

#include <algorithm>
#include <csignal>
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
  auto tied() const {
    return std::tie(m, n, k, out_ld, a_ld, b_ld, out, in, transpose, accumulate, bias);
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

// No signal from outside is handled on this thread in a scope. With long reductions oneDNN's
// kernels for AVX2 (and some for AVX-512) let the stack pointer point to a buffer on the heap
// ("mov(rsp, ARG_WS)" in jit_avx_gemm_f32.cpp): a handler's frame would replace what lies before
// it.
class SignalsHeld {
 public:
  SignalsHeld() {
    static const sigset_t outside = [] {
      sigset_t set;
      sigfillset(&set);
      // A fault of this thread: held back, it would end the process without a word.
      for (const int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS})
        sigdelset(&set, own);
      return set;
    }();
    pthread_sigmask(SIG_BLOCK, &outside, &before_);
  }
  ~SignalsHeld() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsHeld(const SignalsHeld&) = delete;
  SignalsHeld& operator=(const SignalsHeld&) = delete;

 private:
  sigset_t before_;
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
    const SignalsHeld held;
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

// oneDNN's blocks, and where it splits a reduction, follow from the number of threads (2.6.3 with
// AMX: for nearly every shape with k > 1000), and with them the order of the sums. So it gets one
// thread, and this file cuts the output: into pieces that depend on the shape alone, small enough
// to keep threads busy, large enough to be worth packing their operands.
constexpr std::int64_t kPieceRows = 256;
constexpr std::int64_t kPieceCols = 512;

// Whether oneDNN's products of bf16 are the faster way here. Below AVX-512 it has none; on Intel's
// processors without AMX, VDPBF16PS does fewer FLOPs a cycle than fp32's FMA (docs/benchmarks.md).
bool multiplies_bf16() {
  static const bool yes = [] {
    const auto isa = dnnl::get_effective_cpu_isa();
    if (isa == dnnl::cpu_isa::avx512_core_bf16) return __builtin_cpu_is("amd") != 0;
    return isa == dnnl::cpu_isa::avx512_core_amx;
  }();
  return yes;
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

// On this thread alone.
void multiply(const Operands& op) {
  const ThreadLimit one(1);
  const ProductKey key{op.out.rows,  op.out.cols,   op.k(),          op.out.ld,
                       op.a.ld,      op.b.ld,       op.out.dtype,    op.a.dtype,
                       op.transpose, op.accumulate, !op.bias.empty()};
  thread_local Products products;
  products.run(products.find(key), op);
}

// `length` in pieces of nearly equal multiples of 32, at most `longest` each.
struct Cut {
  std::int64_t length, piece, count;
  Cut(std::int64_t total, std::int64_t longest)
      : length(total),
        piece(div_ceil(div_ceil(length, div_ceil(length, longest)), 32) * 32),
        count(div_ceil(length, piece)) {}
  std::int64_t begin(std::int64_t i) const { return i * piece; }
  std::int64_t size(std::int64_t i) const { return std::min(piece, length - begin(i)); }
};

Operands piece_of(const Operands& op, const Cut& rows, std::int64_t i, const Cut& cols,
                  std::int64_t j) {
  const auto row_part = [&](auto view) { return view.row_slice(rows.begin(i), rows.size(i)); };
  Operands piece = op;
  piece.out = row_part(op.out).col_slice(cols.begin(j), cols.size(j));
  piece.a =
      op.transpose == Transpose::a ? op.a.col_slice(rows.begin(i), rows.size(i)) : row_part(op.a);
  piece.b = op.transpose == Transpose::b ? op.b.row_slice(cols.begin(j), cols.size(j))
                                         : op.b.col_slice(cols.begin(j), cols.size(j));
  if (!op.bias.empty())
    piece.bias = op.bias.subspan(static_cast<std::size_t>(cols.begin(j)),
                                 static_cast<std::size_t>(cols.size(j)));
  return piece;
}

// Rows of `in` as another type. The loops are compiled for each instruction set: elsewhere this
// file has none to spare, and here a product waits for them.
[[gnu::target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")]] void widen_rows(
    float* out, const bf16* in, std::int64_t rows, std::int64_t cols, std::int64_t ld) {
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < cols; ++c) out[r * cols + c] = static_cast<float>(in[r * ld + c]);
}
[[gnu::target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")]] void round_rows(
    bf16* out, const float* in, std::int64_t rows, std::int64_t cols, std::int64_t ld) {
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < cols; ++c) out[r * ld + c] = bf16(in[r * cols + c]);
}

// Memory of one thread that is as large as what it held so far.
TensorView view_of(Buffer<float>& scratch, const ConstTensorView& like) {
  const auto size = static_cast<std::size_t>(like.rows * like.cols);
  if (scratch.size() < size) scratch = Buffer<float>(size);
  return matrix(scratch.data(), like.rows, like.cols);
}

// Steps of a reduction whose operands, in fp32, are about what a core's second cache holds.
constexpr std::int64_t kWidenedSteps = 768;

// bf16 in fp32, on this thread alone: operands are widened a part of the reduction at a time, and a
// bf16 result is rounded once.
void multiply_widened(const Operands& op) {
  thread_local Buffer<float> a_scratch, b_scratch, out_scratch;
  Operands part = op;
  if (op.out.dtype == DType::bf16) part.out = view_of(out_scratch, op.out);
  const Cut steps(op.k(), kWidenedSteps);
  for (std::int64_t i = 0; i < steps.count; ++i) {
    const auto rows = [&](auto view) { return view.row_slice(steps.begin(i), steps.size(i)); };
    const auto cols = [&](auto view) { return view.col_slice(steps.begin(i), steps.size(i)); };
    const auto widen = [](Buffer<float>& scratch, ConstTensorView in) {
      const TensorView out = view_of(scratch, in);
      widen_rows(out.as<float>(), in.as<bf16>(), in.rows, in.cols, in.ld);
      return out;
    };
    part.a = widen(a_scratch, op.transpose == Transpose::a ? rows(op.a) : cols(op.a));
    part.b = widen(b_scratch, op.transpose == Transpose::b ? cols(op.b) : rows(op.b));
    multiply(part);
    part.accumulate = true;
    part.bias = {};
  }
  if (op.out.dtype == DType::bf16)
    round_rows(op.out.as<bf16>(), part.out.as<float>(), op.out.rows, op.out.cols, op.out.ld);
}

void multiply_in_pieces(const Operands& op) {
  const bool widened = op.a.dtype == DType::bf16 && !multiplies_bf16();
  const Cut rows(op.out.rows, kPieceRows), cols(op.out.cols, kPieceCols);
  parallel_for(rows.count * cols.count, [&](std::int64_t i) {
    const Operands piece = piece_of(op, rows, i % rows.count, cols, i / rows.count);
    widened ? multiply_widened(piece) : multiply(piece);
  });
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
  multiply_in_pieces(op);
}

}  // namespace demist::cpu
