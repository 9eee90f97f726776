// Validated settings of a stage, as the worker uses them. Made once from a recipe; never changed.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "core/tensor.hpp"

namespace demist {

enum class NormPlacement { post, pre };  // XLM-R base/large; XL/XXL

// XLM-R encoder with a tied LM head (method, section 1).
struct ModelConfig {
  std::int64_t layers = 0;
  std::int64_t hidden = 0;
  std::int64_t ffn = 0;
  std::int64_t heads = 0;
  std::int64_t vocab = 0;
  std::int64_t positions = 514;  // rows of the position table = longest sequence + 2
  NormPlacement norm = NormPlacement::post;
  float norm_epsilon = 1e-5f;
  float hidden_dropout = 0.1f;
  float attention_dropout = 0.1f;
  float init_stddev = 0.02f;  // of every matrix: N(0, init_stddev)
  std::int64_t head_dim() const { return hidden / heads; }
};
std::string to_json(const ModelConfig& config);
ModelConfig model_config_from_json(const std::string& json);  // throws CheckpointError

enum class ScheduleKind { linear, cosine, constant, inverse_sqrt };
// Learning rate as a pure function of the step (0-based: lr_at(0) is the first update's).
struct ScheduleConfig {
  ScheduleKind kind = ScheduleKind::linear;
  double peak = 1e-4;
  double final_fraction = 0;      // of peak, at the last step (linear, cosine)
  std::int64_t warmup_steps = 0;  // linear from 0
  std::int64_t total_steps = 1;
};
double lr_at(const ScheduleConfig& schedule, std::int64_t step);

struct OptimizerConfig {
  ScheduleConfig schedule;
  double beta1 = 0.9, beta2 = 0.98, epsilon = 1e-8;
  double weight_decay = 0.01;  // matrices only: no bias, no LayerNorm
  double clip_norm = 1.0;      // global gradient norm; 0: off
};

enum class Reduction { exact, fast };

// Which activations the backward pass computes again rather than keeping them. The bits of the
// result are the same: dropout is a function of its place.
enum class Recompute {
  none,
  gelu,   // the FFN's activation, from what went into it
  layer,  // all of a layer but the sum that went into it
};

}  // namespace demist
