// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/retention.hpp"

#include <algorithm>

namespace demist::checkpoint {
namespace {

// The oldest step that training at `newest`, or later, may go back to.
std::int64_t oldest_target(const WayBack& way, std::int64_t newest) {
  return std::max<std::int64_t>(0, newest - way.bad_in_a_row) / way.save_every * way.save_every;
}

}  // namespace

std::vector<std::string> reasons_to_keep(std::span<const Candidate> newest_first,
                                         const Retention& keep) {
  std::vector<std::string> reasons(newest_first.size());
  const auto add = [&](std::size_t i, const std::string& reason) {
    reasons[i] += (reasons[i].empty() ? "" : ", ") + reason;
  };
  std::vector<std::size_t> measured;
  for (std::size_t i = 0; i < newest_first.size(); ++i) {
    const Candidate& candidate = newest_first[i];
    if (keep.last == 0 || i < static_cast<std::size_t>(keep.last)) add(i, "last");
    if (keep.every > 0 && candidate.step % keep.every == 0)
      add(i, "every " + std::to_string(keep.every));
    if (candidate.held_out_loss) measured.push_back(i);
  }
  const WayBack& way = keep.way_back;
  if (way.save_every > 0 && !newest_first.empty() && newest_first.front().step != way.end)
    for (std::size_t i = 0; i < newest_first.size(); ++i)
      if (newest_first[i].step >= oldest_target(way, newest_first.front().step) &&
          newest_first[i].step % way.save_every == 0)
        add(i, "way back");
  // Of equal losses the newer one is better.
  std::ranges::stable_sort(measured, {},
                           [&](std::size_t i) { return *newest_first[i].held_out_loss; });
  measured.resize(std::min(measured.size(), static_cast<std::size_t>(keep.best)));
  for (const std::size_t i : measured) add(i, "best");
  return reasons;
}

}  // namespace demist::checkpoint
