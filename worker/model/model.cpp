// SPDX-License-Identifier: Apache-2.0
#include "worker/model/model.hpp"

#include <algorithm>
#include <cmath>

#include "core/error.hpp"
#include "core/philox.hpp"
#include "worker/model/device_shapes.hpp"
#include "worker/model/logits_chunk.hpp"

namespace demist {

Model::Model(const ModelConfig& config, const ParameterTable& table, Backend& backend,
             Communicator& tensor, DType compute, const Limits& limits)
    : config_(config),
      backend_(backend),
      tensor_(tensor),
      compute_(compute),
      heads_local_(config.heads / tensor.size()),
      hidden_local_(config.hidden / tensor.size()),
      ffn_local_(config.ffn / tensor.size()),
      vocab_local_(table.find("embeddings.word.weight").local_rows),
      vocabulary_{table.find("embeddings.word.weight").row_begin,
                  table.find("embeddings.word.weight").valid_rows},
      training_(limits.training),
      recompute_(limits.recompute),
      batch_(backend, limits.tokens, limits.targets),
      bytes_(batch_.bytes()) {
  if (!backend.on_host()) {
    const std::string problem = device_shape_problem(config, compute, tensor.size());
    if (!problem.empty()) throw AgreedError(ExitCode::usage, problem);
  }
  allocate(limits);
}

Tensor Model::make(DType dtype, std::int64_t rows, std::int64_t cols) {
  Tensor tensor(dtype, rows, cols, backend_.memory());
  bytes_ += tensor.bytes();
  return tensor;
}

void Model::allocate(const Limits& limits) {
  const std::int64_t n = limits.tokens, d = config_.hidden, m = limits.targets;
  const auto floats = [&](std::int64_t count) {
    bytes_ += static_cast<std::size_t>(count) * sizeof(float);
    return Buffer<float>(static_cast<std::size_t>(count), backend_.memory());
  };
  const ActivationShape kept{n,          config_.layers, d,        hidden_local_,
                             ffn_local_, heads_local_,   compute_, training_,
                             recompute_};
  kept_ = Activations(kept, backend_.memory());
  bytes_ += Activations::bytes(kept);
  work_c_ = make(compute_, n, d);
  if (training_) {
    work_a_ = make(compute_, n, d);
    work_b_ = make(compute_, n, d);
    work_wide_ = make(compute_, n, std::max(3 * hidden_local_, ffn_local_));
  }
  if (tensor_.size() > 1) partial_ = make(DType::f32, n, d);

  chunk_rows_ = logits_chunk_rows(m, vocab_local_, backend_.on_host());
  for (Tensor* t : {&head_in_, &head_pre_, &head_act_, &head_out_, &head_grad_})
    *t = make(compute_, m, d);
  head_mean_ = floats(m);
  head_rstd_ = floats(m);
  if (!training_) return;  // inference writes its logits to the caller's memory
  logits_ = make(DType::f32, chunk_rows_, logits_columns(vocab_local_));
  statistics_ = make(DType::f32, tensor_.size() * chunk_rows_, CrossEntropyColumn::count);
  row_lse_ = floats(chunk_rows_);
  for (Losses& losses : losses_) {
    losses.rows = Buffer<double>(static_cast<std::size_t>(m), backend_.memory());
    losses.host = Buffer<double>(static_cast<std::size_t>(m), backend_.host_memory());
    losses.way = backend_.make_read_back();
    bytes_ += losses.rows.bytes();
    if (backend_.on_host()) bytes_ += losses.host.bytes();
  }
}

void Model::forward_backward(const ModelViews& weights, const ModelViews& grads,
                             const data::MicroBatch& batch, std::uint64_t dropout_key,
                             const OnGradients& on_gradients) {
  ensure(training_, "this model was planned for inference");
  dropout_on_ = true;
  dropout_key_ = dropout_key;
  ensure(batch.id_groups.order.size() == batch.ids.size() &&
             batch.position_groups.order.size() == batch.positions.size(),
         "a batch for training has its tokens grouped");
  batch_.load(batch, config_.vocab);
  encode(weights, batch_.encoder());
  head(weights, &grads);
  send_losses();
  encode_backward(weights, grads, batch_.encoder(), on_gradients);
}

double Model::loss(const ModelViews& weights, const data::MicroBatch& batch) {
  dropout_on_ = false;
  batch_.load(batch, config_.vocab);
  encode(weights, batch_.encoder());
  head(weights, nullptr);
  send_losses();
  return take_loss();
}

void Model::logits(const ModelViews& weights, const EncoderInput& input,
                   std::span<const std::int32_t> wanted, std::span<float> logits) {
  ensure(tensor_.size() == 1, "logits() needs the whole vocabulary on this rank");
  dropout_on_ = false;
  batch_.load(input, wanted);
  encode(weights, batch_.encoder());
  const auto rows = static_cast<std::int64_t>(wanted.size());
  if (rows == 0) return;
  backend_.gather_rows(head_in_.top(rows), kept_.norm(halves(), input.grid.tokens()).y,
                       batch_.head().target_row);
  head_transform(weights, head_in_.top(rows));
  TensorView out = matrix(logits.data(), rows, config_.vocab);
  if (!backend_.on_host()) {
    if (logits_.view().rows < rows) logits_ = make(DType::f32, rows, logits_columns(config_.vocab));
    out = logits_.top(rows).col_slice(0, config_.vocab);
  }
  backend_.gemm(out, head_out_.top(rows), weights.word, Transpose::b, false, weights.head_bias);
  if (backend_.on_host()) return;
  Buffer<float> host(static_cast<std::size_t>(rows * out.ld));
  backend_.download(host.data(), out.data, host.bytes());
  for (std::int64_t r = 0; r < rows; ++r)
    std::copy_n(host.data() + r * out.ld, config_.vocab, logits.data() + r * config_.vocab);
}

Dropout Model::hidden_dropout(std::int64_t half) const {
  if (!dropout_on_) return {};
  // HF's XL class, whose checkpoints we must match, has no dropout after the FFN (method, 1.2).
  if (!post() && half > 0 && half % 2 == 0) return {};
  return {config_.hidden_dropout, mix64(dropout_key_ ^ (2 * static_cast<std::uint64_t>(half) + 1))};
}

Attention Model::attention_op(const EncoderInput& input, std::int64_t layer) const {
  Attention op;
  op.heads = heads_local_;
  op.first_head = heads_local_ * tensor_.rank();
  op.head_dim = config_.head_dim();
  op.grid = input.grid;
  op.keys = input.keys;
  if (dropout_on_)
    op.dropout = {config_.attention_dropout,
                  mix64(dropout_key_ ^ (2 * static_cast<std::uint64_t>(layer) + 2))};
  return op;
}

TensorView Model::residual(std::int64_t half, std::int64_t n) {
  const NormActivations a = kept_.norm(half, n);
  return post() ? a.y : a.sum;
}

}  // namespace demist
