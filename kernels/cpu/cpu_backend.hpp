// The CPU backend: shares operations out over threads; the vector code is in isa/, products in
// gemm.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>

#include "core/tensor.hpp"
#include "kernels/backend.hpp"
#include "kernels/cpu/isa_kernels.hpp"

namespace demist::cpu {

// Not for concurrent calls: operations share the scratch memory.
class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const IsaKernels& kernels) : isa_(kernels) {}
  std::string name() const override { return std::string("cpu ") + isa_.name; }
  Memory& memory() override { return Memory::host(); }
  bool on_host() const override { return true; }
  void upload(void* to, const void* from, std::size_t bytes) override { copy(to, from, bytes); }
  void download(void* to, const void* from, std::size_t bytes) override { copy(to, from, bytes); }
  void copy(void* to, const void* from, std::size_t bytes) override;
  void zero(void* to, std::size_t bytes) override;

 private:
  void do_gemm(TensorView out, ConstTensorView a, ConstTensorView b, Transpose transpose,
               bool accumulate, std::span<const float> bias) override;
  void do_embed_forward(TensorView x, std::span<const std::int32_t> ids,
                        std::span<const std::int32_t> positions, ConstTensorView word,
                        std::int64_t word_begin, ConstTensorView position, ConstTensorView type,
                        bool word_only) override;
  void do_embed_backward(TensorView dword, std::int64_t word_begin, TensorView dposition,
                         TensorView dtype_row, ConstTensorView dx, const Grouping& ids,
                         const Grouping& positions, std::int32_t padding_id) override;
  void do_bias_gelu_forward(TensorView out, ConstTensorView pre,
                            std::span<const float> bias) override;
  void do_bias_gelu_backward(TensorView dpre, std::span<float> dbias, ConstTensorView dout,
                             ConstTensorView pre, std::span<const float> bias) override;
  void do_add_layernorm_forward(const AddLayerNorm& op) override;
  void do_add_layernorm_backward(const AddLayerNormBackward& op) override;
  void do_dropout(TensorView x, const Dropout& dropout, const TokenGrid& grid) override;
  void do_attention_forward(TensorView out, TensorView lse, ConstTensorView qkv,
                            const Attention& op) override;
  void do_attention_backward(TensorView dqkv, ConstTensorView dout, ConstTensorView qkv,
                             ConstTensorView out, ConstTensorView lse,
                             const Attention& op) override;
  void do_gather_rows(TensorView out, ConstTensorView x,
                      std::span<const std::int32_t> rows) override;
  void do_scatter_rows(TensorView out, ConstTensorView x,
                       std::span<const std::int32_t> rows) override;
  void do_column_sum(std::span<float> out, ConstTensorView x) override;
  void do_add(TensorView out, ConstTensorView a, ConstTensorView b) override;
  void do_convert(TensorView out, ConstTensorView in) override;
  void do_cross_entropy_statistics(TensorView statistics, ConstTensorView logits,
                                   std::span<const float> bias,
                                   std::span<const std::int32_t> target,
                                   const VocabularyPart& part) override;
  void do_cross_entropy_loss(std::span<float> lse, std::span<double> row_loss,
                             ConstTensorView statistics, const CrossEntropyRows& rows) override;
  void do_cross_entropy_backward(TensorView dlogits, std::span<float> dbias, ConstTensorView logits,
                                 std::span<const float> bias, std::span<const float> lse,
                                 const CrossEntropyRows& rows, const VocabularyPart& part) override;
  void do_fixed_point_add(std::span<std::int64_t> acc, std::span<float> largest,
                          std::span<const float> grad, const ScaledPieces& pieces) override;
  void do_max_abs(std::span<float> largest, std::span<const float> values) override;
  void do_fixed_point_round(std::span<float> out, std::span<const float> grad,
                            const ScaledPieces& pieces) override;
  void do_fixed_point_to_float(std::span<float> out, std::span<const std::int64_t> acc,
                               const ScaledPieces& pieces) override;
  void do_tile_sum_squares(std::span<double> out, std::span<const float> values) override;
  void do_adamw(std::span<float> param, std::span<float> m, std::span<float> v,
                std::span<const float> grad, TensorView work, const AdamW& op) override;

  // At least `size` floats, valid until the next call.
  float* scratch(std::int64_t size);
  // Calls partial_sum(float* sums, RowRange) for pieces of [0, rows), which are cut by shape only,
  // and returns the number of pieces: piece i left its `width` sums at scratch_ + i * width.
  template <class PartialSum>
  std::int64_t for_row_pieces(std::int64_t rows, std::int64_t width, PartialSum&& partial_sum);
  // out[j] = (or +=) the pieces' sums at column `offset` + j, in the order of the pieces.
  enum class Combine { overwrite, add };
  void combine_pieces(std::span<float> out, std::int64_t pieces, std::int64_t width,
                      std::int64_t offset, Combine combine);
  // out[value - first] += the dx rows of each group, in their order; groups of `skipped` and of
  // rows that out lacks are left out.
  void add_groups(TensorView out, std::int64_t first, ConstTensorView dx, const Grouping& groups,
                  std::int32_t skipped);

  const IsaKernels& isa_;
  Buffer<float> scratch_;
};

}  // namespace demist::cpu
