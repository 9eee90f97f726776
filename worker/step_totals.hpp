// What the micro-batches of a step come to, over all ranks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "core/exact_sum.hpp"
#include "data/source.hpp"
#include "worker/config.hpp"
#include "worker/parallel/communicator.hpp"

namespace demist {

// docs/benchmarks.md, "Model FLOPs": products only, forward + backward = 3 x forward.
inline double model_flops(const ModelConfig& c, const data::MicroBatch& batch) {
  const auto n = static_cast<double>(batch.rows * batch.cols);
  const auto m = static_cast<double>(batch.target_row.size());
  const auto d = static_cast<double>(c.hidden), f = static_cast<double>(c.ffn);
  const double layer = 4 * d * d + 2 * d * f + 2 * d * static_cast<double>(batch.cols);
  return 6 * (n * static_cast<double>(c.layers) * layer +
              m * (d * static_cast<double>(c.vocab) + d * d));
}

// As integers: the same over any number of ranks and in any order.
struct StepTotals {
  ExactSum loss;
  std::array<std::int64_t, 3> counts{};  // normalizer, real tokens, model MFLOP

  void add(const data::MicroBatch& batch, double batch_loss, double flops) {
    loss.add(batch_loss);
    counts[0] += batch.normalizer;
    counts[1] += batch.real_tokens;
    counts[2] += static_cast<std::int64_t>(flops * 1e-6);
  }
  // Over the world: the ranks of a tensor group hold the same totals, so the first one speaks.
  void all_reduce(ParallelGroups& groups) {
    if (groups.layout.tensor_rank != 0) *this = {};
    std::array<std::int64_t, ExactSum::kLimbs + 3> packed{};
    std::copy_n(loss.limbs().begin(), ExactSum::kLimbs, packed.begin());
    std::copy_n(counts.begin(), 3, packed.begin() + ExactSum::kLimbs);
    groups.world->all_reduce_sum(packed);
    std::copy_n(packed.begin(), ExactSum::kLimbs, loss.limbs().begin());
    std::copy_n(packed.begin() + ExactSum::kLimbs, 3, counts.begin());
  }
  double mean_loss() const {
    return counts[0] == 0 ? 0 : loss.value() / static_cast<double>(counts[0]);
  }
};

}  // namespace demist
