// SPDX-License-Identifier: Apache-2.0
#include "worker/config.hpp"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "core/error.hpp"

namespace demist {

std::string to_json(const ModelConfig& c) {
  return nlohmann::json{{"layers", c.layers},
                        {"hidden", c.hidden},
                        {"ffn", c.ffn},
                        {"heads", c.heads},
                        {"vocab", c.vocab},
                        {"positions", c.positions},
                        {"norm", c.norm == NormPlacement::post ? "post" : "pre"},
                        {"norm_epsilon", c.norm_epsilon},
                        {"hidden_dropout", c.hidden_dropout},
                        {"attention_dropout", c.attention_dropout}}
      .dump();
}

ModelConfig model_config_from_json(const std::string& text) {
  try {
    const auto json = nlohmann::json::parse(text);
    ModelConfig c;
    c.layers = json.at("layers");
    c.hidden = json.at("hidden");
    c.ffn = json.at("ffn");
    c.heads = json.at("heads");
    c.vocab = json.at("vocab");
    c.positions = json.at("positions");
    c.norm = json.at("norm") == "post" ? NormPlacement::post : NormPlacement::pre;
    c.norm_epsilon = json.at("norm_epsilon");
    c.hidden_dropout = json.at("hidden_dropout");
    c.attention_dropout = json.at("attention_dropout");
    return c;
  } catch (const nlohmann::json::exception& error) {
    throw CheckpointError(std::string("model description is damaged: ") + error.what());
  }
}

double lr_at(const ScheduleConfig& s, std::int64_t step) {
  const auto t = static_cast<double>(step + 1), warmup = static_cast<double>(s.warmup_steps);
  if (t < warmup) return s.peak * t / warmup;
  const double span = std::max(1.0, static_cast<double>(s.total_steps) - warmup);
  const double progress = std::clamp((t - warmup) / span, 0.0, 1.0);
  switch (s.kind) {
    case ScheduleKind::linear:
      return s.peak * (1 - (1 - s.final_fraction) * progress);
    case ScheduleKind::cosine:
      return s.peak * (s.final_fraction +
                       (1 - s.final_fraction) * 0.5 * (1 + std::cos(std::numbers::pi * progress)));
    case ScheduleKind::constant:
      return s.peak;
    case ScheduleKind::inverse_sqrt:
      return s.peak * std::sqrt(std::max(1.0, warmup) / std::max(1.0, t));
  }
  throw InternalError("unknown schedule");
}

}  // namespace demist
