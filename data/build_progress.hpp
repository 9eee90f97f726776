// The line that tells how far a corpus build is: rate, share and time left.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "data/corpus_plan.hpp"
#include "data/manifest.hpp"

namespace demist::data {

class BuildProgress {
 public:
  explicit BuildProgress(const BuildPlan& plan);
  void add(const RangeResult& result, bool kept);
  // `under_way`: bytes of the range at hand. Prints at most once a second on a terminal (the line
  // is redrawn), every ten seconds into a log.
  void show(std::uint64_t under_way);
  void end();  // leaves the redrawn line

 private:
  using Clock = std::chrono::steady_clock;
  std::string line(Clock::time_point now, std::uint64_t under_way) const;

  std::uint64_t total_bytes_;
  bool total_is_known_;
  bool terminal_;
  bool shown_ = false;
  std::uint64_t built_bytes_ = 0, kept_bytes_ = 0, built_tokens_ = 0;
  Clock::time_point start_, last_;
};

}  // namespace demist::data
