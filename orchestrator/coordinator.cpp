// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/coordinator.hpp"

#include <algorithm>
#include <utility>

#include "core/error.hpp"
#include "worker/checkpoint/retention.hpp"

namespace demist {

std::vector<std::int32_t> balanced_owners(std::int32_t micro_batches, int groups) {
  return owners_of(Balancer(micro_batches, groups, 1).shares());
}

void merge(Report& report, const Report& others) {
  ensure(report.step == others.step, "reports of one step are merged");
  report.exhausted = report.exhausted || others.exhausted;
  report.rollbacks = std::max(report.rollbacks, others.rollbacks);
  report.stop_requested = report.stop_requested || others.stop_requested;
  report.control_seconds = std::max(report.control_seconds, others.control_seconds);
  report.speeds.insert(report.speeds.end(), others.speeds.begin(), others.speeds.end());
}

ControlMessage way_back(const CoordinatorConfig& config, std::int64_t exhausted_step,
                        std::int32_t rollbacks) {
  const checkpoint::WayBack way{config.bad_in_a_row, config.save_every, config.total_steps};
  const std::int64_t to = way.target(exhausted_step);
  if (to == 0 || rollbacks >= config.rollbacks)
    return Stop{Stop::Reason::not_finite, exhausted_step};
  return Rollback{to, exhausted_step + 1 - to};
}

Coordinator::Coordinator(const CoordinatorConfig& config)
    : config_(config),
      balancer_(config.micro_batches, config.data_groups, config.ranks_per_group),
      next_step_(config.first_step),
      saved_step_(config.first_step) {
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
  StepPlan plan{next_step_, owners_of(balancer_.next())};
  if (balancer_.has_changed()) rebalance_ = {next_step_, balancer_.shares(), balancer_.seconds()};
  ++next_step_;
  const auto due = [&](std::int64_t every) { return every > 0 && next_step_ % every == 0; };
  plan.check = due(config_.check_every);
  pending_.emplace_back(std::move(plan));
  if (next_step_ == config_.total_steps) return;
  if (config_.evaluate && due(config_.evaluate_every)) pending_.emplace_back(Evaluate{next_step_});
  if (due(config_.save_every)) pending_.emplace_back(Save{next_step_});
}

void Coordinator::receive(const Report& report) {
  stop_requested_ = stop_requested_ || report.stop_requested;
  if (report.exhausted) exhausted_step_ = report.step;
  rollbacks_ = report.rollbacks;
  if (!config_.balance) return;
  for (const Report::Speed& speed : report.speeds) balancer_.hear(speed.rank, speed.seconds);
}

}  // namespace demist
