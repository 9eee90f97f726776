// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/control_channel.hpp"

namespace demist {

ControlChannel::ControlChannel(const mpi::Comm& world, int most_children)
    : world_(world),
      mail_(world),
      node_({world.rank(), world.size(), most_children},
            [this](int to, const std::string& letter) { mail_.post(letter, to); }) {}

void ControlChannel::progress() {
  for (const mpi::Letter& letter : mail_.collect()) node_.take(letter.from, letter.text);
}

ControlMessage ControlChannel::wait() {
  const mpi::Call call(world_, "control message");
  while (!node_.has_message()) progress();
  return node_.next_message();
}

std::optional<Report> ControlChannel::report(const Report& mine) {
  std::optional<Report> before = drain();
  node_.report(mine);
  return before;
}

std::optional<Report> ControlChannel::drain() {
  const mpi::Call call(world_, "report");
  while (!node_.has_reported()) progress();
  return node_.next_report();
}

}  // namespace demist
