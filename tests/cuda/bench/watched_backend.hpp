// A backend that tells an observer of every operation: training steps measured and compared from
// inside, with the shapes they really have.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "kernels/backend.hpp"
#include "tests/cuda/bench/operation.hpp"

namespace demist::bench {

// Bytes and FLOPs are those that the comments of the CUDA kernels name: every operand once, fused
// attention for bf16.
class WatchedBackend final : public Backend {
 public:
  explicit WatchedBackend(std::unique_ptr<Backend> inner) : inner_(std::move(inner)) {}
  // From now on; null: nobody.
  void watch(Observer* observer) { observer_ = observer; }
  Backend& inner() { return *inner_; }
  // Every operation of the Backend, without copies.
  static const std::set<std::string>& operations();

  std::string name() const override { return inner_->name(); }
  Memory& memory() override { return inner_->memory(); }
  bool on_host() const override { return inner_->on_host(); }
  void upload(void* to, const void* from, std::size_t bytes) override;
  void upload_beside(void* to, const void* from, std::size_t bytes) override;
  void download(void* to, const void* from, std::size_t bytes) override;
  std::unique_ptr<ReadBack> make_read_back() override { return inner_->make_read_back(); }
  Memory& host_memory() override { return inner_->host_memory(); }
  void copy(void* to, const void* from, std::size_t bytes) override;
  void zero(void* to, std::size_t bytes) override;
  void prepare(const StepShape& shape) override { inner_->prepare(shape); }

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
  void do_fixed_point_to_float(std::span<float> out, std::span<const std::int64_t> acc,
                               const ScaledPieces& pieces) override;
  void do_fixed_point_round(std::span<float> out, std::span<const float> grad,
                            const ScaledPieces& pieces) override;
  void do_tile_sum_squares(std::span<double> out, std::span<const float> values) override;
  void do_adamw(std::span<float> param, std::span<float> m, std::span<float> v,
                std::span<const float> grad, TensorView work, const AdamW& op) override;

  // describe() makes the Operation, for an observer only.
  template <class Describe, class Run>
  void watched(Describe&& describe, Run&& run);

  double elements_of(const ScaledPieces& pieces);

  std::unique_ptr<Backend> inner_;
  Observer* observer_ = nullptr;
  std::map<std::pair<const void*, std::size_t>, double> piece_elements_;
};

}  // namespace demist::bench
