// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/stage_trainer.hpp"

#include "orchestrator/stage_output.hpp"
#include "worker/checkpoint/checkpoint.hpp"

namespace demist {

TrainerConfig trainer_config(const RunConfig& run, const StageConfig& stage,
                             const StageData& data) {
  const auto& work = std::get<TrainingStage>(stage.work);
  TrainerConfig config;
  config.stage = stage.name;
  config.model = run.model;
  config.model.vocab = data.vocab;
  config.model.hidden_dropout = work.hidden_dropout;
  config.model.attention_dropout = work.attention_dropout;
  config.optimizer = work.optimizer;
  config.guard = work.guard;
  config.reduction = run.reduction;
  config.compute = run.compute;
  config.seed = run.seed;
  config.tensor_parallel = run.tensor_parallel;
  config.recompute = run.recompute;
  config.recipe_hash = stage.hash;
  config.tokenizer_hash = data.tokenizer_hash;
  config.data_hash = data.data_hash;
  config.noise_json = data.noise_json;
  return config;
}

void load_beginning(const mpi::Comm& world, const RunConfig& run, const StageConfig& stage,
                    Trainer& trainer) {
  const auto& work = std::get<TrainingStage>(stage.work);
  if (work.start_from.empty()) return trainer.initialize();
  const fs::path start = final_checkpoint(world, run.stage(work.start_from));
  std::optional<checkpoint::Checkpoint> opened;
  mpi::together_alike(world, "open checkpoint", [&] { opened.emplace(start); });
  trainer.load_model(*opened);
}

}  // namespace demist
