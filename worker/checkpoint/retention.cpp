// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/retention.hpp"

#include <algorithm>

namespace demist::checkpoint {

std::int64_t WayBack::target(std::int64_t last_bad) const {
  const std::int64_t first_bad = last_bad - bad_in_a_row + 1;
  return save_every > 0 && first_bad > 0 ? (first_bad - 1) / save_every * save_every : 0;
}

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
  if (way.save_every > 0 && !newest_first.empty() && newest_first.front().step != way.end) {
    // The bad steps may have begun before the newest checkpoint, and the next step be the last.
    const std::int64_t oldest = way.target(newest_first.front().step);
    for (std::size_t i = 0; i < newest_first.size(); ++i)
      if (newest_first[i].step >= oldest && newest_first[i].step % way.save_every == 0)
        add(i, "way back");
  }
  // Of equal losses the newer one is better.
  std::ranges::stable_sort(measured, {},
                           [&](std::size_t i) { return *newest_first[i].held_out_loss; });
  measured.resize(std::min(measured.size(), static_cast<std::size_t>(keep.best)));
  for (const std::size_t i : measured) add(i, "best");
  return reasons;
}

}  // namespace demist::checkpoint
