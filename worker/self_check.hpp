// Whether a step comes out the same when other ranks compute it: how silent corruption is found.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/mpi.hpp"
#include "kernels/backend.hpp"
#include "worker/parallel/communicator.hpp"

namespace demist {

// What one computation of a step came to on one rank, in hashes.
struct StepDigest {
  struct Part {
    std::int32_t micro_batch = 0;
    std::uint64_t gradient = 0;
  };
  int turn = 0;
  std::uint64_t shard = 0;   // this rank's shard of the summed gradient
  std::uint64_t totals = 0;  // loss, norm, counts and scales: the same on all ranks
  std::vector<Part> parts;   // of the micro-batches that were computed here
};

// A computation differed from another one of the same step.
struct Corruption {
  bool passing = false;    // the ranks that were wrong were right when asked again: what stands is
                           // what two computations agree on. Else nothing is known to be right
  std::vector<int> ranks;  // of the world: the fault is with one or more of these
  std::string where;       // "the gradient of micro-batch 3"
};

// In turn k every micro-batch is computed k groups further on.
inline std::int32_t group_of_turn(std::int32_t owner, int turn, int groups) {
  return (owner + turn) % groups;
}

// Collective. compute(turn) computes the whole step, on all ranks; the last call's result stands.
// Turns 0 and 1 agree as a rule, and that is all. Else turn 2 says which was wrong, and that one's
// turn is taken again: a fault that passed does not come back.
std::optional<Corruption> self_check(const mpi::Comm& world, const ParallelLayout& layout,
                                     std::span<const std::int32_t> owner,
                                     const std::function<StepDigest(int turn)>& compute);

// Who was at fault, and in what, from the digests of all ranks, [rank][computation]; `passing` is
// left alone. A micro-batch's gradient is right when two groups have it alike; with one group, when
// two computations have.
Corruption find_fault(const ParallelLayout& layout, std::span<const std::int32_t> owner,
                      const std::vector<std::vector<StepDigest>>& digests);

// Of values in the backend's memory.
std::uint64_t digest_of(Backend& backend, std::span<const float> values);

}  // namespace demist
