// What every rank does next: pure decisions from the plan of a stage and the ranks' reports.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "orchestrator/balance.hpp"
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

// A step as one rank saw it, or several together.
struct Report {
  struct Speed {
    int rank = 0;
    float seconds = 0;  // that a micro-batch takes it
  };
  std::int64_t step = 0;
  bool exhausted = false;      // it was one bad step in a row too many; equal on all ranks
  std::int32_t rollbacks = 0;  // of the state's history; equal on all ranks
  bool stop_requested = false;
  float control_seconds = 0;  // since the report before, of the rank that spent most on control
  std::vector<Speed> speeds;  // of those for whom it has changed (SpeedMeter)
};
// Adds what other ranks say of the same step. REQUIRES: one step.
void merge(Report& report, const Report& others);

struct CoordinatorConfig {
  std::int64_t first_step = 0;  // finished steps of the state that was loaded
  std::int64_t total_steps = 0;
  std::int32_t micro_batches = 1;
  int data_groups = 1;
  int ranks_per_group = 1;
  bool balance = false;             // share micro-batches out by speed; needs Reduction::exact
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

// From step `step` on groups have other shares of the micro-batches.
struct Rebalance {
  std::int64_t step = 0;
  std::vector<std::int32_t> shares;  // of each group
  std::vector<double> seconds;       // that a micro-batch takes it
};

class Coordinator {
 public:
  explicit Coordinator(const CoordinatorConfig& config);

  // The next message. After a Stop there is none: REQUIRES !stopped().
  ControlMessage next();
  bool stopped() const { return stopped_; }

  // What all ranks together say of one step.
  void receive(const Report& report);
  // Set once by the first message that shares micro-batches out anew.
  std::optional<Rebalance> take_rebalance() { return std::exchange(rebalance_, std::nullopt); }

 private:
  void plan_next();
  ControlMessage after_exhaustion();

  CoordinatorConfig config_;
  Balancer balancer_;
  std::optional<Rebalance> rebalance_;
  std::int64_t next_step_;
  std::int64_t saved_step_;  // of the newest checkpoint
  std::deque<ControlMessage> pending_;
  bool stop_requested_ = false;
  std::int64_t exhausted_step_ = -1;  // -1: none
  std::int32_t rollbacks_ = 0;
  bool stopped_ = false;
};

// Micro-batch i's group when all groups are alike: runs whose lengths differ by at most one.
std::vector<std::int32_t> balanced_owners(std::int32_t micro_batches, int groups);

}  // namespace demist
