// The LM head on target rows only, its logits in chunks that are consumed as they appear.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <numeric>

#include "worker/model/group_product.hpp"
#include "worker/model/model.hpp"

namespace demist {

// The loss of every target; with `grads` also every gradient of the head, the part of the tied
// embedding's gradient that comes from it (overwritten), and work_a = gradient of the last norm's
// y.
void Model::head(const ModelViews& weights, const ModelViews* grads) {
  const HeadInput& in = batch_.head();
  const std::int64_t targets = in.targets(), n = batch_.encoder().grid.tokens();
  ensure(targets <= head_in_.view().rows, "more targets than planned");
  ensure(losses_under_way_ < kLosses, "a loss was not taken");
  if (grads != nullptr) {
    backend_.zero(grads->head_bias.data(), grads->head_bias.size_bytes());
    if (targets == 0)
      backend_.zero(grads->word.data, static_cast<std::size_t>(grads->word.size()) * sizeof(float));
  }
  if (targets > 0) {
    backend_.gather_rows(head_in_.top(targets), kept_.norm(halves(), n).y, in.target_row);
    head_transform(weights, head_in_.top(targets));
  }
  for (std::int64_t begin = 0; begin < targets; begin += chunk_rows_) {
    const std::int64_t count = std::min(chunk_rows_, targets - begin);
    chunk_loss(weights, begin, count);
    if (grads != nullptr) chunk_backward(weights, *grads, begin, count);
  }
  if (grads == nullptr) return;
  head_transform_backward(weights, *grads, targets);
  backend_.scatter_rows(work_a_.top(n), head_in_.top(targets), in.target_row);
}

Model::Losses& Model::next_losses() { return losses_[(first_loss_ + losses_under_way_) % kLosses]; }

void Model::send_losses() {
  Losses& losses = next_losses();
  losses.count = static_cast<std::size_t>(batch_.head().targets());
  losses.way->copy(losses.host.data(), losses.rows.data(), losses.count * sizeof(double));
  ++losses_under_way_;
}

// Added on the host, in the order of the rows.
double Model::take_loss() {
  ensure(losses_under_way_ > 0, "a loss is taken twice");
  Losses& losses = losses_[first_loss_];
  losses.way->wait();
  first_loss_ = (first_loss_ + 1) % kLosses;
  --losses_under_way_;
  return std::accumulate(losses.host.data(), losses.host.data() + losses.count, 0.0);
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

// The rows [begin, begin + count) of what is asked of all targets.
CrossEntropyRows Model::chunk_of(std::int64_t begin, std::int64_t count) const {
  const auto from = static_cast<std::size_t>(begin), size = static_cast<std::size_t>(count);
  const CrossEntropyRows& all = batch_.head().rows;
  return {all.target.subspan(from, size), all.weight.subspan(from, size),
          all.smooth.subspan(from, size), all.vocab_size};
}

// 12) logits of rows [begin, begin + count) against the tied embedding; 13) cross-entropy
void Model::chunk_loss(const ModelViews& weights, std::int64_t begin, std::int64_t count) {
  const CrossEntropyRows rows = chunk_of(begin, count);
  const TensorView logits = logits_.top(count).col_slice(0, vocab_local_);
  const TensorView all = statistics_.top(tensor_.size() * count);
  backend_.gemm(logits, head_out_.view().row_slice(begin, count), weights.word, Transpose::b);
  backend_.cross_entropy_statistics(all.row_slice(tensor_.rank() * count, count), logits,
                                    weights.head_bias, rows.target, vocabulary_);
  // Each rank of the tensor group saw its part of the vocabulary.
  if (tensor_.size() > 1) gather_rows_of_parts(all, count);
  backend_.cross_entropy_loss(row_lse_.span().first(static_cast<std::size_t>(count)),
                              next_losses().rows.span().subspan(static_cast<std::size_t>(begin),
                                                                static_cast<std::size_t>(count)),
                              all, rows);
}

void Model::gather_rows_of_parts(TensorView all, std::int64_t count) {
  const auto row_bytes = static_cast<std::int64_t>(sizeof(float)) * all.ld;
  std::vector<std::int64_t> starts;
  for (std::int64_t part = 0; part <= tensor_.size(); ++part)
    starts.push_back(part * count * row_bytes);
  tensor_.all_gather({static_cast<std::byte*>(all.data), static_cast<std::size_t>(starts.back())},
                     starts);
}

// 13) dlogits over the logits themselves; 12) into the embedding and the head's output
void Model::chunk_backward(const ModelViews& weights, const ModelViews& grads, std::int64_t begin,
                           std::int64_t count) {
  const TensorView logits = logits_.top(count).col_slice(0, vocab_local_);
  // A row of dlogits starts where its row of logits does: bf16 rows leave every second half unused.
  const std::int64_t ld = logits.ld * 4 / static_cast<std::int64_t>(size_of(compute_));
  const TensorView dlogits{logits.data, compute_, count, vocab_local_, ld};
  backend_.cross_entropy_backward(dlogits, grads.head_bias, logits, weights.head_bias,
                                  row_lse_.span().first(static_cast<std::size_t>(count)),
                                  chunk_of(begin, count), vocabulary_);
  group_product(head_grad_.view().row_slice(begin, count), dlogits, weights.word, Transpose::none,
                [&] {
                  backend_.gemm(grads.word, dlogits, head_out_.view().row_slice(begin, count),
                                Transpose::a, begin > 0);
                });
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
