// What every rank does next: pure decisions from the plan of a stage and the ranks' reports.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <variant>
#include <vector>

#include "worker/trainer.hpp"

namespace demist {

struct Save {
  std::int64_t step = 0;  // finished steps
};
struct Evaluate {
  std::int64_t step = 0;  // finished steps
};
struct Stop {
  enum class Reason { done, interrupted, not_finite };
  Reason reason = Reason::done;
  std::int64_t step = 0;
};
// Too many bad steps in a row: go back to the checkpoint after `step` finished steps, and leave the
// next `data_steps` steps' worth of data out.
struct Rollback {
  std::int64_t step = 0;
  std::int64_t data_steps = 0;
};
// Complete the reports under way: before Stop, so that the last step's is heard.
struct Settle {};
using ControlMessage = std::variant<StepPlan, Save, Evaluate, Stop, Rollback, Settle>;

// A step as one rank saw it.
struct RankReport {
  StepReport step;
  bool stop_requested = false;
};

struct CoordinatorConfig {
  std::int64_t first_step = 0;  // finished steps of the state that was loaded
  std::int64_t total_steps = 0;
  std::int32_t micro_batches = 1;
  int data_groups = 1;
  std::int64_t save_every = 0;      // 0: at the end only
  bool evaluate = false;            // before the first step and after the last
  std::int64_t evaluate_every = 0;  // and every so many steps
  std::int32_t bad_in_a_row = 1;    // steps, that exhaust
  std::int32_t rollbacks = 0;       // of a stage; then not_finite
  std::int64_t check_every = 0;     // every so many steps one is computed on other ranks too
};

// After one bad step in a row too many, of a state that has gone back `rollbacks` times: Rollback
// to the newest of the regular checkpoints that was saved before the step before the first bad one,
// a pure function of the steps, whatever was saved besides; or Stop, with nothing saved.
ControlMessage way_back(const CoordinatorConfig& config, std::int64_t exhausted_step,
                        std::int32_t rollbacks);

class Coordinator {
 public:
  explicit Coordinator(const CoordinatorConfig& config);

  // The next message. After a Stop there is none: REQUIRES !stopped().
  ControlMessage next();
  bool stopped() const { return stopped_; }

  // The reports of all ranks on one step, in rank order.
  void receive(std::span<const RankReport> reports);

 private:
  void plan_next();
  ControlMessage after_exhaustion();

  CoordinatorConfig config_;
  std::int64_t next_step_;
  std::int64_t saved_step_;  // of the newest checkpoint
  std::deque<ControlMessage> pending_;
  bool stop_requested_ = false;
  std::int64_t exhausted_step_ = -1;  // -1: none
  std::int32_t rollbacks_ = 0;
  bool stopped_ = false;
};

// Micro-batch i's group: contiguous runs whose lengths differ by at most one.
std::vector<std::int32_t> balanced_owners(std::int32_t micro_batches, int groups);

}  // namespace demist
