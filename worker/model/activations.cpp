// SPDX-License-Identifier: Apache-2.0
#include "worker/model/activations.hpp"

namespace demist {
namespace {

// How many buffers of each kind there are.
struct Counts {
  std::size_t layers, ffn_acts, sums, ys, statistics;

  explicit Counts(const ActivationShape& s) {
    const auto all = static_cast<std::size_t>(s.layers), halves = 2 * all + 1;
    if (!s.training) {
      layers = ffn_acts = 1;
      sums = ys = statistics = 2;
      return;
    }
    const bool whole_layer = s.recompute == Recompute::layer;
    layers = whole_layer ? 1 : all;
    ffn_acts = s.recompute == Recompute::none ? all : 1;
    sums = whole_layer ? all + 2 : halves;
    ys = whole_layer ? 2 : halves;
    statistics = halves;
  }
};

}  // namespace

Activations::Activations(const ActivationShape& shape, Memory& memory) : shape_(shape) {
  const Counts counts(shape);
  const std::int64_t n = shape.tokens;
  const auto make = [&](std::int64_t cols) { return Tensor(shape.compute, n, cols, memory); };
  for (std::size_t i = 0; i < counts.layers; ++i)
    layers_.push_back({make(3 * shape.hidden_local), make(shape.hidden_local),
                       Tensor(DType::f32, shape.heads_local, n, memory), make(shape.ffn_local)});
  for (std::size_t i = 0; i < counts.ffn_acts; ++i) ffn_acts_.push_back(make(shape.ffn_local));
  for (std::size_t i = 0; i < counts.sums; ++i) sums_.push_back(make(shape.hidden));
  for (std::size_t i = 0; i < counts.ys; ++i) ys_.push_back(make(shape.hidden));
  const auto floats = [&] { return Buffer<float>(static_cast<std::size_t>(n), memory); };
  for (std::size_t i = 0; i < counts.statistics; ++i) statistics_.push_back({floats(), floats()});
}

std::size_t Activations::bytes(const ActivationShape& s) {
  const Counts counts(s);
  const std::size_t element = size_of(s.compute), number = sizeof(float);
  const auto hidden = static_cast<std::size_t>(s.hidden),
             ffn = static_cast<std::size_t>(s.ffn_local);
  const std::size_t layer = (4 * static_cast<std::size_t>(s.hidden_local) + ffn) * element +
                            static_cast<std::size_t>(s.heads_local) * number;
  const std::size_t token = counts.layers * layer + counts.ffn_acts * ffn * element +
                            (counts.sums + counts.ys) * hidden * element +
                            counts.statistics * 2 * number;
  return static_cast<std::size_t>(s.tokens) * token;
}

LayerActivations Activations::layer(std::int64_t layer, std::int64_t n) {
  const auto index = static_cast<std::size_t>(layer);
  Layer& at = layers_[index % layers_.size()];
  return {at.qkv.top(n), at.attention.top(n), at.lse.view().col_slice(0, n), at.ffn_pre.top(n),
          ffn_acts_[index % ffn_acts_.size()].top(n)};
}

NormActivations Activations::norm(std::int64_t half, std::int64_t n) {
  const auto index = static_cast<std::size_t>(half), count = static_cast<std::size_t>(n);
  const bool inputs_only = shape_.training && shape_.recompute == Recompute::layer;
  // Even half-blocks end with the input of a layer, or of the head.
  const std::size_t odd = sums_.size() - 1;
  const std::size_t sum = !inputs_only ? index % sums_.size() : index % 2 == 0 ? index / 2 : odd;
  Statistics& at = statistics_[index % statistics_.size()];
  return {sums_[sum].top(n), ys_[index % ys_.size()].top(n), at.mean.span().first(count),
          at.rstd.span().first(count)};
}

}  // namespace demist
