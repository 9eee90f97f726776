// The encoder's backward pass: the forward steps of encoder.cpp, reversed.
//
// Between half-blocks two gradients travel: work_a, of the normalized y that fed the next products,
// and work_b, of the residual that the next half-block added to. Post-LN's residual is y itself, so
// there both meet before the norm; pre-LN's is the sum, so there they meet after it.
// SPDX-License-Identifier: Apache-2.0
#include "worker/model/group_product.hpp"
#include "worker/model/model.hpp"

namespace demist {

// REQUIRES: work_a = d loss / d y of the last norm (set by head).
void Model::encode_backward(const ModelViews& weights, const ModelViews& grads,
                            const EncoderInput& input, const OnGradients& on_gradients) {
  for (std::int64_t layer = config_.layers - 1; layer >= 0; --layer) {
    layer_backward(weights, grads, input, layer);
    if (on_gradients) on_gradients(layer);
  }
  embed_backward(weights, grads, input);
  if (on_gradients) on_gradients(-1);
}

void Model::layer_backward(const ModelViews& weights, const ModelViews& grads,
                           const EncoderInput& input, std::int64_t layer) {
  const std::int64_t n = input.grid.tokens(), attention_half = 2 * layer + 1;
  const LayerViews& w = weights.layers[static_cast<std::size_t>(layer)];
  const LayerViews& g = grads.layers[static_cast<std::size_t>(layer)];
  const LayerActivations a = kept_.layer(layer, n);
  const TensorView dy = work_c_.top(n);  // of a half-block's last product

  compute_again(weights, input, layer);
  // 8) norm, residual, dropout
  half_block_backward(weights, grads, input, attention_half + 1, g.ffn_out_bias);
  // 7) FFN out
  const TensorView dact{work_wide_.view().data, compute_, n, ffn_local_, ffn_local_};
  backend_.gemm(g.ffn_out, dy, a.ffn_act, Transpose::a);
  backend_.gemm(dact, dy, w.ffn_out, Transpose::none);
  // 6) GELU; 5) FFN in
  backend_.bias_gelu_backward(dact, g.ffn_in_bias, dact, a.ffn_pre, w.ffn_in_bias);
  group_product(work_a_.top(n), dact, w.ffn_in, Transpose::none, [&] {
    backend_.gemm(g.ffn_in, dact, kept_.norm(attention_half, n).y, Transpose::a);
  });
  // 4) norm, residual, dropout
  half_block_backward(weights, grads, input, attention_half, g.output_bias);
  // 3) output projection
  const TensorView dattention{work_a_.view().data, compute_, n, hidden_local_, hidden_local_};
  backend_.gemm(g.output, dy, a.attention, Transpose::a);
  backend_.gemm(dattention, dy, w.output, Transpose::none);
  // 2) attention
  const TensorView dqkv{work_wide_.view().data, compute_, n, 3 * hidden_local_, 3 * hidden_local_};
  backend_.attention_backward(dqkv, dattention, a.qkv, a.attention, a.lse,
                              attention_op(input, layer));
  // 1) q, k, v
  group_product(work_a_.top(n), dqkv, w.qkv, Transpose::none, [&] {
    backend_.column_sum(g.qkv_bias, dqkv);
    backend_.gemm(g.qkv, dqkv, kept_.norm(attention_half - 1, n).y, Transpose::a);
  });
}

// Activations of `layer` that were not kept, by the operations that made them: the same bits. The
// forward pass has left those of the last layer in the shared buffers. work_c is free meanwhile.
void Model::compute_again(const ModelViews& weights, const EncoderInput& input,
                          std::int64_t layer) {
  const bool last = layer == config_.layers - 1;
  if (recompute_ == Recompute::gelu && !last) {
    const LayerActivations a = kept_.layer(layer, input.grid.tokens());
    backend_.bias_gelu_forward(a.ffn_act, a.ffn_pre,
                               weights.layers[static_cast<std::size_t>(layer)].ffn_in_bias);
  }
  if (recompute_ != Recompute::layer) return;
  normalize_again(weights, input, 2 * layer);  // the layer's output took its place
  // Steps 7 and 8 made the next layer's input, which was kept.
  if (!last) layer_to_gelu(weights, input, layer);
}

// y of half-block `half` from its sum, as half_block_end and embed made it.
void Model::normalize_again(const ModelViews& weights, const EncoderInput& input,
                            std::int64_t half) {
  const NormActivations a = kept_.norm(half, input.grid.tokens());
  const NormViews& norm = weights.norms[static_cast<std::size_t>(half)];
  backend_.add_layernorm_forward({.y = a.y,
                                  .mean = a.mean,
                                  .rstd = a.rstd,
                                  .x = a.sum,
                                  .gamma = norm.gamma,
                                  .beta = norm.beta,
                                  .epsilon = config_.norm_epsilon,
                                  .grid = input.grid});
  if (half == 0 && post() && hidden_dropout(0).active())
    backend_.dropout(a.y, hidden_dropout(0), input.grid);
}

// From (work_a, work_b) behind half-block `half`: work_c = gradient of its last product's output,
// work_b = gradient of the residual it added to.
void Model::half_block_backward(const ModelViews& weights, const ModelViews& grads,
                                const EncoderInput& input, std::int64_t half,
                                std::span<float> dbias) {
  const std::int64_t n = input.grid.tokens();
  const auto at = static_cast<std::size_t>(half);
  const NormActivations a = kept_.norm(half, n);
  const bool first = half == halves();  // nothing behind it adds to its residual
  if (post() && !first) backend_.add(work_a_.top(n), work_a_.top(n), work_b_.top(n));
  const ConstTensorView extra = post() || first ? ConstTensorView{} : work_b_.top(n);
  backend_.add_layernorm_backward({.dsum = work_b_.top(n),
                                   .dx = work_c_.top(n),
                                   .dgamma = grads.norms[at].gamma,
                                   .dbeta = grads.norms[at].beta,
                                   .dbias = dbias,
                                   .dy = work_a_.top(n),
                                   .dsum_extra = extra,
                                   .sum = a.sum,
                                   .mean = a.mean,
                                   .rstd = a.rstd,
                                   .gamma = weights.norms[at].gamma,
                                   .dropout = hidden_dropout(half),
                                   .grid = input.grid});
}

// 0) post-LN: de = LN'(dropout'(dy + dresidual));  pre-LN: de = dropout'(LN'(dy) + dresidual)
void Model::embed_backward(const ModelViews& weights, const ModelViews& grads,
                           const EncoderInput& input) {
  const std::int64_t n = input.grid.tokens();
  const NormActivations a = kept_.norm(0, n);
  const Dropout dropout = hidden_dropout(0);
  if (post()) {
    backend_.add(work_a_.top(n), work_a_.top(n), work_b_.top(n));
    if (dropout.active()) backend_.dropout(work_a_.top(n), dropout, input.grid);
  }
  backend_.add_layernorm_backward({.dsum = work_b_.top(n),
                                   .dx = work_c_.top(n),
                                   .dgamma = grads.norms[0].gamma,
                                   .dbeta = grads.norms[0].beta,
                                   .dbias = {},
                                   .dy = work_a_.top(n),
                                   .dsum_extra = post() ? ConstTensorView{} : work_b_.top(n),
                                   .sum = a.sum,
                                   .mean = a.mean,
                                   .rstd = a.rstd,
                                   .gamma = weights.norms[0].gamma,
                                   .dropout = post() ? Dropout{} : dropout,
                                   .grid = input.grid});
  backend_.embed_backward(grads.word, vocabulary_.begin, grads.position, grads.type, work_c_.top(n),
                          input.id_groups, input.position_groups, 1);
}

}  // namespace demist
