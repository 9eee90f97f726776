// The vector code of one instruction set, as a table: what CpuBackend calls.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/tensor.hpp"
#include "kernels/types.hpp"

namespace demist::cpu {

// Rows [begin, end) of an operation.
struct RowRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

// Where the tokens of an embedding live (Backend::embed_forward).
struct Embedding {
  const std::int32_t* ids = nullptr;
  const std::int32_t* positions = nullptr;
  ConstTensorView word, position, type;
  std::int64_t word_begin = 0;
  bool word_only = false;
};

struct CrossEntropyStatistics {
  TensorView statistics;
  ConstTensorView logits;
  const float* bias = nullptr;  // [V] or null
  const std::int32_t* target = nullptr;
  VocabularyPart part;
};

struct CrossEntropyBackward {
  TensorView dlogits;
  ConstTensorView logits;
  const float* bias = nullptr;  // [V] or null
  const float* lse = nullptr;   // [m]
  CrossEntropyRows rows;
  VocabularyPart part;
};

struct AdamWRange {
  std::int64_t count = 0;
  float* param = nullptr;
  float* m = nullptr;
  float* v = nullptr;
  const float* grad = nullptr;
  TensorView work;  // [1, count] or absent
};

// Contracts are those of kernels/backend.hpp. Except for attention, which shares its work out
// itself, each kernel runs on the calling thread and does the rows or elements it is given; partial
// column sums ([cols] fp32) are overwritten.
// 2^exponent and 2^-exponent.
struct FixedPoint {
  double scale, inverse;
};

struct IsaKernels {
  const char* name;

  void (*attention_forward)(TensorView out, TensorView lse, ConstTensorView qkv,
                            const Attention& op);
  void (*attention_backward)(TensorView dqkv, ConstTensorView dout, ConstTensorView qkv,
                             ConstTensorView out, ConstTensorView lse, const Attention& op);

  void (*embed_forward)(TensorView x, const Embedding& embedding, RowRange rows);
  // out[0, count) += sum over the listed rows of x, columns [column, column + count), in order.
  void (*add_rows)(float* out, ConstTensorView x, const std::int32_t* rows, std::int64_t row_count,
                   std::int64_t column, std::int64_t count);

  void (*bias_gelu_forward)(TensorView out, ConstTensorView pre, const float* bias, RowRange rows);
  void (*bias_gelu_backward)(TensorView dpre, float* dbias, ConstTensorView dout,
                             ConstTensorView pre, const float* bias, RowRange rows);
  void (*add_layernorm_forward)(const AddLayerNorm& op, RowRange rows);
  // `partial`: column sums [3, d] for dgamma, dbeta, dbias.
  void (*add_layernorm_backward)(const AddLayerNormBackward& op, float* partial, RowRange rows);
  void (*dropout)(TensorView x, const Dropout& dropout, const TokenGrid& grid, RowRange rows);

  void (*column_sum)(float* out, ConstTensorView x, RowRange rows);
  void (*add)(TensorView out, ConstTensorView a, ConstTensorView b);
  void (*convert)(TensorView out, ConstTensorView in);

  void (*cross_entropy_statistics)(const CrossEntropyStatistics& op, RowRange rows);
  void (*cross_entropy_backward)(const CrossEntropyBackward& op, float* dbias, RowRange rows);

  // `scale` is 2^exponent.
  void (*fixed_point_add)(std::int64_t* acc, const float* grad, std::int64_t count, double scale);
  // The largest |value|, NaN when any is not finite.
  float (*max_abs)(const float* values, std::int64_t count);
  // `scale` is 2^-exponent.
  void (*fixed_point_to_float)(float* out, const std::int64_t* acc, std::int64_t count,
                               double scale);
  void (*fixed_point_round)(float* out, const float* grad, std::int64_t count, FixedPoint scale);
  double (*sum_squares)(const float* values, std::int64_t count);
  void (*adamw)(const AdamWRange& range, const AdamW& op);
};

namespace avx2 {
extern const IsaKernels kKernels;
}
namespace avx512 {
extern const IsaKernels kKernels;
// The same, but attention multiplies pairs of bf16 (VDPBF16PS).
extern const IsaKernels kKernelsOfPairs;
}  // namespace avx512

}  // namespace demist::cpu
