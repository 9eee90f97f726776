// What the forward pass leaves for the backward pass: what is kept, and what is computed again.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor.hpp"
#include "worker/config.hpp"

namespace demist {

// Of one layer. n tokens, dl and fl this rank's share of heads and FFN. S = compute type.
struct LayerActivations {
  TensorView qkv;               // S [n, 3 dl]
  TensorView attention;         // S [n, dl]
  TensorView lse;               // fp32 [heads, n]
  TensorView ffn_pre, ffn_act;  // S [n, fl], before and after GELU
};
// After the embeddings and after each half-block: s = residual + dropout(x + bias), y = LN(s).
struct NormActivations {
  TensorView sum, y;            // S [n, d]
  std::span<float> mean, rstd;  // [n]
};

struct ActivationShape {
  std::int64_t tokens = 0, layers = 0;
  std::int64_t hidden = 0, hidden_local = 0, ffn_local = 0, heads_local = 0;
  DType compute = DType::bf16;
  bool training = true;  // false: nothing is kept for a backward pass
  Recompute recompute = Recompute::none;
};

// Buffers for layers [0, layers) and half-blocks [0, 2 layers]. Several may share one:
//
//              qkv, attention, lse, ffn_pre   ffn_act     sum                    y
//   NONE       one a layer                    a layer     a half-block           a half-block
//   GELU       one a layer                    one         a half-block           a half-block
//   LAYER      one                            one         a layer's input; one   two, in turn
//   inference  one                            one         two, in turn           two, in turn
//
// A layer's input is kept as its sum, from which y follows, for both layouts. mean and rstd stay
// for all half-blocks when training: 8 bytes a token.
class Activations {
 public:
  Activations() = default;
  Activations(const ActivationShape& shape, Memory& memory);
  static std::size_t bytes(const ActivationShape& shape);  // what the constructor allocates

  // The first n rows.
  LayerActivations layer(std::int64_t layer, std::int64_t n);
  NormActivations norm(std::int64_t half, std::int64_t n);

 private:
  struct Layer {
    Tensor qkv, attention, lse, ffn_pre;
  };
  struct Statistics {
    Buffer<float> mean, rstd;
  };
  ActivationShape shape_;
  std::vector<Layer> layers_;
  std::vector<Tensor> ffn_acts_, sums_, ys_;
  std::vector<Statistics> statistics_;
};

}  // namespace demist
