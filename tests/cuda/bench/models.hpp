// The shapes that are measured.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <string>

#include "core/error.hpp"
#include "worker/trainer.hpp"

namespace demist::bench {

struct NamedModel {
  const char* name;
  std::int64_t layers, hidden, heads, vocab;
  NormPlacement norm;
};
// XLM-R (Conneau et al. 2020; Goyal et al. 2021), and one for the emulated device: a head of 64
// takes the fused attention.
inline constexpr std::array kModels{
    NamedModel{"base", 12, 768, 12, 250002, NormPlacement::post},
    NamedModel{"large", 24, 1024, 16, 250002, NormPlacement::post},
    NamedModel{"xl", 36, 2560, 32, 250002, NormPlacement::pre},
    NamedModel{"xxl", 48, 4096, 32, 250002, NormPlacement::pre},
    NamedModel{"tiny", 2, 64, 1, 211, NormPlacement::post},
};

inline const NamedModel& model_named(const std::string& name) {
  for (const NamedModel& model : kModels)
    if (name == model.name) return model;
  throw ConfigError("no model is called " + name + "; there are base, large, xl, xxl, tiny");
}

inline TrainerConfig trainer_config(const NamedModel& model, std::int64_t layers) {
  TrainerConfig config;
  config.stage = "bench";
  config.model.layers = layers;
  config.model.hidden = model.hidden;
  config.model.ffn = 4 * model.hidden;
  config.model.heads = model.heads;
  config.model.vocab = model.vocab;
  config.model.norm = model.norm;
  config.compute = DType::bf16;
  config.optimizer.schedule.kind = ScheduleKind::constant;
  return config;
}

}  // namespace demist::bench
