// SPDX-License-Identifier: Apache-2.0
#include "data/task_batches.hpp"

#include <algorithm>
#include <numeric>

#include "core/error.hpp"
#include "core/philox.hpp"
#include "data/permutation.hpp"

namespace demist::data {
namespace {

std::int64_t round_up(std::int64_t length) {
  return (length + TaskBatches::kLengthStep - 1) / TaskBatches::kLengthStep *
         TaskBatches::kLengthStep;
}

}  // namespace

TaskBatches::TaskBatches(const std::vector<std::int64_t>& lengths, std::int64_t max_tokens,
                         std::int64_t copies, std::uint64_t key)
    : sorted_(lengths.size()), cuts_{0}, copies_(copies), key_(key) {
  const auto length = [&](std::size_t place) { return round_up(lengths[sorted_[place]]); };
  std::iota(sorted_.begin(), sorted_.end(), 0u);
  std::stable_sort(sorted_.begin(), sorted_.end(), [&](std::uint32_t a, std::uint32_t b) {
    return round_up(lengths[a]) < round_up(lengths[b]);
  });
  for (std::size_t place = 0; place < sorted_.size(); ++place) {
    const std::int64_t cols = length(place);
    if (copies * cols > max_tokens)
      throw ConfigError("max_tokens " + std::to_string(max_tokens) + " does not hold a pair of " +
                        std::to_string(lengths[sorted_[place]]) + " tokens in " +
                        std::to_string(copies) + " rows of " + std::to_string(cols) +
                        "; raise max_tokens or lower the longest length");
    if (classes_.empty() || classes_.back().length != cols)
      classes_.push_back({place, place, cols});
    classes_.back().end = place + 1;
    const auto samples = static_cast<std::int64_t>(place + 1 - cuts_.back());
    if (samples * copies * cols > max_tokens) cuts_.push_back(place);
  }
  cuts_.push_back(sorted_.size());
}

std::size_t TaskBatches::cut_of(std::uint64_t number) const {
  const std::uint64_t epoch = number / count();
  return Permutation(count(), mix64(key_ ^ mix64(epoch)))(number % count());
}

const TaskBatches::LengthClass& TaskBatches::class_of(std::size_t place) const {
  return *std::upper_bound(classes_.begin(), classes_.end(), place,
                           [](std::size_t value, const LengthClass& c) { return value < c.end; });
}

std::int64_t TaskBatches::samples(std::uint64_t number) const {
  const std::size_t cut = cut_of(number);
  return static_cast<std::int64_t>(cuts_[cut + 1] - cuts_[cut]);
}

std::int64_t TaskBatches::cols(std::uint64_t number) const {
  return class_of(cuts_[cut_of(number) + 1] - 1).length;
}

std::vector<std::uint32_t> TaskBatches::examples(std::uint64_t number) const {
  const std::size_t cut = cut_of(number);
  const std::uint64_t epoch = number / count();
  std::vector<std::uint32_t> members;
  for (std::size_t place = cuts_[cut]; place < cuts_[cut + 1]; ++place) {
    const LengthClass& c = class_of(place);
    // Classes start at different places, which gives each a permutation of its own.
    const Permutation shuffle(c.end - c.begin, mix64(key_ ^ mix64(epoch)) ^ mix64(c.begin + 1));
    members.push_back(sorted_[c.begin + shuffle(place - c.begin)]);
  }
  return members;
}

std::int64_t TaskBatches::max_samples() const {
  std::size_t most = 0;
  for (std::size_t cut = 0; cut < count(); ++cut)
    most = std::max(most, cuts_[cut + 1] - cuts_[cut]);
  return static_cast<std::int64_t>(most);
}

std::int64_t TaskBatches::max_batch_tokens() const {
  std::int64_t most = 0;
  for (std::size_t cut = 0; cut < count(); ++cut) {
    const auto samples = static_cast<std::int64_t>(cuts_[cut + 1] - cuts_[cut]);
    most = std::max(most, copies_ * samples * class_of(cuts_[cut + 1] - 1).length);
  }
  return most;
}

}  // namespace demist::data
