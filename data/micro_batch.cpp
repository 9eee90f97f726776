// SPDX-License-Identifier: Apache-2.0
#include "data/micro_batch.hpp"

#include <algorithm>
#include <numeric>

namespace demist::data {

TokenGroups group_tokens(std::span<const std::int32_t> values) {
  TokenGroups groups;
  groups.order.resize(values.size());
  std::iota(groups.order.begin(), groups.order.end(), 0);
  const auto value_at = [&](std::int32_t place) { return values[static_cast<std::size_t>(place)]; };
  std::ranges::stable_sort(groups.order, {}, value_at);
  for (std::size_t i = 0; i < groups.order.size(); ++i) {
    const std::int32_t value = value_at(groups.order[i]);
    if (!groups.value.empty() && groups.value.back() == value) continue;
    groups.value.push_back(value);
    groups.begin.push_back(static_cast<std::int32_t>(i));
  }
  groups.begin.push_back(static_cast<std::int32_t>(groups.order.size()));
  return groups;
}

}  // namespace demist::data
