// Whether a failed attempt at a stage is followed by another one, when, and with how many ranks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>

#include "orchestrator/config.hpp"

namespace demist {

// True for what another attempt may mend: ranks that died or hung, machines that failed. False for
// usage, data, checkpoint and numeric errors and bugs, which would only come again. `code`: of the
// first rank that failed, or of the launcher when none left a reason.
bool may_be_restarted(int code);

// Pure: the same failures lead to the same decisions.
class RestartPolicy {
 public:
  // `ranks` share one copy of the model by `tensor`. `step`, `newest`: as of after_failure(),
  // before the first attempt.
  RestartPolicy(const RecoveryConfig& recovery, int ranks, int tensor, std::int64_t step,
                std::string newest)
      : recovery_(recovery),
        ranks_(ranks),
        tensor_(tensor),
        best_step_(step),
        newest_(std::move(newest)) {}

  struct Decision {
    bool again = false;
    double delay_seconds = 0;
    int ranks = 0;
  };
  // `step`: finished steps that this attempt reached. `newest`: the name of the newest checkpoint,
  // empty when there is none; another one than before is progress even where steps are done that
  // were done before (after --redo, or a rollback).
  Decision after_failure(std::int64_t step, const std::string& newest);
  int ranks() const { return ranks_; }

 private:
  RecoveryConfig recovery_;
  int ranks_, tensor_;
  std::int64_t best_step_;
  std::string newest_;
  int in_vain_ = 0;  // attempts in a row that made no progress
};

// As `checkpoints/LATEST` of the stage's folder says: good enough to tell one from another.
std::string newest_checkpoint(const std::filesystem::path& stage_folder);
// Finished steps of the stage by the last lines of metrics.jsonl; 0 when there are none.
std::int64_t last_step(const std::filesystem::path& run_dir, const std::string& stage);

}  // namespace demist
