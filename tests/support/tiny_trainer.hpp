// The smallest model that the trainer's tests share.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "worker/trainer.hpp"

namespace demist::test {

inline constexpr std::int32_t kTinyVocab = 61;  // odd: the last tensor-parallel part is padded

inline TrainerConfig tiny_trainer() {
  TrainerConfig config;
  config.stage = "test";
  config.model.layers = 1;
  config.model.hidden = 32;
  config.model.ffn = 64;
  config.model.heads = 2;
  config.model.vocab = kTinyVocab;
  config.model.positions = 40;
  config.optimizer.schedule = {ScheduleKind::constant, 1e-3, 0, 0, 20};
  config.compute = DType::f32;
  config.recipe_hash = "recipe";
  config.tokenizer_hash = "tokenizer";
  config.data_hash = "data";
  config.noise_json = "{}";
  return config;
}

}  // namespace demist::test
