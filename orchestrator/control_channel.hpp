// The ranks' control exchange (ControlNode) over MPI, without making a worker wait.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "core/mpi.hpp"
#include "core/mpi_mail.hpp"
#include "orchestrator/control_node.hpp"

namespace demist {

// All ranks call the same members in the same order, but for post() and progress(). At most one
// report is under way.
class ControlChannel {
 public:
  // Collective.
  explicit ControlChannel(const mpi::Comm& world, int most_children = ControlTree::kChildren);

  // Rank 0: starts sending a message to all ranks.
  void post(const ControlMessage& message) { node_.post(message); }
  // The next message, on every rank.
  ControlMessage wait();

  // Starts sending this rank's report to rank 0, and ends the exchange of the one before: that is
  // returned on rank 0, merged from all ranks' reports; other ranks get nothing.
  std::optional<Report> report(const Report& mine);
  std::optional<Report> drain();  // ends the exchange under way, if any

  // Takes and passes on what has come, and returns at once. To be called now and then in a step:
  // then what wait() and report() ask for is there when they ask.
  void progress();
  bool expects_letters() const { return !node_.has_message() || !node_.has_reported(); }

 private:
  const mpi::Comm world_;
  mpi::Mail mail_;  // on a communicator of its own: control messages never match a tensor's
  ControlNode node_;
};

}  // namespace demist
