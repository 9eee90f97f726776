// The encoder's forward pass. Numbers in the comments are those of encoder_backward.cpp.
// SPDX-License-Identifier: Apache-2.0
#include "worker/model/group_product.hpp"
#include "worker/model/model.hpp"

namespace demist {

void Model::encode(const ModelViews& weights, const EncoderInput& input) {
  ensure(input.grid.tokens() <= work_c_.view().rows, "more tokens than planned");
  embed(weights, input);
  for (std::int64_t layer = 0; layer < config_.layers; ++layer)
    layer_forward(weights, input, layer);
}

// 0) post-LN: y = dropout(LN(e));  pre-LN: sum = dropout(e), y = LN(sum), e the sum of three
// tables.
void Model::embed(const ModelViews& weights, const EncoderInput& input) {
  const std::int64_t n = input.grid.tokens();
  const TensorView e = work_c_.top(n);
  if (tensor_.size() == 1) {
    backend_.embed_forward(e, input.ids, input.positions, weights.word, 0, weights.position,
                           weights.type, false);
  } else {
    const TensorView part = partial_.top(n);
    backend_.embed_forward(e, input.ids, input.positions, weights.word, vocabulary_.begin,
                           weights.position, weights.type, tensor_.rank() != 0);
    backend_.convert(part, e);
    tensor_.all_reduce_sum(e, {part.as<float>(), static_cast<std::size_t>(part.size())});
  }
  const NormActivations out = kept_.norm(0, n);
  AddLayerNorm op{.sum = out.sum,
                  .y = out.y,
                  .mean = out.mean,
                  .rstd = out.rstd,
                  .x = e,
                  .bias = {},
                  .residual = {},
                  .gamma = weights.norms[0].gamma,
                  .beta = weights.norms[0].beta,
                  .epsilon = config_.norm_epsilon,
                  .dropout = post() ? Dropout{} : hidden_dropout(0),
                  .grid = input.grid};
  backend_.add_layernorm_forward(op);
  if (post() && hidden_dropout(0).active()) backend_.dropout(out.y, hidden_dropout(0), input.grid);
}

void Model::layer_forward(const ModelViews& weights, const EncoderInput& input,
                          std::int64_t layer) {
  const std::int64_t n = input.grid.tokens();
  const LayerViews& w = weights.layers[static_cast<std::size_t>(layer)];
  layer_to_gelu(weights, input, layer);
  // 7) FFN out; 8) dropout, residual, norm
  group_product(work_c_.top(n), kept_.layer(layer, n).ffn_act, w.ffn_out, Transpose::b);
  half_block_end(weights, input, 2 * layer + 2, w.ffn_out_bias);
}

// What the backward pass needs of a layer, given y and sum of the half-block before it.
void Model::layer_to_gelu(const ModelViews& weights, const EncoderInput& input,
                          std::int64_t layer) {
  const std::int64_t n = input.grid.tokens(), attention_half = 2 * layer + 1;
  const LayerViews& w = weights.layers[static_cast<std::size_t>(layer)];
  const LayerActivations a = kept_.layer(layer, n);

  // 1) q, k, v of the normalized input, all heads in one product
  backend_.gemm(a.qkv, kept_.norm(attention_half - 1, n).y, w.qkv, Transpose::b, false, w.qkv_bias);
  // 2) attention
  backend_.attention_forward(a.attention, a.lse, a.qkv, attention_op(input, layer));
  // 3) output projection; 4) dropout, residual, norm
  group_product(work_c_.top(n), a.attention, w.output, Transpose::b);
  half_block_end(weights, input, attention_half, w.output_bias);
  // 5) FFN in; 6) GELU
  backend_.gemm(a.ffn_pre, kept_.norm(attention_half, n).y, w.ffn_in, Transpose::b);
  backend_.bias_gelu_forward(a.ffn_act, a.ffn_pre, w.ffn_in_bias);
}

// 4), 8): sum = residual + dropout(work_c + bias), y = LN(sum)
void Model::half_block_end(const ModelViews& weights, const EncoderInput& input, std::int64_t half,
                           std::span<const float> bias) {
  const std::int64_t n = input.grid.tokens();
  const NormActivations out = kept_.norm(half, n);
  const NormViews& norm = weights.norms[static_cast<std::size_t>(half)];
  backend_.add_layernorm_forward({.sum = out.sum,
                                  .y = out.y,
                                  .mean = out.mean,
                                  .rstd = out.rstd,
                                  .x = work_c_.top(n),
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
