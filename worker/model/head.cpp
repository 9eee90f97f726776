// The LM head on target rows only, its logits in chunks that are consumed as they appear.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "worker/model/model.hpp"

namespace demist {

// Loss over all targets; with `grads` also every gradient of the head, the part of the tied
// embedding's gradient that comes from it (overwritten), and work_a = gradient of the last norm's
// y.
double Model::head_loss(const ModelViews& weights, const ModelViews* grads,
                        const data::MicroBatch& batch) {
  const auto targets = static_cast<std::int64_t>(batch.target_row.size());
  const std::int64_t n = batch.rows * batch.cols;
  ensure(targets <= head_in_.view().rows, "more targets than planned");
  if (grads != nullptr) {
    std::fill_n(grads->head_bias.data(), grads->head_bias.size(), 0.0f);
    if (targets == 0) std::fill_n(grads->word.as<float>(), grads->word.size(), 0.0f);
  }
  if (targets > 0) {
    backend_.gather_rows(head_in_.top(targets), norm_activations(halves()).y.top(n),
                         batch.target_row);
    head_transform(weights, head_in_.top(targets));
  }
  double loss = 0;
  for (std::int64_t begin = 0; begin < targets; begin += chunk_rows_) {
    const std::int64_t count = std::min(chunk_rows_, targets - begin);
    loss += chunk_loss(weights, batch, begin, count);
    if (grads != nullptr) chunk_backward(weights, *grads, batch, begin, count);
  }
  if (grads != nullptr) {
    head_transform_backward(weights, *grads, targets);
    backend_.scatter_rows(work_a_.top(n), head_in_.top(targets), batch.target_row);
  }
  return loss;
}

// 9) dense; 10) GELU; 11) norm -> head_out
void Model::head_transform(const ModelViews& weights, ConstTensorView rows) {
  const std::int64_t m = rows.rows;
  const auto count = static_cast<std::size_t>(m);
  backend_.gemm(head_pre_.top(m), rows, weights.head_dense, Transpose::b);
  backend_.bias_gelu_forward(head_act_.top(m), head_pre_.top(m), weights.head_dense_bias);
  AddLayerNorm op;
  op.y = head_out_.top(m);
  op.mean = head_mean_.span().first(count);
  op.rstd = head_rstd_.span().first(count);
  op.x = head_act_.top(m);
  op.gamma = weights.head_norm.gamma;
  op.beta = weights.head_norm.beta;
  op.epsilon = config_.norm_epsilon;
  op.grid = {m, 1, {}};
  backend_.add_layernorm_forward(op);
}

// 12) logits of rows [begin, begin + count) against the tied embedding; 13) cross-entropy
double Model::chunk_loss(const ModelViews& weights, const data::MicroBatch& batch,
                         std::int64_t begin, std::int64_t count) {
  const auto size = static_cast<std::size_t>(count), from = static_cast<std::size_t>(begin);
  const TensorView logits = logits_.top(count);
  const std::span<const std::int32_t> target = std::span(batch.target_id).subspan(from, size);
  backend_.gemm(logits, head_out_.view().row_slice(begin, count), weights.word, Transpose::b);
  backend_.cross_entropy_statistics(row_max_.span().first(size), row_sum_.span().first(size),
                                    row_logits_.span().first(size), row_target_.span().first(size),
                                    logits, weights.head_bias, target, vocab_begin_, vocab_valid_);
  combine_vocabulary(count);
  double loss = 0;
  for (std::size_t i = 0; i < size; ++i) {
    row_lse_[i] = row_max_[i] + std::log(row_sum_[i]);
    const double lse = row_lse_[i];
    const double mean_logit =
        static_cast<double>(row_logits_[i]) / static_cast<double>(config_.vocab);
    loss += batch.weight[from + i] * (lse - row_target_[i]) +
            batch.smooth[from + i] * (lse - mean_logit);
  }
  return loss;
}

// Each rank saw its part of the vocabulary: rescale the partial sums to the global maximum and add.
void Model::combine_vocabulary(std::int64_t count) {
  if (tensor_.size() == 1) return;
  const auto size = static_cast<std::size_t>(count);
  const std::span<float> global_max = row_lse_.span().first(size);
  std::copy_n(row_max_.data(), size, global_max.data());
  tensor_.all_reduce_max(global_max);
  const std::span<float> packed = statistics_.span().first(3 * size);
  for (std::size_t i = 0; i < size; ++i) {
    packed[3 * i] = row_sum_[i] * std::exp(row_max_[i] - global_max[i]);
    packed[3 * i + 1] = row_logits_[i];
    packed[3 * i + 2] = row_target_[i];
    row_max_[i] = global_max[i];
  }
  tensor_.all_reduce_sum(packed);
  for (std::size_t i = 0; i < size; ++i) {
    row_sum_[i] = packed[3 * i];
    row_logits_[i] = packed[3 * i + 1];
    row_target_[i] = packed[3 * i + 2];
  }
}

// 13) dlogits over the logits themselves; 12) into the embedding and the head's output
void Model::chunk_backward(const ModelViews& weights, const ModelViews& grads,
                           const data::MicroBatch& batch, std::int64_t begin, std::int64_t count) {
  const auto size = static_cast<std::size_t>(count), from = static_cast<std::size_t>(begin);
  const TensorView logits = logits_.top(count);
  // A row of dlogits starts where its row of logits does: bf16 rows leave every second half unused.
  const std::int64_t ld = logits.ld * 4 / static_cast<std::int64_t>(size_of(compute_));
  const TensorView dlogits{logits.data, compute_, count, vocab_local_, ld};
  backend_.cross_entropy_backward(
      dlogits, grads.head_bias, logits, row_lse_.span().first(size),
      std::span(batch.target_id).subspan(from, size), std::span(batch.weight).subspan(from, size),
      std::span(batch.smooth).subspan(from, size), vocab_begin_, vocab_valid_, config_.vocab);
  backend_.gemm(grads.word, dlogits, head_out_.view().row_slice(begin, count), Transpose::a,
                begin > 0);
  group_product(head_grad_.view().row_slice(begin, count), dlogits, weights.word, Transpose::none);
}

// 11), 10), 9): from head_grad to the gradient of the gathered rows, left in head_in
void Model::head_transform_backward(const ModelViews& weights, const ModelViews& grads,
                                    std::int64_t m) {
  const auto count = static_cast<std::size_t>(m);
  AddLayerNormBackward op;
  op.dsum = head_grad_.top(m);
  op.dgamma = grads.head_norm.gamma;
  op.dbeta = grads.head_norm.beta;
  op.dy = head_grad_.top(m);
  op.sum = head_act_.top(m);
  op.mean = head_mean_.span().first(count);
  op.rstd = head_rstd_.span().first(count);
  op.gamma = weights.head_norm.gamma;
  op.grid = {m, 1, {}};
  backend_.add_layernorm_backward(op);
  backend_.bias_gelu_backward(head_grad_.top(m), grads.head_dense_bias, head_grad_.top(m),
                              head_pre_.top(m), weights.head_dense_bias);
  backend_.gemm(grads.head_dense, head_grad_.top(m), head_in_.top(m), Transpose::a);
  backend_.gemm(head_in_.top(m), head_grad_.top(m), weights.head_dense, Transpose::none);
}

}  // namespace demist
