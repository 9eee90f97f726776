// Which steps are not applied: a pure function of the recipe and of the steps before.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <string>

namespace demist {

// corrupt: ranks that compute it do not agree on its gradient (worker/self_check.hpp).
enum class StepVerdict : std::uint8_t { good, not_finite, loss_spike, norm_spike, corrupt };
const char* name_of(StepVerdict verdict);

struct GuardConfig {
  std::int32_t bad_in_a_row = 3;  // steps that may be skipped one after another, this many are too
                                  // many; at least 1
  std::int32_t window = 128;      // applied steps whose medians a step is held against
  double loss_spike = 0;          // a spike: a loss above so many medians; 0: none is
  double norm_spike = 0;          // the same of gradient norms
};

// Loss and norm are equal on all ranks, so every rank comes to the same verdict by itself.
class StepGuard {
 public:
  explicit StepGuard(const GuardConfig& config) : config_(config) {}

  // A spike needs a full window.
  StepVerdict judge(double loss, double grad_norm) const;
  void record(StepVerdict verdict, double loss, double grad_norm);
  // The last steps were bad, and one more may not be: the state before them is to be gone back to.
  bool exhausted() const { return in_a_row_ >= config_.bad_in_a_row; }

  std::string state() const;                // JSON, for checkpoints
  void set_state(const std::string& text);  // throws CheckpointError

 private:
  GuardConfig config_;
  std::deque<double> losses_, norms_;  // of the last applied steps, newest last
  std::int32_t in_a_row_ = 0;
};

}  // namespace demist
