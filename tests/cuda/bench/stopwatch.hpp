// Times of operations, taken on the device.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <map>
#include <string>
#include <utility>

#include "kernels/cuda/runtime.hpp"
#include "tests/cuda/bench/operation.hpp"

namespace demist::bench {

// An event before and one after every operation; the device need not wait for them.
class Stopwatch final : public Observer {
 public:
  struct Total {
    std::int64_t calls = 0;
    double seconds = 0, bytes = 0, flops = 0;  // of all calls
  };
  using Totals = std::map<std::pair<std::string, std::string>, Total>;  // by name and shape

  explicit Stopwatch(const cuda::Stream& stream) : stream_(stream) {}
  void before(const Operation& operation) override {
    laps_.push_back({operation, {}, {}});
    laps_.back().start.record(stream_);
  }
  void after(const Operation&) override { laps_.back().end.record(stream_); }
  // Of everything since the last call.
  Totals take() {
    Totals totals;
    for (const Lap& lap : laps_) {
      Total& total = totals[{lap.operation.name, lap.operation.shape}];
      ++total.calls;
      total.seconds += lap.end.seconds_since(lap.start);
      total.bytes += lap.operation.bytes;
      total.flops += lap.operation.flops;
    }
    laps_.clear();
    return totals;
  }

 private:
  struct Lap {
    Operation operation;
    cuda::TimedEvent start, end;
  };
  const cuda::Stream& stream_;
  std::deque<Lap> laps_;
};

}  // namespace demist::bench
