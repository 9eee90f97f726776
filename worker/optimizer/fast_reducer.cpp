// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <cmath>

#include "worker/optimizer/gradient_reducer.hpp"

namespace demist {
namespace {

class FastReducer final : public GradientReducer {
 public:
  FastReducer(const ParameterTable& table, Backend& backend, ParallelGroups& groups)
      : GradientReducer(table, backend, groups),
        sum_(static_cast<std::size_t>(table.size()), backend.memory()),
        largest_(1, backend.memory()) {}

  std::size_t bytes() const override { return sum_.bytes() + largest_.bytes(); }
  std::string state() const override { return "{}"; }
  void set_state(const std::string&) override {}  // sums in fp32 remember nothing

 private:
  void do_begin() override {
    if (own_micro_batches() == 0) backend_.zero(sum_.data(), sum_.bytes());
  }

  void add_bucket(std::span<const float> grads, std::size_t bucket) override {
    const std::span<float> sum = part(sum_.span(), bucket);
    const std::span<const float> grad = part(grads, bucket);
    if (added() == 0)
      backend_.copy(sum.data(), grad.data(), grad.size_bytes());
    else
      backend_.add(vector_view(sum), vector_view(sum), vector_view(grad));
  }

  void reduce_bucket(std::size_t bucket) override {
    reduce_scatter(shard(), std::span<const float>(sum_.span()), bucket);
  }

  Result do_finish() override {
    if (is_alone()) backend_.copy(shard().data(), sum_.data(), sum_.bytes());
    backend_.zero(largest_.data(), largest_.bytes());
    backend_.max_abs(largest_.span(), shard());
    std::array<float, 1> largest{};
    backend_.download(largest.data(), largest_.data(), largest_.bytes());
    groups_.world->all_reduce_max(largest);
    return std::isfinite(largest[0]) ? Result::ready : Result::not_finite;
  }

  Buffer<float> sum_, largest_;
};

}  // namespace

std::unique_ptr<GradientReducer> make_fast_reducer(const ParameterTable& table, Backend& backend,
                                                   ParallelGroups& groups) {
  return std::make_unique<FastReducer>(table, backend, groups);
}

}  // namespace demist
