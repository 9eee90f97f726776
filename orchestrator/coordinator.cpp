// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/coordinator.hpp"

#include <utility>

#include "core/error.hpp"

namespace demist {

std::vector<std::int32_t> balanced_owners(std::int32_t micro_batches, int groups) {
  std::vector<std::int32_t> owner(static_cast<std::size_t>(micro_batches));
  for (std::int64_t i = 0; i < micro_batches; ++i)
    owner[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(i * groups / micro_batches);
  return owner;
}

ControlMessage way_back(const CoordinatorConfig& config, std::int64_t exhausted_step,
                        std::int32_t rollbacks) {
  const std::int64_t first_bad = exhausted_step - config.bad_in_a_row + 1;
  const std::int64_t every = config.save_every;
  const std::int64_t to = every > 0 && first_bad > 0 ? (first_bad - 1) / every * every : 0;
  if (to == 0 || rollbacks >= config.rollbacks)
    return Stop{Stop::Reason::not_finite, exhausted_step};
  return Rollback{to, exhausted_step + 1 - to};
}

Coordinator::Coordinator(const CoordinatorConfig& config)
    : config_(config), next_step_(config.first_step), saved_step_(config.first_step) {
  if (config_.evaluate && next_step_ == 0) pending_.emplace_back(Evaluate{0});
}

ControlMessage Coordinator::next() {
  ensure(!stopped_, "the coordinator was asked for a message after Stop");
  if (exhausted_step_ >= 0) {  // what was planned is for a state that will not come
    pending_.clear();
    pending_.push_back(after_exhaustion());
    exhausted_step_ = -1;
  }
  if (pending_.empty()) plan_next();
  ControlMessage message = std::move(pending_.front());
  pending_.pop_front();
  if (const auto* save = std::get_if<Save>(&message)) saved_step_ = save->step;
  stopped_ = std::holds_alternative<Stop>(message);
  return message;
}

ControlMessage Coordinator::after_exhaustion() {
  const ControlMessage way = way_back(config_, exhausted_step_, rollbacks_);
  if (const auto* back = std::get_if<Rollback>(&way)) next_step_ = saved_step_ = back->step;
  return way;
}

// Adds one step and what follows it, or the end.
void Coordinator::plan_next() {
  const bool last = next_step_ >= config_.total_steps;
  if (last || stop_requested_) {
    if (last && config_.evaluate) pending_.emplace_back(Evaluate{next_step_});
    if (saved_step_ < next_step_) pending_.emplace_back(Save{next_step_});
    pending_.emplace_back(Settle{});
    pending_.emplace_back(Stop{last ? Stop::Reason::done : Stop::Reason::interrupted, next_step_});
    return;
  }
  StepPlan plan{next_step_, balanced_owners(config_.micro_batches, config_.data_groups)};
  ++next_step_;
  const auto due = [&](std::int64_t every) { return every > 0 && next_step_ % every == 0; };
  plan.check = due(config_.check_every);
  pending_.emplace_back(std::move(plan));
  if (next_step_ == config_.total_steps) return;
  if (config_.evaluate && due(config_.evaluate_every)) pending_.emplace_back(Evaluate{next_step_});
  if (due(config_.save_every)) pending_.emplace_back(Save{next_step_});
}

void Coordinator::receive(std::span<const RankReport> reports) {
  for (const RankReport& report : reports) {
    stop_requested_ = stop_requested_ || report.stop_requested;
    if (report.step.exhausted) exhausted_step_ = report.step.step;
    rollbacks_ = report.step.rollbacks;
  }
}

}  // namespace demist
