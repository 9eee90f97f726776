// SPDX-License-Identifier: Apache-2.0
#include "worker/optimizer/gradient_reducer.hpp"

#include <algorithm>
#include <chrono>
#include <functional>
#include <numeric>

namespace demist {

GradientReducer::GradientReducer(const ParameterTable& table, Backend& backend,
                                 ParallelGroups& groups)
    : table_(table),
      backend_(backend),
      groups_(groups),
      slices_(table.shard(groups.layout.data_size, groups.layout.data_rank)),
      order_(table.buckets().size()) {
  std::iota(order_.begin(), order_.end(), std::size_t{0});
  std::ranges::stable_sort(order_, std::greater(),
                           [&](std::size_t b) { return table.buckets()[b].first_layer; });
}

void GradientReducer::begin(std::size_t own_micro_batches, std::span<float> shard) {
  own_ = own_micro_batches;
  shard_ = shard;
  added_ = next_ = reduced_ = 0;
  exchange_seconds_ = 0;
  do_begin();
}

void GradientReducer::add(std::span<const float> grads, std::int64_t layer) {
  for (; next_ < order_.size(); ++next_) {
    const std::size_t bucket = order_[next_];
    if (table_.buckets()[bucket].first_layer < layer) break;
    add_bucket(grads, bucket);
    if (added_ + 1 == own_) reduce_up_to(next_ + 1);
  }
  if (layer >= 0) return;
  next_ = 0;
  ++added_;
}

GradientReducer::Result GradientReducer::finish() {
  reduce_up_to(order_.size());  // of ranks that had no micro-batch
  if (!is_alone()) groups_.data->join();
  return do_finish();
}

void GradientReducer::reduce_up_to(std::size_t end) {
  if (is_alone() || reduced_ == end) return;
  const auto start = std::chrono::steady_clock::now();
  for (; reduced_ < end; ++reduced_) {
    groups_.data->detach();
    reduce_bucket(order_[reduced_]);
  }
  exchange_seconds_ +=
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace demist
