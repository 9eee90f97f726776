// Times of operations, taken on the device.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <deque>
#include <map>
#include <string>
#include <utility>
#include <vector>

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

// Of one call of pass(), which is called one time after the other.
template <class Pass>
double median_seconds(const cuda::Stream& stream, int repetitions, Pass pass) {
  std::vector<cuda::TimedEvent> times(static_cast<std::size_t>(repetitions) + 1);
  for (int i = 0; i < std::min(3, repetitions); ++i) pass();
  times.front().record(stream);
  for (std::size_t i = 1; i < times.size(); ++i) {
    pass();
    times[i].record(stream);
  }
  std::vector<double> seconds;
  for (std::size_t i = 1; i < times.size(); ++i)
    seconds.push_back(times[i].seconds_since(times[i - 1]));
  const auto middle = seconds.begin() + repetitions / 2;
  std::nth_element(seconds.begin(), middle, seconds.end());
  return *middle;
}

}  // namespace demist::bench
