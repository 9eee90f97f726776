// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "worker/optimizer/gradient_reducer.hpp"

namespace demist {
namespace {

// A tensor's largest |gradient| of the last step lands near 2^kTargetBits: 2^40 steps of resolution
// below it (fp32 has 2^24), and 22 bits above it for the sum and for growth before a redo.
constexpr int kTargetBits = 40;
constexpr int kSumBits = 62;
// Before the first step nothing is known; gradients of sums rarely pass 2^20, resolution is 2^-42.
constexpr int kFirstExponent = 42;
constexpr int kMaxExponent = 120;  // gradients that vanish do not drive the scale to infinity

class ExactReducer final : public GradientReducer {
 public:
  ExactReducer(const ParameterTable& table, Backend& backend, ParallelGroups& groups,
               std::int64_t max_micro_batches)
      : table_(table),
        backend_(backend),
        groups_(groups),
        starts_(table.shard_starts(groups.layout.data_size)),
        limit_(std::ldexp(1.0, kSumBits) / static_cast<double>(max_micro_batches)),
        exponent_(table.parameters().size(), kFirstExponent),
        largest_(table.parameters().size()),
        device_largest_(table.parameters().size(), backend.memory()) {
    if (groups.layout.data_size > 1)
      shard_sum_ = Buffer<std::int64_t>(static_cast<std::size_t>(shard_end() - shard_begin()),
                                        backend.memory());
  }

  void begin(std::size_t own_micro_batches) override {
    backend_.zero(device_largest_.data(), device_largest_.bytes());
    // One gradient in all: it is rounded where it lies, and no integers go through memory.
    single_ = groups_.layout.data_size == 1 && own_micro_batches == 1;
    if (!single_) {
      if (sum_.size() == 0)
        sum_ = Buffer<std::int64_t>(static_cast<std::size_t>(table_.size()), backend_.memory());
      backend_.zero(sum_.data(), sum_.bytes());
    }
  }

  void add(std::span<const float> grads) override {
    only_ = grads;
    std::size_t i = 0;
    for (const Parameter& p : table_.parameters()) {
      const std::span<const float> values = part(grads, p);
      backend_.max_abs(device_largest_.span().subspan(i, 1), values);
      // What does not fit spoils the sum; finish() learns of it from the largest value.
      if (!single_) backend_.fixed_point_add(part(sum_.span(), p), values, exponent_[i]);
      ++i;
    }
  }

  Result finish(std::span<float> shard) override {
    backend_.download(largest_.data(), device_largest_.data(), device_largest_.bytes());
    groups_.world->all_reduce_max(largest_);
    if (std::any_of(largest_.begin(), largest_.end(), [](float x) { return !std::isfinite(x); }))
      return Result::not_finite;
    bool redo = false;
    for (std::size_t i = 0; i < largest_.size(); ++i) redo |= !fits(largest_[i], exponent_[i]);
    const std::vector<int> used = exponent_;
    for (std::size_t i = 0; i < largest_.size(); ++i)
      if (!redo || !fits(largest_[i], exponent_[i])) exponent_[i] = next_exponent(i);
    if (redo) return Result::redo;

    if (single_) {
      round(shard, used);
      return Result::ready;
    }
    std::span<const std::int64_t> mine = sum_.span();
    if (groups_.layout.data_size > 1) {
      groups_.data->reduce_scatter_sum(shard_sum_.span(), sum_.span(), starts_);
      mine = shard_sum_.span();
    }
    to_float(shard, mine, used);
    return Result::ready;
  }

  std::size_t bytes() const override { return sum_.bytes() + shard_sum_.bytes(); }

  std::string state() const override {
    nlohmann::json exponents;
    std::size_t i = 0;
    for (const Parameter& p : table_.parameters()) exponents[p.name] = exponent_[i++];
    return nlohmann::json{{"fixed_point_exponents", exponents}}.dump();
  }

  void set_state(const std::string& text) override {
    try {
      const auto json = nlohmann::json::parse(text);
      std::size_t i = 0;
      for (const Parameter& p : table_.parameters())
        exponent_[i++] = json.at("fixed_point_exponents").at(p.name).get<int>();
    } catch (const nlohmann::json::exception& error) {
      throw CheckpointError(
          std::string("the checkpoint has no usable fixed-point scales; it was saved with another "
                      "reduction: set reduction as it was, or start a new stage from it (") +
          error.what() + ")");
    }
  }

 private:
  template <class T>
  static std::span<T> part(std::span<T> arena, const Parameter& p) {
    return arena.subspan(static_cast<std::size_t>(p.offset),
                         static_cast<std::size_t>(p.local_size()));
  }
  bool fits(float largest, int exponent) const {
    return std::ldexp(static_cast<double>(largest), exponent) <= limit_;
  }
  int next_exponent(std::size_t i) const {
    if (largest_[i] == 0) return exponent_[i];
    return std::min(kMaxExponent, kTargetBits - std::ilogb(largest_[i]));
  }
  std::int64_t shard_begin() const {
    return starts_[static_cast<std::size_t>(groups_.layout.data_rank)];
  }
  std::int64_t shard_end() const {
    return starts_[static_cast<std::size_t>(groups_.layout.data_rank) + 1];
  }

  // shard and sums cover [shard_begin, shard_end) of the arena; padding between tensors becomes 0.
  void to_float(std::span<float> shard, std::span<const std::int64_t> sums,
                const std::vector<int>& exponents) {
    std::size_t i = 0;
    for (const Parameter& p : table_.parameters()) {
      const std::int64_t begin = std::max(p.offset, shard_begin());
      const std::int64_t end = std::min(p.offset + p.local_size(), shard_end());
      const int exponent = exponents[i++];
      if (begin >= end) continue;
      const auto at = static_cast<std::size_t>(begin - shard_begin());
      const auto count = static_cast<std::size_t>(end - begin);
      backend_.fixed_point_to_float(shard.subspan(at, count), sums.subspan(at, count), exponent);
    }
  }

  void round(std::span<float> shard, const std::vector<int>& exponents) {
    std::size_t i = 0;
    for (const Parameter& p : table_.parameters())
      backend_.fixed_point_round(part(shard, p), part(only_, p), exponents[i++]);
  }

  const ParameterTable& table_;
  Backend& backend_;
  ParallelGroups& groups_;
  const std::vector<std::int64_t> starts_;
  const double limit_;  // largest |gradient| * 2^exponent of one micro-batch
  std::vector<int> exponent_;
  std::vector<float> largest_;  // |gradient| of each tensor in this step
  Buffer<float> device_largest_;
  Buffer<std::int64_t> sum_, shard_sum_;
  std::span<const float> only_;
  bool single_ = false;
};

}  // namespace

std::unique_ptr<GradientReducer> make_exact_reducer(const ParameterTable& table, Backend& backend,
                                                    ParallelGroups& groups,
                                                    std::int64_t max_micro_batches) {
  return std::make_unique<ExactReducer>(table, backend, groups, max_micro_batches);
}

}  // namespace demist
