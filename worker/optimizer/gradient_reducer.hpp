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

// Per step: begin(), add() for each micro-batch of this rank, finish() on all ranks together. The
// gradient given to the last add() must stay as it is until finish().
class GradientReducer {
 public:
  enum class Result {
    ready,       // the shard holds the sum over all micro-batches of all data groups
    redo,        // a value did not fit the fixed-point scale; scales have grown: compute again
    not_finite,  // some gradient is NaN or infinite
  };
  virtual ~GradientReducer() = default;
  virtual void begin(std::size_t own_micro_batches) = 0;
  virtual void add(std::span<const float> grads) = 0;  // one micro-batch's, the whole arena
  virtual Result finish(std::span<float> shard) = 0;   // collective over the world
  virtual std::size_t bytes() const = 0;
  // What must survive a restart, as JSON; "{}" when nothing does.
  virtual std::string state() const = 0;
  virtual void set_state(const std::string& json) = 0;  // throws CheckpointError
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
