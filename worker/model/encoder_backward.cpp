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
  LayerActivations& a = layer_activations(layer);
  const TensorView dy = work_c_.top(n);  // of a half-block's last product

  // 8) norm, residual, dropout
  half_block_backward(weights, grads, input, attention_half + 1, g.ffn_out_bias);
  // 7) FFN out
  const TensorView dact{work_wide_.view().data, compute_, n, ffn_local_, ffn_local_};
  backend_.gemm(g.ffn_out, dy, a.ffn_act.top(n), Transpose::a);
  backend_.gemm(dact, dy, w.ffn_out, Transpose::none);
  // 6) GELU; 5) FFN in
  backend_.bias_gelu_backward(dact, g.ffn_in_bias, dact, a.ffn_pre.top(n), w.ffn_in_bias);
  group_product(work_a_.top(n), dact, w.ffn_in, Transpose::none, [&] {
    backend_.gemm(g.ffn_in, dact, norm_activations(attention_half).y.top(n), Transpose::a);
  });
  // 4) norm, residual, dropout
  half_block_backward(weights, grads, input, attention_half, g.output_bias);
  // 3) output projection
  const TensorView dattention{work_a_.view().data, compute_, n, hidden_local_, hidden_local_};
  backend_.gemm(g.output, dy, a.attention.top(n), Transpose::a);
  backend_.gemm(dattention, dy, w.output, Transpose::none);
  // 2) attention
  const TensorView dqkv{work_wide_.view().data, compute_, n, 3 * hidden_local_, 3 * hidden_local_};
  backend_.attention_backward(dqkv, dattention, a.qkv.top(n), a.attention.top(n),
                              a.lse.view().col_slice(0, n), attention_op(input, layer));
  // 1) q, k, v
  group_product(work_a_.top(n), dqkv, w.qkv, Transpose::none, [&] {
    backend_.column_sum(g.qkv_bias, dqkv);
    backend_.gemm(g.qkv, dqkv, norm_activations(attention_half - 1).y.top(n), Transpose::a);
  });
}

// From (work_a, work_b) behind half-block `half`: work_c = gradient of its last product's output,
// work_b = gradient of the residual it added to.
void Model::half_block_backward(const ModelViews& weights, const ModelViews& grads,
                                const EncoderInput& input, std::int64_t half,
                                std::span<float> dbias) {
  const std::int64_t n = input.grid.tokens();
  const auto count = static_cast<std::size_t>(n);
  const auto at = static_cast<std::size_t>(half);
  NormActivations& a = norm_activations(half);
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
                                   .sum = a.sum.top(n),
                                   .mean = a.mean.span().first(count),
                                   .rstd = a.rstd.span().first(count),
                                   .gamma = weights.norms[at].gamma,
                                   .dropout = hidden_dropout(half),
                                   .grid = input.grid});
}

// 0) post-LN: de = LN'(dropout'(dy + dresidual));  pre-LN: de = dropout'(LN'(dy) + dresidual)
void Model::embed_backward(const ModelViews& weights, const ModelViews& grads,
                           const EncoderInput& input) {
  const std::int64_t n = input.grid.tokens();
  const auto count = static_cast<std::size_t>(n);
  NormActivations& a = norm_activations(0);
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
                                   .sum = a.sum.top(n),
                                   .mean = a.mean.span().first(count),
                                   .rstd = a.rstd.span().first(count),
                                   .gamma = weights.norms[0].gamma,
                                   .dropout = post() ? Dropout{} : dropout,
                                   .grid = input.grid});
  backend_.embed_backward(grads.word, vocabulary_.begin, grads.position, grads.type, work_c_.top(n),
                          input.id_groups, input.position_groups, 1);
}

}  // namespace demist
