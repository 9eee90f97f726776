// Rank 0's messages to all ranks, and their reports to rank 0, without making a worker wait.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/mpi.hpp"
#include "orchestrator/coordinator.hpp"

namespace demist {

// Wire form (protobuf, orchestrator/control.proto).
std::string encode(const ControlMessage& message);
ControlMessage decode_message(const std::string& bytes);  // throws EnvironmentError
std::string encode(const RankReport& report);
RankReport decode_report(const std::string& bytes);

// All ranks call the same members in the same order. One message and one report may be under way.
class ControlChannel {
 public:
  explicit ControlChannel(const mpi::Comm& world);  // duplicates it: collective
  ~ControlChannel();
  ControlChannel(const ControlChannel&) = delete;
  ControlChannel& operator=(const ControlChannel&) = delete;

  // Starts sending a message to all ranks; only rank 0's argument counts (others pass nothing).
  void post(const std::optional<ControlMessage>& message = std::nullopt);
  // The message posted last, on every rank.
  ControlMessage wait();

  // Starts sending this rank's report to rank 0 and returns what the reports before it came to:
  // rank 0 gets all ranks' reports on the step before, in rank order; other ranks get nothing.
  std::vector<RankReport> report(const RankReport& mine);
  // Ends the exchange: the last reports on rank 0.
  std::vector<RankReport> drain();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace demist
