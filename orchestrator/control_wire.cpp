// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/control_wire.hpp"

#include <algorithm>
#include <cmath>

#include "core/error.hpp"
#include "orchestrator/balance.hpp"
#include "orchestrator/control.pb.h"

namespace demist {
namespace {

constexpr const char* kDamaged =
    "a control message of rank 0 is damaged; do all ranks run one binary?";
// Of groups, and of micro-batches: more than any run has, and no message may ask for all memory.
constexpr std::int64_t kMost = 1 << 20;

// Groups in a row that have as many micro-batches are one run: (micro-batches, groups).
void encode_owners(std::span<const std::int32_t> owner, control::StepPlan& plan) {
  ensure(std::ranges::is_sorted(owner), "micro-batches go to groups in order");
  std::int32_t runs_of = -1, groups = 0;
  const auto end_run = [&] {
    if (groups == 0) return;
    plan.add_run(runs_of);
    plan.add_run(groups);
    groups = 0;
  };
  std::size_t at = 0;
  for (std::int32_t group = 0; at < owner.size(); ++group) {
    std::int32_t share = 0;
    for (; at < owner.size() && owner[at] == group; ++at) ++share;
    if (share != runs_of) end_run();
    runs_of = share;
    ++groups;
  }
  end_run();
}

std::vector<std::int32_t> decode_owners(const control::StepPlan& plan) {
  std::vector<std::int32_t> shares;
  std::int64_t groups = 0, micro_batches = 0;
  if (plan.run_size() % 2 != 0) throw EnvironmentError(kDamaged);
  for (int i = 0; i < plan.run_size(); i += 2) {
    groups += plan.run(i + 1);
    micro_batches += std::int64_t{plan.run(i)} * plan.run(i + 1);
    if (plan.run(i) < 0 || plan.run(i + 1) < 1 || groups > kMost || micro_batches > kMost)
      throw EnvironmentError(kDamaged);
    shares.insert(shares.end(), static_cast<std::size_t>(plan.run(i + 1)), plan.run(i));
  }
  return owners_of(shares);
}

Stop::Reason reason_of(const control::Stop& stop) {
  if (stop.reason() < 0 || stop.reason() > static_cast<int>(Stop::Reason::not_finite))
    throw EnvironmentError(kDamaged);
  return static_cast<Stop::Reason>(stop.reason());
}

}  // namespace

std::string encode(const ControlMessage& message, std::span<const std::int32_t> owner_before) {
  control::ControlMessage wire;
  if (const auto* plan = std::get_if<StepPlan>(&message)) {
    wire.mutable_step()->set_step(plan->step);
    if (!std::ranges::equal(plan->owner, owner_before))
      encode_owners(plan->owner, *wire.mutable_step());
    wire.mutable_step()->set_check(plan->check);
  } else if (const auto* save = std::get_if<Save>(&message)) {
    wire.mutable_save()->set_step(save->step);
  } else if (const auto* evaluate = std::get_if<Evaluate>(&message)) {
    wire.mutable_evaluate()->set_step(evaluate->step);
  } else if (const auto* rollback = std::get_if<Rollback>(&message)) {
    wire.mutable_rollback()->set_step(rollback->step);
    wire.mutable_rollback()->set_data_steps(rollback->data_steps);
  } else if (std::holds_alternative<Settle>(message)) {
    wire.mutable_settle();
  } else {
    const Stop& stop = std::get<Stop>(message);
    wire.mutable_stop()->set_reason(static_cast<control::Stop::Reason>(stop.reason));
    wire.mutable_stop()->set_step(stop.step);
  }
  return wire.SerializeAsString();
}

ControlMessage decode_message(const std::string& bytes,
                              std::span<const std::int32_t> owner_before) {
  control::ControlMessage wire;
  if (!wire.ParseFromString(bytes)) throw EnvironmentError(kDamaged);
  switch (wire.kind_case()) {
    case control::ControlMessage::kStep:
      return StepPlan{wire.step().step(),
                      wire.step().run_size() > 0
                          ? decode_owners(wire.step())
                          : std::vector<std::int32_t>(owner_before.begin(), owner_before.end()),
                      wire.step().check()};
    case control::ControlMessage::kSave:
      return Save{wire.save().step()};
    case control::ControlMessage::kEvaluate:
      return Evaluate{wire.evaluate().step()};
    case control::ControlMessage::kStop:
      return Stop{reason_of(wire.stop()), wire.stop().step()};
    case control::ControlMessage::kRollback:
      return Rollback{wire.rollback().step(), wire.rollback().data_steps()};
    case control::ControlMessage::kSettle:
      return Settle{};
    default:
      throw EnvironmentError(
          "rank 0 sent a control message of unknown kind; do all ranks run one "
          "binary?");
  }
}

std::string encode(const Report& report) {
  control::Report wire;
  wire.set_step(report.step);
  wire.set_stop_requested(report.stop_requested);
  wire.set_exhausted(report.exhausted);
  wire.set_rollbacks(report.rollbacks);
  wire.set_control_seconds(report.control_seconds);
  for (const Report::Speed& speed : report.speeds) {
    wire.add_rank(speed.rank);
    wire.add_seconds(speed.seconds);
  }
  return wire.SerializeAsString();
}

Report decode_report(const std::string& bytes) {
  control::Report wire;
  const auto ordinary = [](float seconds) { return seconds >= 0 && std::isfinite(seconds); };
  if (!wire.ParseFromString(bytes) || wire.rank_size() != wire.seconds_size() ||
      !std::ranges::all_of(wire.rank(), [](std::int32_t rank) { return rank >= 0; }) ||
      !std::ranges::all_of(wire.seconds(), ordinary) || !ordinary(wire.control_seconds()))
    throw EnvironmentError("a report of other ranks is damaged; do all ranks run one binary?");
  Report report;
  report.step = wire.step();
  report.stop_requested = wire.stop_requested();
  report.exhausted = wire.exhausted();
  report.rollbacks = wire.rollbacks();
  report.control_seconds = wire.control_seconds();
  for (int i = 0; i < wire.rank_size(); ++i)
    report.speeds.push_back({wire.rank(i), wire.seconds(i)});
  return report;
}

}  // namespace demist
