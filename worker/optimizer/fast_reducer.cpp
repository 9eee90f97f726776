// SPDX-License-Identifier: Apache-2.0
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
        sum_(static_cast<std::size_t>(table.size()), backend.memory()),
        largest_(1, backend.memory()) {}

  void begin(std::size_t) override { first_ = true; }

  void add(std::span<const float> grads) override {
    const TensorView sum = vector_view(sum_.span());
    if (first_)
      backend_.copy(sum_.data(), grads.data(), grads.size_bytes());
    else
      backend_.add(sum, sum, vector_view(grads));
    first_ = false;
  }

  Result finish(std::span<float> shard) override {
    if (first_) backend_.zero(sum_.data(), sum_.bytes());  // this group had no micro-batch
    if (groups_.layout.data_size == 1)
      backend_.copy(shard.data(), sum_.data(), sum_.bytes());
    else
      groups_.data->reduce_scatter_sum(shard, sum_.span(), starts_);
    backend_.zero(largest_.data(), largest_.bytes());
    backend_.max_abs(largest_.span(), shard);
    std::array<float, 1> largest{};
    backend_.download(largest.data(), largest_.data(), largest_.bytes());
    groups_.world->all_reduce_max(largest);
    return std::isfinite(largest[0]) ? Result::ready : Result::not_finite;
  }

  std::size_t bytes() const override { return sum_.bytes(); }
  std::string state() const override { return "{}"; }
  void set_state(const std::string&) override {}  // sums in fp32 remember nothing

 private:
  Backend& backend_;
  ParallelGroups& groups_;
  const std::vector<std::int64_t> starts_;
  Buffer<float> sum_, largest_;
  bool first_ = true;
};

}  // namespace

std::unique_ptr<GradientReducer> make_fast_reducer(const ParameterTable& table, Backend& backend,
                                                   ParallelGroups& groups) {
  return std::make_unique<FastReducer>(table, backend, groups);
}

}  // namespace demist
