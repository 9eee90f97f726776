// Messages of rank 0, reports of ranks, letters between watchers.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "orchestrator/control_wire.hpp"
#include "orchestrator/machine_wire.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace demist;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string bytes = fuzz::Input(data, size).rest();
  fuzz::accepts<EnvironmentError>([&] {
    const ControlMessage message = decode_message(bytes);
    if (const auto* stop = std::get_if<Stop>(&message))
      fuzz::expect(stop->reason <= Stop::Reason::not_finite, "a reason to stop is a known one");
    if (const auto* plan = std::get_if<StepPlan>(&message))
      fuzz::expect(std::ranges::all_of(plan->owner, [](std::int32_t group) { return group >= 0; }),
                   "an owner is a group");
    const std::string wire = encode(message);
    fuzz::expect(encode(decode_message(wire)) == wire, "a message is read as written");
  });
  fuzz::accepts<EnvironmentError>([&] {
    const Report report = decode_report(bytes);
    fuzz::expect(std::ranges::all_of(report.speeds,
                                     [](const Report::Speed& speed) {
                                       return speed.rank >= 0 && speed.seconds >= 0;
                                     }),
                 "a speed is a rank's");
    const std::string wire = encode(report);
    fuzz::expect(encode(decode_report(wire)) == wire, "a report is read as written");
  });
  fuzz::accepts<EnvironmentError>([&] {
    const MachineLetter letter = decode_machine_letter(bytes);
    fuzz::expect(std::ranges::all_of(letter.pulses,
                                     [](const Pulse& pulse) {
                                       return pulse.rank >= 0 && pulse.slowest_step >= 0 &&
                                              static_cast<std::size_t>(pulse.phase) < kPhases;
                                     }),
                 "a pulse is a rank's");
    const std::string wire = encode(letter);
    fuzz::expect(encode(decode_machine_letter(wire)) == wire, "a letter is read as written");
  });
  return 0;
}
