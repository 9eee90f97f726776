// From micro-batch gradients to the step's gradient of this rank's shard.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.hpp"
#include "worker/config.hpp"
#include "worker/model/parameters.hpp"
#include "worker/parallel/communicator.hpp"

namespace demist {

// Per step: begin(), add() in the backward pass of each micro-batch of this rank, finish() on all
// ranks together. Buckets are added as their gradients appear; those of a rank's last micro-batch
// leave for the other ranks at once, under the rest of the backward pass (detached collectives).
// The last micro-batch's gradients must stay as they are until finish().
class GradientReducer {
 public:
  enum class Result {
    ready,       // the shard holds the sum over all micro-batches of all data groups
    redo,        // a value did not fit the fixed-point scale; scales have grown: compute again
    not_finite,  // some gradient is NaN or infinite
  };
  GradientReducer(const ParameterTable& table, Backend& backend, ParallelGroups& groups);
  virtual ~GradientReducer() = default;
  GradientReducer(const GradientReducer&) = delete;
  GradientReducer& operator=(const GradientReducer&) = delete;

  // `shard` receives the result.
  void begin(std::size_t own_micro_batches, std::span<float> shard);
  // Gradients (the whole arena) of one micro-batch, final for the matrices of layers >= `layer`;
  // -1: for everything, and the micro-batch is done.
  void add(std::span<const float> grads, std::int64_t layer);
  Result finish();  // collective over the world
  // In this step so far, inside exchanges between data groups: mostly waiting for slower ones.
  double exchange_seconds() const { return exchange_seconds_; }

  virtual std::size_t bytes() const = 0;
  // What must survive a restart, as JSON; "{}" when nothing does.
  virtual std::string state() const = 0;
  virtual void set_state(const std::string& json) = 0;  // throws CheckpointError

 protected:
  virtual void do_begin() = 0;
  virtual void add_bucket(std::span<const float> grads, std::size_t bucket) = 0;
  virtual void reduce_bucket(std::size_t bucket) = 0;  // collective; data groups > 1
  virtual Result do_finish() = 0;

  std::size_t own_micro_batches() const { return own_; }
  std::size_t added() const { return added_; }  // micro-batches, whole ones
  bool is_alone() const { return groups_.layout.data_size == 1; }
  std::span<float> shard() const { return shard_; }

  const std::vector<ShardSlice>& slices() const { return slices_; }  // mine, one a bucket

  template <class T>
  std::span<T> part(std::span<T> arena, std::size_t bucket) const {
    const Bucket& b = table_.buckets()[bucket];
    return arena.subspan(static_cast<std::size_t>(b.begin),
                         static_cast<std::size_t>(b.end - b.begin));
  }
  // My slice of a bucket's sum over the data groups, to its place in `mine`, which is laid out as
  // the shard is.
  template <class T>
  void reduce_scatter(std::span<T> mine, std::span<const T> arena, std::size_t bucket) {
    const auto starts =
        ParameterTable::shard_starts(table_.buckets()[bucket], groups_.layout.data_size);
    const ShardSlice& slice = slices_[bucket];
    const auto at = static_cast<std::size_t>(slice.at);
    const auto count = static_cast<std::size_t>(slice.end - slice.begin);
    groups_.data->reduce_scatter_sum(mine.subspan(at, count), part(arena, bucket), starts);
  }

  const ParameterTable& table_;
  Backend& backend_;
  ParallelGroups& groups_;

 private:
  void reduce_up_to(std::size_t end);

  const std::vector<ShardSlice> slices_;
  std::vector<std::size_t> order_;  // buckets as the backward pass completes them
  std::size_t own_ = 0, added_ = 0;
  std::size_t next_ = 0;     // into order_: of the micro-batch under way
  std::size_t reduced_ = 0;  // into order_
  double exchange_seconds_ = 0;
  std::span<float> shard_;
};

// EXACT: sums in 64-bit fixed point, one power-of-two scale a tensor, so the result does not depend
// on which group computed what, or in which order. The scale follows from the largest |gradient| of
// the step before, over all micro-batches: the same number wherever they ran. Micro-batches a step:
// at most `max_micro_batches`, over all groups.
std::unique_ptr<GradientReducer> make_exact_reducer(const ParameterTable& table, Backend& backend,
                                                    ParallelGroups& groups,
                                                    std::int64_t max_micro_batches);
// FAST: fp32 sums, in the order the micro-batches come and then in rank order.
std::unique_ptr<GradientReducer> make_fast_reducer(const ParameterTable& table, Backend& backend,
                                                   ParallelGroups& groups);

}  // namespace demist
