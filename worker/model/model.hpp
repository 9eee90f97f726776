// The XLM-R encoder with its tied LM head: forward and backward written by hand, step by step.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "kernels/backend.hpp"
#include "worker/config.hpp"
#include "worker/model/activations.hpp"
#include "worker/model/device_batch.hpp"
#include "worker/model/parameters.hpp"
#include "worker/parallel/communicator.hpp"

namespace demist {

// Holds activations for at most max_tokens tokens and max_targets head rows; no parameters. One
// object serves one (weights, gradients) pair at a time.
class Model {
 public:
  struct Limits {
    std::int64_t tokens = 0, targets = 0;
    bool training = true;  // false: no activations are kept for a backward pass
    Recompute recompute = Recompute::none;
  };
  Model(const ModelConfig& config, const ParameterTable& table, Backend& backend,
        Communicator& tensor, DType compute, const Limits& limits);

  // Called in the backward pass when the gradients of a layer's matrices, and of all layers' above
  // it, are queued on the backend; -1: of everything.
  using OnGradients = std::function<void(std::int64_t layer)>;

  // Sum over targets of weight * CE (+ smoothing term); overwrites all of `grads` with its
  // gradient. dropout_key names this step's dropout streams. Ye et al. 2023, eq. 2 with weights
  // given per token. Everything is queued on the backend; take_loss() waits for the sum.
  void forward_backward(const ModelViews& weights, const ModelViews& grads,
                        const data::MicroBatch& batch, std::uint64_t dropout_key,
                        const OnGradients& on_gradients = {});
  // Of the oldest forward_backward() whose sum was not taken; at most kLosses may be under way.
  double take_loss();
  static constexpr std::size_t kLosses = 2;
  // The same sum without dropout and without gradients.
  double loss(const ModelViews& weights, const data::MicroBatch& batch);
  // logits fp32 [wanted.size(), vocab] of token rows `wanted`, no dropout. tensor size 1 only. All
  // spans are in host memory.
  void logits(const ModelViews& weights, const EncoderInput& input,
              std::span<const std::int32_t> wanted, std::span<float> logits);
  // Of the backend's memory: activations, work space, and the batch where it is a copy.
  std::size_t bytes() const { return bytes_; }

 private:
  // encoder.cpp
  void encode(const ModelViews& weights, const EncoderInput& input);
  void embed(const ModelViews& weights, const EncoderInput& input);
  void layer_forward(const ModelViews& weights, const EncoderInput& input, std::int64_t layer);
  void layer_to_gelu(const ModelViews& weights, const EncoderInput& input, std::int64_t layer);
  void half_block_end(const ModelViews& weights, const EncoderInput& input, std::int64_t half,
                      std::span<const float> bias);
  void group_product(TensorView out, ConstTensorView x, ConstTensorView weight,
                     Transpose transpose);
  template <class Meanwhile>
  void group_product(TensorView out, ConstTensorView x, ConstTensorView weight, Transpose transpose,
                     Meanwhile&& meanwhile);
  // encoder_backward.cpp
  void encode_backward(const ModelViews& weights, const ModelViews& grads,
                       const EncoderInput& input, const OnGradients& on_gradients);
  void compute_again(const ModelViews& weights, const EncoderInput& input, std::int64_t layer);
  void normalize_again(const ModelViews& weights, const EncoderInput& input, std::int64_t half);
  void embed_backward(const ModelViews& weights, const ModelViews& grads,
                      const EncoderInput& input);
  void layer_backward(const ModelViews& weights, const ModelViews& grads, const EncoderInput& input,
                      std::int64_t layer);
  void half_block_backward(const ModelViews& weights, const ModelViews& grads,
                           const EncoderInput& input, std::int64_t half, std::span<float> dbias);
  // head.cpp
  void head(const ModelViews& weights, const ModelViews* grads);
  void send_losses();
  void head_transform(const ModelViews& weights, ConstTensorView rows);
  CrossEntropyRows chunk_of(std::int64_t begin, std::int64_t count) const;
  void chunk_loss(const ModelViews& weights, std::int64_t begin, std::int64_t count);
  void gather_rows_of_parts(TensorView all, std::int64_t count);
  void chunk_backward(const ModelViews& weights, const ModelViews& grads, std::int64_t begin,
                      std::int64_t count);
  void head_transform_backward(const ModelViews& weights, const ModelViews& grads,
                               std::int64_t targets);

  void allocate(const Limits& limits);
  Tensor make(DType dtype, std::int64_t rows, std::int64_t cols);
  Dropout hidden_dropout(std::int64_t half) const;
  Attention attention_op(const EncoderInput& input, std::int64_t layer) const;
  TensorView residual(std::int64_t half, std::int64_t n);  // what half-block `half` adds to
  bool post() const { return config_.norm == NormPlacement::post; }
  std::int64_t halves() const { return 2 * config_.layers; }

  const ModelConfig config_;
  Backend& backend_;
  Communicator& tensor_;
  const DType compute_;
  const std::int64_t heads_local_, hidden_local_, ffn_local_, vocab_local_;
  const VocabularyPart vocabulary_;
  bool training_ = true;
  Recompute recompute_ = Recompute::none;
  DeviceBatch batch_;
  bool dropout_on_ = false;
  std::uint64_t dropout_key_ = 0;
  std::size_t bytes_ = 0;

  Activations kept_;
  Tensor work_a_, work_b_;  // S [n, d]: gradients between half-blocks
  Tensor work_c_;           // S [n, d]: output of a half-block's last product, or its gradient
  Tensor work_wide_;        // S [n, max(3 dl, fl)]
  Tensor partial_;          // fp32 [n, d], tensor parallel only

  std::int64_t chunk_rows_ = 0;  // targets whose logits exist at once
  Tensor head_in_, head_pre_, head_act_, head_out_, head_grad_;  // S [targets, d]
  Buffer<float> head_mean_, head_rstd_;
  Tensor logits_;          // fp32 [chunk_rows, vocab_local]
  Tensor statistics_;      // fp32, all parts' rows of CrossEntropyColumn
  Buffer<float> row_lse_;  // [chunk_rows]
  // On their way to the host, so that a device need not wait for it between micro-batches.
  struct Losses {
    Buffer<double> rows, host;  // [targets]
    std::unique_ptr<ReadBack> way;
    std::size_t count = 0;
  };
  std::array<Losses, kLosses> losses_;
  std::size_t first_loss_ = 0, losses_under_way_ = 0;
  Losses& next_losses();
};

}  // namespace demist
