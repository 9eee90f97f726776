// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/control_channel.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "core/mpi_handle.hpp"
#include "orchestrator/control.pb.h"

namespace demist {
namespace {

// A frame is a length and the first bytes of a message; the rest of a longer one follows.
struct Frame {
  static constexpr std::size_t kBytes = 4096;
  std::uint64_t length = 0;
  std::array<char, kBytes - sizeof(std::uint64_t)> head{};
};
static_assert(sizeof(Frame) == Frame::kBytes);

struct ReportFrame {  // a report is a few numbers: it always fits
  static constexpr std::size_t kBytes = 256;
  std::uint64_t length = 0;
  std::array<char, kBytes - sizeof(std::uint64_t)> bytes{};
};
static_assert(sizeof(ReportFrame) == ReportFrame::kBytes);

int count_of(std::size_t bytes) { return static_cast<int>(bytes); }

// What no rank of this binary sends.
void require(bool known, const char* what) {
  if (!known) throw EnvironmentError(std::string(what) + "; do all ranks run one binary?");
}

// `number` as a value of Enum, whose last one is `last`.
template <class Enum>
Enum enum_from(std::int32_t number, Enum last, const char* what) {
  require(number >= 0 && number <= static_cast<std::int32_t>(last), what);
  return static_cast<Enum>(number);
}

StepPlan plan_from(const control::StepPlan& wire) {
  StepPlan plan{wire.step(), {wire.owner().begin(), wire.owner().end()}, wire.check()};
  require(std::ranges::all_of(plan.owner, [](std::int32_t group) { return group >= 0; }),
          "rank 0 planned a step with an impossible owner");
  return plan;
}

}  // namespace

std::string encode(const ControlMessage& message) {
  control::ControlMessage wire;
  if (const auto* plan = std::get_if<StepPlan>(&message)) {
    wire.mutable_step()->set_step(plan->step);
    wire.mutable_step()->mutable_owner()->Add(plan->owner.begin(), plan->owner.end());
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

ControlMessage decode_message(const std::string& bytes) {
  control::ControlMessage wire;
  require(wire.ParseFromString(bytes), "control message of rank 0 is damaged");
  switch (wire.kind_case()) {
    case control::ControlMessage::kStep:
      return plan_from(wire.step());
    case control::ControlMessage::kSave:
      return Save{wire.save().step()};
    case control::ControlMessage::kEvaluate:
      return Evaluate{wire.evaluate().step()};
    case control::ControlMessage::kStop:
      return Stop{enum_from(wire.stop().reason(), Stop::Reason::not_finite,
                            "rank 0 sent a Stop of unknown reason"),
                  wire.stop().step()};
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

std::string encode(const RankReport& report) {
  control::StepReport wire;
  wire.set_step(report.step.step);
  wire.set_loss(report.step.loss);
  wire.set_grad_norm(report.step.grad_norm);
  wire.set_lr(report.step.lr);
  wire.set_tokens(report.step.tokens);
  wire.set_verdict(static_cast<int>(report.step.verdict));
  wire.set_rescaled(report.step.rescaled);
  wire.set_compute_seconds(report.step.compute_seconds);
  wire.set_stop_requested(report.stop_requested);
  wire.set_exhausted(report.step.exhausted);
  wire.set_rollbacks(report.step.rollbacks);
  return wire.SerializeAsString();
}

RankReport decode_report(const std::string& bytes) {
  control::StepReport wire;
  require(wire.ParseFromString(bytes), "a rank's report is damaged");
  RankReport report;
  report.step.step = wire.step();
  report.step.loss = wire.loss();
  report.step.grad_norm = wire.grad_norm();
  report.step.lr = wire.lr();
  report.step.tokens = wire.tokens();
  report.step.verdict =
      enum_from(wire.verdict(), StepVerdict::corrupt, "a rank's report has an unknown verdict");
  report.step.rescaled = wire.rescaled();
  report.step.compute_seconds = wire.compute_seconds();
  report.stop_requested = wire.stop_requested();
  report.step.exhausted = wire.exhausted();
  report.step.rollbacks = wire.rollbacks();
  return report;
}

struct ControlChannel::Impl {
  explicit Impl(const mpi::Comm& world) : comm(world.duplicate()) {}

  MPI_Comm raw() const { return comm.handle().raw; }

  mpi::Comm comm;  // control messages must never match a tensor's
  std::string outgoing;
  Frame frame;
  MPI_Request broadcast = MPI_REQUEST_NULL;
  ReportFrame mine;
  std::vector<ReportFrame> all;
  MPI_Request gather = MPI_REQUEST_NULL;
};

ControlChannel::ControlChannel(const mpi::Comm& world) : impl_(std::make_unique<Impl>(world)) {
  impl_->all.resize(world.rank() == 0 ? static_cast<std::size_t>(world.size()) : 0);
}
ControlChannel::~ControlChannel() = default;

void ControlChannel::post(const std::optional<ControlMessage>& message) {
  Impl& c = *impl_;
  ensure(c.broadcast == MPI_REQUEST_NULL, "a control message is still under way");
  if (c.comm.rank() == 0) {
    ensure(message.has_value(), "rank 0 posts a message");
    c.outgoing = encode(*message);
    c.frame.length = c.outgoing.size();
    std::memcpy(c.frame.head.data(), c.outgoing.data(),
                std::min(c.outgoing.size(), c.frame.head.size()));
  }
  mpi::check(MPI_Ibcast(&c.frame, count_of(sizeof c.frame), MPI_BYTE, 0, c.raw(), &c.broadcast),
             "MPI_Ibcast");
}

ControlMessage ControlChannel::wait() {
  Impl& c = *impl_;
  const mpi::Call call(c.comm, "control message");
  mpi::check(MPI_Wait(&c.broadcast, MPI_STATUS_IGNORE), "MPI_Wait");
  const std::size_t length = c.frame.length, head = std::min(length, c.frame.head.size());
  std::string bytes(c.frame.head.data(), head);
  bytes.resize(length);
  if (length > head) {  // every rank knows the length now, so all of them enter
    if (c.comm.rank() == 0) bytes = c.outgoing;
    mpi::check(MPI_Bcast(bytes.data() + head, count_of(length - head), MPI_BYTE, 0, c.raw()),
               "MPI_Bcast");
  }
  return decode_message(bytes);
}

std::vector<RankReport> ControlChannel::report(const RankReport& mine) {
  std::vector<RankReport> before = drain();
  Impl& c = *impl_;
  const std::string bytes = encode(mine);
  ensure(bytes.size() <= c.mine.bytes.size(), "a step report does not fit its frame");
  c.mine.length = bytes.size();
  std::memcpy(c.mine.bytes.data(), bytes.data(), bytes.size());
  mpi::check(MPI_Igather(&c.mine, count_of(sizeof c.mine), MPI_BYTE, c.all.data(),
                         count_of(sizeof c.mine), MPI_BYTE, 0, c.raw(), &c.gather),
             "MPI_Igather");
  return before;
}

std::vector<RankReport> ControlChannel::drain() {
  Impl& c = *impl_;
  if (c.gather == MPI_REQUEST_NULL) return {};
  const mpi::Call call(c.comm, "report");
  mpi::check(MPI_Wait(&c.gather, MPI_STATUS_IGNORE), "MPI_Wait");
  std::vector<RankReport> reports;
  for (const ReportFrame& frame : c.all) {
    const std::size_t length = std::min<std::size_t>(frame.length, frame.bytes.size());
    reports.push_back(decode_report(std::string(frame.bytes.data(), length)));
  }
  return reports;
}

}  // namespace demist
