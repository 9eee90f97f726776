// The checkpoints of a stage while it trains: begun at step borders, written behind its back, and
// what people and files are told of them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "orchestrator/config.hpp"
#include "worker/checkpoint/background_save.hpp"
#include "worker/trainer.hpp"

namespace demist {

// Every rank has one and calls its members in the same order.
class StageSaves {
 public:
  // `step`: of the checkpoint that the stage goes on from, or 0.
  StageSaves(const mpi::Comm& world, const RunConfig& run, const StageConfig& stage,
             std::int64_t step);

  // The held-out loss after `step` steps, for a save of that state.
  void held_out(std::int64_t step, double loss) { held_out_ = {step, loss}; }
  // Collective. Begins to save the trainer's state; first waits for the save before.
  void begin(const Trainer& trainer);
  bool in_flight() const { return save_.in_flight(); }
  void poll();    // at every step border; never waits
  void finish();  // collective; waits for the save in flight

  bool has_saved() const { return good_step_ > 0; }
  // What went wrong with the newest save that has ended, and which checkpoint stands; empty:
  // nothing.
  const std::string& problem() const { return problem_; }

 private:
  void note(const std::optional<checkpoint::SaveReport>& ended);
  void announce(const checkpoint::SaveReport& save) const;

  struct HeldOut {
    std::int64_t step = -1;
    double loss = 0;
  };

  const fs::path run_dir_;
  const std::string stage_;
  const bool speaks_;  // rank 0
  checkpoint::BackgroundSave save_;
  HeldOut held_out_;
  double stall_seconds_ = 0;  // of training, for the save in flight
  std::int64_t good_step_;    // of the newest checkpoint; 0: there is none
  std::string problem_;
  bool told_of_waiting_ = false;
};

}  // namespace demist
