// What a program asked of the emulated CUDA, for tests of what it must not ask in a step.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace demist::emu {

struct Counters {
  std::int64_t allocations = 0;       // and frees, of device and page-locked memory
  std::int64_t objects = 0;           // streams and events, made and destroyed
  std::int64_t synchronizations = 0;  // of a stream or the device
  std::int64_t event_waits = 0;       // of the host, whether or not the event had come
  std::int64_t pageable_copies = 0;   // between the device and memory that is not page-locked
  std::int64_t plans = 0;             // algorithms that cuBLASLt chose
  std::int64_t launches = 0;          // kernels, without those of the libraries
  Counters operator-(const Counters& before) const;
  bool operator==(const Counters&) const = default;
};
std::string to_text(const Counters& counters);

// Since the program began; every call of the fakes adds to it under the device's lock.
Counters& counters();

}  // namespace demist::emu
