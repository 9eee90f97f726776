// Who computes how many micro-batches: data-parallel groups get what their measured speed is worth.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

namespace demist {

double median(std::vector<double> values);  // the lower of two middle values; of one or more

// One rank's seconds a micro-batch, and when rank 0 has to hear of them: seldom, so that a report
// of thousands of ranks stays short.
class SpeedMeter {
 public:
  // After a step in which this rank computed `micro_batches` in `seconds`. The median of the last
  // steps, when it differs from what was returned last: by a quarter over a few steps, or by less
  // over many.
  std::optional<float> add(double seconds, std::int32_t micro_batches);

 private:
  std::deque<double> recent_;
  float told_ = 0;       // 0: nothing yet
  bool rested_ = false;  // it had no micro-batch in the step before
};

// Micro-batches of each group such that the slowest is done as early as whole micro-batches allow,
// from the seconds that a micro-batch takes each group. Of equal ones the first get the rest.
// REQUIRES: seconds > 0.
std::vector<std::int32_t> share_out(std::span<const double> seconds, std::int32_t micro_batches);
// When the slowest group is done.
double makespan(std::span<const std::int32_t> shares, std::span<const double> seconds);
// Each micro-batch's group: runs in the order of the groups.
std::vector<std::int32_t> owners_of(std::span<const std::int32_t> shares);

// The shares of the steps of a stage. Starts with equal ones; changes them when that makes a step
// shorter by a twentieth or more. A group that is too slow for even one micro-batch rests, and is
// given one now and then, to see whether it still is: so seldom that it costs a fiftieth of the
// time at most.
class Balancer {
 public:
  Balancer(std::int32_t micro_batches, int groups, int ranks_per_group);

  void hear(int rank, double seconds);
  // For the next step.
  std::vector<std::int32_t> next();
  // Whether next() has changed them for good since it was asked last.
  bool has_changed();

  // Of each group, its slowest rank's; those within a tenth of the median are as fast as that, and
  // so is who has not been heard. Empty before anybody has been.
  std::vector<double> seconds() const;
  const std::vector<std::int32_t>& shares() const { return shares_; }

 private:
  void balance();
  void plan_probe();
  std::vector<std::int32_t> probe();

  const std::int32_t micro_batches_;
  const std::size_t ranks_per_group_;
  std::vector<double> rank_seconds_;  // 0: not heard of
  std::vector<std::int32_t> shares_;
  std::vector<std::size_t> resting_;  // groups
  int probe_in_ = 0;                  // steps, while groups rest
  bool heard_ = false, changed_ = false;
};

}  // namespace demist
