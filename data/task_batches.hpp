// How one task's examples are cut into micro-batches: fixed shapes, members reshuffled each epoch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace demist::data {

// Examples are sorted by length, rounded up to a multiple of kLengthStep, and cut greedily into
// micro-batches of at most max_tokens. Lengths do not change, so the cuts are the same in every
// epoch; a keyed permutation inside each length class decides which example sits where, another
// one the order of the micro-batches. So every epoch holds every example once, everything is O(1)
// without a table per epoch, and a task has few shapes.
class TaskBatches {
 public:
  static constexpr std::int64_t kLengthStep = 8;
  // lengths: tokens of each example, specials counted. copies: rows an example becomes. key: the
  // task's stream. Throws ConfigError when an example does not fit.
  TaskBatches(const std::vector<std::int64_t>& lengths, std::int64_t max_tokens,
              std::int64_t copies, std::uint64_t key);
  std::uint64_t count() const { return cuts_.size() - 1; }  // micro-batches of an epoch
  // Of micro-batch `number`, counted from the start of the stage.
  std::int64_t samples(std::uint64_t number) const;
  std::int64_t cols(std::uint64_t number) const;
  std::vector<std::uint32_t> examples(std::uint64_t number) const;
  std::int64_t max_samples() const;       // over micro-batches
  std::int64_t max_batch_tokens() const;  // copies * samples * cols

 private:
  // Examples of one rounded length are sorted_[begin, end).
  struct LengthClass {
    std::size_t begin, end;
    std::int64_t length;
  };
  std::size_t cut_of(std::uint64_t number) const;
  const LengthClass& class_of(std::size_t place) const;

  std::vector<std::uint32_t> sorted_;  // example numbers by rounded length
  std::vector<LengthClass> classes_;
  std::vector<std::size_t> cuts_;  // [count + 1], places in sorted_
  std::int64_t copies_;
  std::uint64_t key_;
};

}  // namespace demist::data
