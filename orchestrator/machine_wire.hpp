// What watchers of different machines tell each other, as bytes (protobuf,
// orchestrator/control.proto).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "core/heartbeat.hpp"

namespace demist {

struct MachineLetter {
  std::string token;  // tells one attempt's letters from another's
  int machine = 0;    // counted by their first ranks
  std::string host;
  std::vector<Pulse> pulses;
  bool leaving = false;  // its ranks end by themselves; what follows is silence
};

std::string encode(const MachineLetter& letter);
// Throws EnvironmentError. Pulses carry the letter's host.
MachineLetter decode_machine_letter(const std::string& bytes);

}  // namespace demist
