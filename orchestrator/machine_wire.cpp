// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/machine_wire.hpp"

#include <algorithm>
#include <cmath>

#include "core/error.hpp"
#include "orchestrator/control.pb.h"

namespace demist {
namespace {

void encode_pulse(const Pulse& pulse, control::RankPulse& wire) {
  wire.set_rank(pulse.rank);
  wire.set_process(pulse.process);
  wire.set_dead(!pulse.alive);
  wire.set_ended(pulse.ended);
  wire.set_phase(static_cast<std::int32_t>(pulse.phase));
  wire.set_step(pulse.step);
  wire.set_call(pulse.call);
  wire.set_beats(pulse.beats);
  wire.set_ticks(pulse.ticks);
  wire.set_slowest_step(pulse.slowest_step);
  for (const double seconds : pulse.slowest) wire.add_slowest(seconds);
}

bool is_sound(const control::RankPulse& wire) {
  const auto ordinary = [](double seconds) { return seconds >= 0 && std::isfinite(seconds); };
  return wire.rank() >= 0 && wire.phase() >= 0 && wire.phase() < static_cast<int>(kPhases) &&
         wire.slowest_size() == static_cast<int>(kPhases) && ordinary(wire.slowest_step()) &&
         std::ranges::all_of(wire.slowest(), ordinary);
}

Pulse decode_pulse(const control::RankPulse& wire, const std::string& host) {
  Pulse pulse;
  pulse.host = host;
  pulse.elsewhere = true;
  pulse.rank = wire.rank();
  pulse.process = wire.process();
  pulse.alive = !wire.dead();
  pulse.ended = wire.ended();
  pulse.whole = true;
  pulse.phase = static_cast<Phase>(wire.phase());
  pulse.step = wire.step();
  pulse.call = wire.call();
  pulse.beats = wire.beats();
  pulse.ticks = wire.ticks();
  pulse.slowest_step = wire.slowest_step();
  std::ranges::copy(wire.slowest(), pulse.slowest.begin());
  return pulse;
}

}  // namespace

std::string encode(const MachineLetter& letter) {
  control::MachineLetter wire;
  wire.set_token(letter.token);
  wire.set_machine(letter.machine);
  wire.set_host(letter.host);
  for (const Pulse& pulse : letter.pulses) encode_pulse(pulse, *wire.add_pulse());
  wire.set_leaving(letter.leaving);
  return wire.SerializeAsString();
}

MachineLetter decode_machine_letter(const std::string& bytes) {
  control::MachineLetter wire;
  if (!wire.ParseFromString(bytes) || wire.machine() < 0 ||
      !std::ranges::all_of(wire.pulse(), is_sound))
    throw EnvironmentError(
        "a letter of another machine's watcher is damaged; do all ranks run one binary?");
  MachineLetter letter{wire.token(), wire.machine(), wire.host(), {}, wire.leaving()};
  for (const control::RankPulse& pulse : wire.pulse())
    letter.pulses.push_back(decode_pulse(pulse, letter.host));
  return letter;
}

}  // namespace demist
