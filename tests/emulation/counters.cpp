// SPDX-License-Identifier: Apache-2.0
#include "tests/emulation/counters.hpp"

namespace demist::emu {

Counters Counters::operator-(const Counters& before) const {
  return {allocations - before.allocations,
          objects - before.objects,
          synchronizations - before.synchronizations,
          event_waits - before.event_waits,
          pageable_copies - before.pageable_copies,
          plans - before.plans,
          launches - before.launches};
}

std::string to_text(const Counters& c) {
  const auto item = [](const char* name, std::int64_t count) {
    return std::string(name) + " " + std::to_string(count) + ", ";
  };
  return item("allocations", c.allocations) + item("objects", c.objects) +
         item("synchronizations", c.synchronizations) + item("event waits", c.event_waits) +
         item("pageable copies", c.pageable_copies) + item("plans", c.plans) + "launches " +
         std::to_string(c.launches);
}

Counters& counters() {
  static Counters instance;
  return instance;
}

}  // namespace demist::emu
