// Which checkpoints stay: a pure rule over their steps and held-out losses.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace demist::checkpoint {

// How training goes back after `bad_in_a_row` bad steps in a row, and until when: at step `end` it
// goes nowhere any more.
struct WayBack {
  std::int64_t bad_in_a_row = 0, save_every = 0, end = 0;  // save_every 0: there is none

  // The checkpoint to go back to after bad steps of which `last_bad` (from 0) was one too many: the
  // newest regular one that was saved before the step before the first of them. 0: there is none.
  std::int64_t target(std::int64_t last_bad) const;
};

// A checkpoint stays when any of these wants it.
struct Retention {
  int last = 2;            // so many of the newest; 0: all
  std::int64_t every = 0;  // each whose step is a multiple; 0: none
  int best = 0;            // so many with the lowest held-out loss; 0: none
  WayBack way_back = {};
};

struct Candidate {
  std::int64_t step = 0;
  std::optional<double> held_out_loss;  // empty: was not measured, so it is never among the best
};

// For each candidate, newest first, why it stays: "last", "every 1000", "best", "way back", or
// several of them.
// Empty: superfluous.
std::vector<std::string> reasons_to_keep(std::span<const Candidate> newest_first,
                                         const Retention& keep);

}  // namespace demist::checkpoint
