// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cmath>

#include "worker/optimizer/gradient_reducer.hpp"

namespace demist {
namespace {

class FastReducer final : public GradientReducer {
 public:
  FastReducer(const ParameterTable& table, Backend& backend, ParallelGroups& groups)
      : backend_(backend),
        groups_(groups),
        starts_(table.shard_starts(groups.layout.data_size)),
        sum_(static_cast<std::size_t>(table.size())) {}

  void begin(std::size_t) override { first_ = true; }

  void add(std::span<const float> grads) override {
    const TensorView sum = vector_view(sum_.span());
    if (first_)
      std::copy(grads.begin(), grads.end(), sum_.data());
    else
      backend_.add(sum, sum, vector_view(grads));
    first_ = false;
  }

  Result finish(std::span<float> shard) override {
    if (first_) std::fill_n(sum_.data(), sum_.size(), 0.0f);  // this group had no micro-batch
    groups_.data->reduce_scatter_sum(shard, sum_.span(), starts_);
    std::array<float, 1> largest{backend_.max_abs(shard)};
    groups_.world->all_reduce_max(largest);
    return std::isfinite(largest[0]) ? Result::ready : Result::not_finite;
  }

  std::size_t bytes() const override { return sum_.size() * sizeof(float); }
  std::string state() const override { return "{}"; }
  void set_state(const std::string&) override {}  // sums in fp32 remember nothing

 private:
  Backend& backend_;
  ParallelGroups& groups_;
  const std::vector<std::int64_t> starts_;
  Buffer<float> sum_;
  bool first_ = true;
};

}  // namespace

std::unique_ptr<GradientReducer> make_fast_reducer(const ParameterTable& table, Backend& backend,
                                                   ParallelGroups& groups) {
  return std::make_unique<FastReducer>(table, backend, groups);
}

}  // namespace demist
