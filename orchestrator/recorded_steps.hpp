// The steps of a stage as metrics.jsonl has them: what a replay is held against.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "orchestrator/metrics_file.hpp"

namespace demist {

struct RecordedStep {
  double loss = 0, grad_norm = 0, lr = 0;  // NaN: not finite
  std::string skipped;                     // why it was not applied; empty: it was
  std::int32_t rollbacks = 0;              // before it
  Crewing crewing;                         // ranks 0: the file does not say
};

// Steps count from 0. Of two lines for one step, and as many rollbacks before it, the later stands.
// A stage that begins anew has left nothing. Damaged lines are passed over.
class RecordedSteps {
 public:
  RecordedSteps(std::string_view metrics, const std::string& stage);

  // Null: there is no such line.
  const RecordedStep* find(std::int64_t step, std::int32_t rollbacks) const;
  const RecordedStep* last(std::int64_t step) const;
  std::int64_t end() const;  // one more than the largest step; 0: there is none

 private:
  std::map<std::pair<std::int64_t, std::int32_t>, RecordedStep> steps_;
  std::map<std::int64_t, std::int32_t> newest_;  // rollbacks before the last line of a step
};

// In what the two are not the same, to the last bit: "loss 1.5 was 1.25"; empty: in nothing.
std::string differences(const StepReport& replayed, const RecordedStep& recorded);

}  // namespace demist
