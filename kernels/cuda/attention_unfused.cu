// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <type_traits>

#include "core/error.hpp"
#include "kernels/cuda/attention.hpp"
#include "kernels/cuda/attention_head.hpp"
#include "kernels/cuda/device.hpp"
#include "kernels/cuda/work_sizes.hpp"

namespace demist::cuda {
namespace {

constexpr int kWarps = 4;  // a warp takes one query's row
constexpr int kThreads = kWarps * kWarpSize;

__device__ float as_float(float x) { return x; }
__device__ float as_float(bf16 x) { return __bfloat162float(x); }
__device__ void assign(float& to, float x) { to = x; }
__device__ void assign(bf16& to, float x) { to = __float2bfloat16_rn(x); }

// One warp's row of [sequences][heads][queries][keys], keys `ld` apart from row to row.
struct ScoreRow {
  int query, begin, end;
  std::int64_t offset;

  __device__ ScoreRow(const HeadProblem& problem, std::int64_t ld)
      : query(static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / kWarpSize),
        begin(0),
        end(0),
        offset((problem.head_row() * problem.cols + query) * ld) {
    if (query >= problem.cols) return;
    begin = problem.begin[problem.first_token() + query];
    end = problem.end[problem.first_token() + query];
  }
};

// Calls body(key, factor) for every key of a row, factor being dropout's (0 or keep_scale). A lane
// takes the 8 keys of one random draw at a time, a warp two groups of 128 keys.
template <class Body>
__device__ void for_each_key(const HeadProblem& problem, int query, Body body) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, j = lane % 16;
  const std::uint32_t limit = problem.threshold;
  for (int group = lane / 16; group * kGroup < problem.cols; group += 2) {
    Philox4 words{};
    if (limit > 0)
      words = draw(problem.dropout_key, problem.sample[blockIdx.z], problem.dropout_position(query),
                   static_cast<std::uint32_t>(group * 16 + j));
#pragma unroll
    for (int b = 0; b < 8; ++b) {
      const int key = group * kGroup + b / 2 * 32 + j * 2 + b % 2;
      const std::uint32_t bits = words.v[static_cast<unsigned>(b / 2)] >> (16 * (b % 2)) & 0xffffu;
      if (key < problem.cols) body(key, bits < limit ? 0.0f : problem.keep_scale);
    }
  }
}

// P = dropout(softmax(scale S)), zeros outside the key ranges, and lse. p may be the scores' memory
// when T is float. Reads 4 bytes a score and writes sizeof(T): three readings, two of them from the
// first-level cache. In bf16 64 x 512 tokens and 12 heads take an H100 360 us at 3.35 TB/s.
template <class T>
__global__ void __launch_bounds__(kThreads)
    softmax_kernel(HeadProblem problem, T* p, const float* scores, std::int64_t ld, float* lse,
                   std::int64_t lse_ld) {
  const ScoreRow row(problem, ld);
  if (row.query >= problem.cols) return;
  scores += row.offset;
  p += row.offset;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const float scale2 = problem.scale * kLog2E;
  float top = -kInfinity, sum = 0.0f;
  for (int k = row.begin + lane; k < row.end; k += kWarpSize) top = fmaxf(top, scores[k]);
  top = warp_max(top);
  for (int k = row.begin + lane; k < row.end; k += kWarpSize)
    sum += fast_exp2((scores[k] - top) * scale2);
  sum = warp_sum(sum);
  const bool empty = row.begin >= row.end;
  if (lane == 0)
    lse[blockIdx.y * lse_ld + problem.first_token() + row.query] =
        empty ? 0.0f : top * problem.scale + logf(sum);
  const float inverse = 1.0f / sum;
  __syncwarp();  // p may be the scores, which other lanes have read up to here
  for_each_key(problem, row.query, [&](int key, float factor) {
    const bool seen = key >= row.begin && key < row.end;
    assign(p[key], seen && factor > 0.0f
                       ? fast_exp2((scores[key] - top) * scale2) * inverse * factor
                       : 0.0f);
  });
}

struct GradientOperands {
  const float *scores, *dp;  // [sequences][heads][queries][ld]
  std::int64_t ld;
  const float* lse;  // [heads][lse_ld]
  std::int64_t lse_ld;
  int head_dim;
};

// P = e^(scale S - lse), delta = rowsum(dout out);
// p = dropout(P);  ds = scale P (dropout'(dP) - delta). p and ds may be the memory of scores and dp
// when T is float. 8 + 2 sizeof(T) bytes a score: in bf16, for 64 x 512 tokens and 12 heads, 720 us
// on an H100.
template <class T>
__global__ void __launch_bounds__(kThreads)
    softmax_gradient_kernel(HeadProblem problem, T* p, T* ds, GradientOperands in,
                            Rows<const T> dout, Rows<const T> out) {
  const ScoreRow row(problem, in.ld);
  if (row.query >= problem.cols) return;
  const T* const a = dout.of(problem, 0, in.head_dim).row(row.query);
  const T* const b = out.of(problem, 0, in.head_dim).row(row.query);
  float delta = 0.0f;
  for (int i = static_cast<int>(threadIdx.x) % kWarpSize; i < in.head_dim; i += kWarpSize)
    delta += as_float(a[i]) * as_float(b[i]);
  delta = warp_sum(delta);
  const float lse2 = in.lse[blockIdx.y * in.lse_ld + problem.first_token() + row.query] * kLog2E;
  const float scale2 = problem.scale * kLog2E;
  for_each_key(problem, row.query, [&](int key, float factor) {
    const std::int64_t at = row.offset + key;
    float weight = 0.0f, gradient = 0.0f;
    if (key >= row.begin && key < row.end) {
      weight = fast_exp2(in.scores[at] * scale2 - lse2);
      gradient = weight * ((factor > 0.0f ? in.dp[at] * factor : 0.0f) - delta) * problem.scale;
    }
    assign(p[at], factor > 0.0f ? weight * factor : 0.0f);
    assign(ds[at], gradient);
  });
}

// The square matrices of one pass.
struct Squares {
  AttentionWork work;
  std::int64_t ld, sequences;

  explicit Squares(const Attention& op)
      : work{op.grid.rows, op.grid.cols, op.heads, op.dropout.active()},
        ld(work.square_ld()),
        sequences(work.pass_sequences()) {}

  void* stored(void* pair, DType dtype) const {
    return dtype == DType::f32 ? pair
                               : static_cast<std::byte*>(pair) + work.square_bytes(DType::f32);
  }
};

// Sequences [first, first + count) of one attention.
struct Pass {
  const Attention& op;
  const Squares& squares;
  std::int64_t first, count;

  HeadProblem problem() const {
    HeadProblem part(op);
    if (part.sample) part.sample += first;
    part.begin += first * op.grid.cols;
    part.end += first * op.grid.cols;
    return part;
  }
  dim3 grid() const {
    return {static_cast<unsigned>((op.grid.cols + kWarps - 1) / kWarps),
            static_cast<unsigned>(op.heads), static_cast<unsigned>(count)};
  }
  template <class Void>
  MatrixBatch<Void> square(Void* data, DType dtype) const {
    const std::int64_t matrix = op.grid.cols * squares.ld;
    return {data, dtype, op.grid.cols, op.grid.cols, squares.ld, op.heads * matrix, matrix};
  }
  // Rows of a tensor; part 0 of a tensor without parts.
  template <class Void>
  MatrixBatch<Void> part(const BasicView<Void>& tensor, int which) const {
    const auto view = tensor.row_slice(first * op.grid.cols, op.grid.cols)
                          .col_slice(which * op.heads * op.head_dim, op.head_dim);
    return {view.data, view.dtype, view.rows, view.cols, view.ld, view.ld * view.rows, op.head_dim};
  }
};

template <class T>
void softmax(const Pass& pass, const AttentionForward& tensors, void* scores, void* p,
             cudaStream_t stream) {
  float* const lse = tensors.lse.as<float>() + pass.first * pass.op.grid.cols;
  launch(softmax_kernel<T>, pass.grid(), kThreads, 0, stream, pass.problem(), static_cast<T*>(p),
         static_cast<const float*>(scores), pass.squares.ld, lse, tensors.lse.ld);
}

template <class T>
void softmax_gradient(const Pass& pass, const AttentionBackward& tensors, void* scores, void* dp,
                      cudaStream_t stream) {
  const std::int64_t token = pass.first * pass.op.grid.cols;
  const DType dtype = tensors.qkv.dtype;
  const GradientOperands in{static_cast<const float*>(scores),
                            static_cast<const float*>(dp),
                            pass.squares.ld,
                            tensors.lse.as<float>() + token,
                            tensors.lse.ld,
                            static_cast<int>(pass.op.head_dim)};
  launch(softmax_gradient_kernel<T>, pass.grid(), kThreads, 0, stream, pass.problem(),
         static_cast<T*>(pass.squares.stored(scores, dtype)),
         static_cast<T*>(pass.squares.stored(dp, dtype)), in,
         rows_of<const T>(tensors.dout.row_slice(token, 1)),
         rows_of<const T>(tensors.out.row_slice(token, 1)));
}

template <class Body>
void for_each_pass(const Attention& op, const Squares& squares, Body body) {
  for (std::int64_t first = 0; first < op.grid.rows; first += squares.sequences)
    body(Pass{op, squares, first, std::min(squares.sequences, op.grid.rows - first)});
}

}  // namespace

std::size_t unfused_attention_forward_workspace(const Attention& op, DType dtype) {
  return Squares(op).work.pair_bytes(dtype);
}
std::size_t unfused_attention_backward_workspace(const Attention& op, DType dtype) {
  return 2 * Squares(op).work.pair_bytes(dtype);
}

void unfused_attention_forward(const Launch& launch, const AttentionForward& tensors,
                               const Attention& op, BatchedGemm& gemm) {
  const DType dtype = tensors.qkv.dtype;
  void* const scores = launch.scratch<std::byte>(
      static_cast<std::int64_t>(unfused_attention_forward_workspace(op, dtype)));
  const Squares squares(op);
  for_each_pass(op, squares, [&](const Pass& pass) {
    void* const p = squares.stored(scores, dtype);
    gemm.multiply(pass.square(scores, DType::f32), pass.part(tensors.qkv, 0),
                  pass.part(tensors.qkv, 1), Transpose::b, pass.count, op.heads);
    const auto kernel = dtype == DType::f32 ? &softmax<float> : &softmax<bf16>;
    kernel(pass, tensors, scores, p, launch.stream);
    gemm.multiply(pass.part(tensors.out, 0), pass.square<const void>(p, dtype),
                  pass.part(tensors.qkv, 2), Transpose::none, pass.count, op.heads);
  });
}

void unfused_attention_backward(const Launch& launch, const AttentionBackward& tensors,
                                const Attention& op, BatchedGemm& gemm) {
  const DType dtype = tensors.qkv.dtype;
  void* const scores = launch.scratch<std::byte>(
      static_cast<std::int64_t>(unfused_attention_backward_workspace(op, dtype)));
  const Squares squares(op);
  for_each_pass(op, squares, [&](const Pass& pass) {
    void* const dp = static_cast<std::byte*>(scores) + squares.work.pair_bytes(dtype);
    const auto q = pass.part(tensors.qkv, 0), k = pass.part(tensors.qkv, 1);
    const auto dout = pass.part(tensors.dout, 0);
    const auto multiply = [&](const MatrixBatch<void>& to, const MatrixBatch<const void>& a,
                              const MatrixBatch<const void>& b, Transpose transpose) {
      gemm.multiply(to, a, b, transpose, pass.count, op.heads);
    };
    multiply(pass.square(scores, DType::f32), q, k, Transpose::b);
    multiply(pass.square(dp, DType::f32), dout, pass.part(tensors.qkv, 2), Transpose::b);
    const auto kernel = dtype == DType::f32 ? &softmax_gradient<float> : &softmax_gradient<bf16>;
    kernel(pass, tensors, scores, dp, launch.stream);
    const auto p = pass.square<const void>(squares.stored(scores, dtype), dtype);
    const auto ds = pass.square<const void>(squares.stored(dp, dtype), dtype);
    multiply(pass.part(tensors.dqkv, 0), ds, k, Transpose::none);
    multiply(pass.part(tensors.dqkv, 1), ds, q, Transpose::a);
    multiply(pass.part(tensors.dqkv, 2), p, dout, Transpose::a);
  });
}

}  // namespace demist::cuda
