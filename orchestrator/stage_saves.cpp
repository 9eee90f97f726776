// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/stage_saves.hpp"

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/log.hpp"
#include "orchestrator/events.hpp"
#include "orchestrator/progress.hpp"

namespace demist {

StageSaves::StageSaves(const mpi::Comm& world, const RunConfig& run, const StageConfig& stage,
                       std::int64_t step)
    : run_dir_(run.run_dir),
      stage_(stage.name),
      speaks_(world.rank() == 0),
      save_(world, stage.checkpoints(), retention_of(run, stage)),
      good_step_(step) {}

void StageSaves::begin(const Trainer& trainer) {
  const double start = steady_seconds();
  if (save_.in_flight() && !told_of_waiting_) {
    log::info("stage " + stage_ + ", step " + std::to_string(trainer.step()) +
              ": the checkpoint before this one is still being written, so training waits; with a "
              "larger checkpoint.every_steps it would not");
    told_of_waiting_ = true;
  }
  finish();
  std::optional<double> loss;
  if (held_out_.step == trainer.step() && std::isfinite(held_out_.loss)) loss = held_out_.loss;
  trainer.begin_save(save_, loss);
  stall_seconds_ = steady_seconds() - start;
}

void StageSaves::poll() { note(save_.poll()); }
void StageSaves::finish() { note(save_.finish()); }

void StageSaves::note(const std::optional<checkpoint::SaveReport>& ended) {
  if (!ended) return;
  problem_.clear();
  if (ended->outcome.code == ExitCode::done)
    good_step_ = ended->step;
  else
    problem_ =
        ended->outcome.message + " (" +
        (good_step_ == 0 ? "there is no checkpoint yet"
                         : "the newest checkpoint is of step " + std::to_string(good_step_)) +
        ")";
  if (speaks_) announce(*ended);
}

void StageSaves::announce(const checkpoint::SaveReport& save) const {
  nlohmann::ordered_json fields{{"stage", stage_}, {"step", save.step}};
  if (problem_.empty()) {
    fields["bytes"] = save.bytes;
    fields["seconds"] = save.seconds;
    fields["stall_seconds"] = stall_seconds_;
    append_event(run_dir_, "checkpoint", fields);
    return;
  }
  fields["problem"] = problem_;
  append_event(run_dir_, "checkpoint_failed", fields);
  log::warning("stage " + stage_ + ": the state of step " + std::to_string(save.step) +
               " could not be saved: " + problem_);
}

}  // namespace demist
