// Connections between the watchers of different machines: on each machine one of them tells the
// watcher of rank 0 what its machine's ranks do, as the heartbeats there show.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "orchestrator/machine_wire.hpp"

namespace demist {

// Where the watcher of rank 0 is called.
struct MeetingPoint {
  std::string token;  // of the attempt; nobody who does not know it is heard
  std::vector<std::string> addresses;
  std::uint16_t port = 0;
};

// What is known of another machine.
struct OtherMachine {
  std::string host;
  std::vector<Pulse> pulses;  // as of its last letter; all dead when the connection broke
};

// One thread at a time. Nothing here waits, but for the system's own calls.
class MachineLink {
 public:
  virtual ~MachineLink() = default;
  // Sends what this machine's ranks do, at most twice a second, and takes what has come.
  virtual void exchange(const std::vector<Pulse>& mine) = 0;
  // By number; those that have said good-bye are not there any more.
  virtual const std::map<int, OtherMachine>& others() const = 0;
  // Says good-bye: silence is no alarm from now on. Waits for that at most a second.
  virtual void leave() = 0;
};

// Machine 0, which hears all others and answers machine 1 alone: one that watches it is enough.
class ListeningLink : public MachineLink {
 public:
  virtual const MeetingPoint& meeting_point() const = 0;
};
// Throws EnvironmentError when no port can be had.
std::unique_ptr<ListeningLink> listen_to_machines(const std::string& host);

// Machine `number`, from 1. Tries every address at the same time until rank 0's watcher answers at
// one; until then, and for ever if none does, it is as if there were no other machine.
std::unique_ptr<MachineLink> call_first_machine(const MeetingPoint& point, int number,
                                                const std::string& host);

}  // namespace demist
