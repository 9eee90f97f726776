// The encoder's forward pass. Numbers in the comments are those of encoder_backward.cpp.
// SPDX-License-Identifier: Apache-2.0
#include "worker/model/group_product.hpp"
#include "worker/model/model.hpp"

namespace demist {

void Model::encode(const ModelViews& weights, const EncoderInput& input) {
  ensure(input.grid.tokens() <= work_a_.view().rows, "more tokens than planned");
  embed(weights, input);
  for (std::int64_t layer = 0; layer < config_.layers; ++layer)
    layer_forward(weights, input, layer);
}

// 0) post-LN: y = dropout(LN(e));  pre-LN: sum = dropout(e), y = LN(sum), e the sum of three
// tables.
void Model::embed(const ModelViews& weights, const EncoderInput& input) {
  const std::int64_t n = input.grid.tokens();
  const TensorView e = work_a_.top(n);
  if (tensor_.size() == 1) {
    backend_.embed_forward(e, input.ids, input.positions, weights.word, 0, weights.position,
                           weights.type, false);
  } else {
    const TensorView part = partial_.top(n);
    backend_.embed_forward(e, input.ids, input.positions, weights.word, vocabulary_.begin,
                           weights.position, weights.type, tensor_.rank() != 0);
    backend_.convert(part, e);
    tensor_.all_reduce_sum({part.as<float>(), static_cast<std::size_t>(part.size())});
    backend_.convert(e, part);
  }
  NormActivations& out = norm_activations(0);
  const auto count = static_cast<std::size_t>(n);
  AddLayerNorm op{.sum = out.sum.top(n),
                  .y = out.y.top(n),
                  .mean = out.mean.span().first(count),
                  .rstd = out.rstd.span().first(count),
                  .x = e,
                  .bias = {},
                  .residual = {},
                  .gamma = weights.norms[0].gamma,
                  .beta = weights.norms[0].beta,
                  .epsilon = config_.norm_epsilon,
                  .dropout = post() ? Dropout{} : hidden_dropout(0),
                  .grid = input.grid};
  backend_.add_layernorm_forward(op);
  if (post() && hidden_dropout(0).active())
    backend_.dropout(out.y.top(n), hidden_dropout(0), input.grid);
}

void Model::layer_forward(const ModelViews& weights, const EncoderInput& input,
                          std::int64_t layer) {
  const std::int64_t n = input.grid.tokens(), attention_half = 2 * layer + 1;
  const LayerViews& w = weights.layers[static_cast<std::size_t>(layer)];
  LayerActivations& a = layer_activations(layer);

  // 1) q, k, v of the normalized input, all heads in one product
  const TensorView x = norm_activations(attention_half - 1).y.top(n);
  backend_.gemm(a.qkv.top(n), x, w.qkv, Transpose::b, false, w.qkv_bias);
  // 2) attention
  backend_.attention_forward(a.attention.top(n), a.lse.view().col_slice(0, n), a.qkv.top(n),
                             attention_op(input, layer));
  // 3) output projection; 4) dropout, residual, norm
  group_product(work_a_.top(n), a.attention.top(n), w.output, Transpose::b);
  half_block_end(weights, input, attention_half, w.output_bias);
  // 5) FFN in; 6) GELU
  const TensorView h = norm_activations(attention_half).y.top(n);
  backend_.gemm(a.ffn_pre.top(n), h, w.ffn_in, Transpose::b);
  backend_.bias_gelu_forward(a.ffn_act.top(n), a.ffn_pre.top(n), w.ffn_in_bias);
  // 7) FFN out; 8) dropout, residual, norm
  group_product(work_a_.top(n), a.ffn_act.top(n), w.ffn_out, Transpose::b);
  half_block_end(weights, input, attention_half + 1, w.ffn_out_bias);
}

// 4), 8): sum = residual + dropout(work_a + bias), y = LN(sum)
void Model::half_block_end(const ModelViews& weights, const EncoderInput& input, std::int64_t half,
                           std::span<const float> bias) {
  const std::int64_t n = input.grid.tokens();
  const auto count = static_cast<std::size_t>(n);
  NormActivations& out = norm_activations(half);
  const NormViews& norm = weights.norms[static_cast<std::size_t>(half)];
  backend_.add_layernorm_forward({.sum = out.sum.top(n),
                                  .y = out.y.top(n),
                                  .mean = out.mean.span().first(count),
                                  .rstd = out.rstd.span().first(count),
                                  .x = work_a_.top(n),
                                  .bias = bias,
                                  .residual = residual(half - 1, n),
                                  .gamma = norm.gamma,
                                  .beta = norm.beta,
                                  .epsilon = config_.norm_epsilon,
                                  .dropout = hidden_dropout(half),
                                  .grid = input.grid});
}

void Model::group_product(TensorView out, ConstTensorView x, ConstTensorView weight,
                          Transpose transpose) {
  group_product(out, x, weight, transpose, [] {});
}

}  // namespace demist
