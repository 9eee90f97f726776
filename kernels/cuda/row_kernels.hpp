// All operations on the device except products and attention, as plain functions.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "core/error.hpp"
#include "core/tensor.hpp"
#include "kernels/cuda/workspace.hpp"
#include "kernels/types.hpp"

// The contract of each function is that of the operation of its name in kernels/backend.hpp, whose
// checks have been made. Every view and span is device memory. A call only queues kernels on
// launch.stream. Results depend on shapes and values, never on the device: the order of every sum
// is a function of the shape (of the groups' sizes too in embed_backward), and there are no
// floating-point atomics.
//
// x_workspace() says how many bytes of workspace x needs; the other functions need none.
namespace demist::cuda {

// A row of a layer normalization stays in one block's registers.
constexpr std::int64_t kMaxLayerNormColumns = 6144;
inline void check_layernorm_columns(std::int64_t cols) {
  if (cols > kMaxLayerNormColumns)
    throw ConfigError("layer normalization on a GPU: rows of " + std::to_string(cols) +
                      " columns, at most " + std::to_string(kMaxLayerNormColumns) +
                      " fit; lower model.hidden");
}

void embed_forward(const Launch& launch, TensorView x, std::span<const std::int32_t> ids,
                   std::span<const std::int32_t> positions, ConstTensorView word,
                   std::int64_t word_begin, ConstTensorView position, ConstTensorView type,
                   bool word_only);
std::size_t embed_backward_workspace(std::int64_t tokens, std::int64_t cols);
void embed_backward(const Launch& launch, TensorView dword, std::int64_t word_begin,
                    TensorView dposition, TensorView dtype_row, ConstTensorView dx,
                    const Grouping& ids, const Grouping& positions, std::int32_t padding_id);

void bias_gelu_forward(const Launch& launch, TensorView out, ConstTensorView pre,
                       std::span<const float> bias);
std::size_t bias_gelu_backward_workspace(std::int64_t rows, std::int64_t cols);
void bias_gelu_backward(const Launch& launch, TensorView dpre, std::span<float> dbias,
                        ConstTensorView dout, ConstTensorView pre, std::span<const float> bias);

void add_layernorm_forward(const Launch& launch, const AddLayerNorm& op);
std::size_t add_layernorm_backward_workspace(std::int64_t rows, std::int64_t cols);
void add_layernorm_backward(const Launch& launch, const AddLayerNormBackward& op);
void dropout(const Launch& launch, TensorView x, const Dropout& dropout, const TokenGrid& grid);

void gather_rows(const Launch& launch, TensorView out, ConstTensorView x,
                 std::span<const std::int32_t> rows);
void scatter_rows(const Launch& launch, TensorView out, ConstTensorView x,
                  std::span<const std::int32_t> rows);
std::size_t column_sum_workspace(std::int64_t rows, std::int64_t cols);
void column_sum(const Launch& launch, std::span<float> out, ConstTensorView x);
void add(const Launch& launch, TensorView out, ConstTensorView a, ConstTensorView b);
void convert(const Launch& launch, TensorView out, ConstTensorView in);
// Every element becomes 0, gaps between rows stay.
void zero_rows(const Launch& launch, TensorView x);

void cross_entropy_statistics(const Launch& launch, TensorView statistics, ConstTensorView logits,
                              std::span<const float> bias, std::span<const std::int32_t> target,
                              const VocabularyPart& part);
void cross_entropy_loss(const Launch& launch, std::span<float> lse, std::span<double> row_loss,
                        ConstTensorView statistics, const CrossEntropyRows& rows);
std::size_t cross_entropy_backward_workspace(std::int64_t rows, std::int64_t cols);
void cross_entropy_backward(const Launch& launch, TensorView dlogits, std::span<float> dbias,
                            ConstTensorView logits, std::span<const float> bias,
                            std::span<const float> lse, const CrossEntropyRows& rows,
                            const VocabularyPart& part);

// Bits of the CPU's: fixed point, max_abs, tile_sum_squares, adamw (work in bf16: except that
// numbers below 2^-126 keep their bits here and may become 0 there).
void fixed_point_add(const Launch& launch, std::span<std::int64_t> acc, std::span<float> largest,
                     std::span<const float> grad, const ScaledPieces& pieces);
void fixed_point_to_float(const Launch& launch, std::span<float> out,
                          std::span<const std::int64_t> acc, const ScaledPieces& pieces);
void fixed_point_round(const Launch& launch, std::span<float> out, std::span<const float> grad,
                       const ScaledPieces& pieces);
std::size_t max_abs_workspace(std::int64_t size);
void max_abs(const Launch& launch, std::span<float> largest, std::span<const float> values);
void tile_sum_squares(const Launch& launch, std::span<double> out, std::span<const float> values);
void adamw(const Launch& launch, std::span<float> param, std::span<float> m, std::span<float> v,
           std::span<const float> grad, TensorView work, const AdamW& op);

}  // namespace demist::cuda
