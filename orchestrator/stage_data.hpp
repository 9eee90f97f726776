// The micro-batches of a training stage and of its held-out set.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "data/source.hpp"
#include "orchestrator/config.hpp"

namespace demist {

struct StageData {
  std::shared_ptr<const data::Source> train;
  std::shared_ptr<const data::Source> held_out;  // absent: not measured
  std::int32_t vocab = 0;
  std::string tokenizer_hash;
  std::string data_hash;   // identity of what it trains on
  std::string noise_json;  // noise settings, for checkpoints
};

// Local, no collectives. Throws DataError and ConfigError.
StageData open_stage_data(const RunConfig& run, const TrainingStage& stage);

std::string noise_to_json(const data::Noise& noise, std::int32_t mask_id);

}  // namespace demist
