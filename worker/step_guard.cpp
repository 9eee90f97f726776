// SPDX-License-Identifier: Apache-2.0
#include "worker/step_guard.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/error.hpp"

namespace demist {
namespace {

// The upper one of two middle values.
double median(const std::deque<double>& values) {
  std::vector<double> sorted(values.begin(), values.end());
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  return *middle;
}

}  // namespace

const char* name_of(StepVerdict verdict) {
  static constexpr std::array names = {"good", "not_finite", "loss_spike", "norm_spike", "corrupt"};
  return names.at(static_cast<std::size_t>(verdict));
}

StepVerdict StepGuard::judge(double loss, double grad_norm) const {
  if (!std::isfinite(loss) || !std::isfinite(grad_norm)) return StepVerdict::not_finite;
  const auto spikes = [&](double factor, double value, const std::deque<double>& before) {
    return factor > 0 && before.size() == static_cast<std::size_t>(config_.window) &&
           value > factor * median(before);
  };
  if (spikes(config_.loss_spike, loss, losses_)) return StepVerdict::loss_spike;
  if (spikes(config_.norm_spike, grad_norm, norms_)) return StepVerdict::norm_spike;
  return StepVerdict::good;
}

void StepGuard::record(StepVerdict verdict, double loss, double grad_norm) {
  if (verdict != StepVerdict::good) {
    ++in_a_row_;
    return;
  }
  in_a_row_ = 0;
  const auto keep = [&](std::deque<double>& values, double value) {
    values.push_back(value);
    if (values.size() > static_cast<std::size_t>(config_.window)) values.pop_front();
  };
  keep(losses_, loss);
  keep(norms_, grad_norm);
}

std::string StepGuard::state() const {
  return nlohmann::json{{"losses", losses_}, {"norms", norms_}, {"in_a_row", in_a_row_}}.dump();
}

void StepGuard::set_state(const std::string& text) {
  try {
    const auto json = nlohmann::json::parse(text);
    losses_ = json.at("losses").get<std::deque<double>>();
    norms_ = json.at("norms").get<std::deque<double>>();
    in_a_row_ = json.at("in_a_row").get<std::int32_t>();
  } catch (const nlohmann::json::exception& error) {
    throw CheckpointError(
        std::string("the checkpoint has no usable history of losses; start a new stage from it (") +
        error.what() + ")");
  }
}

}  // namespace demist
