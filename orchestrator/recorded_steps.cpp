// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/recorded_steps.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "orchestrator/format.hpp"
#include "orchestrator/json_lines.hpp"
#include "orchestrator/nearest.hpp"

namespace demist {
namespace {

double number(const nlohmann::json& line, const char* key) {
  const auto found = line.find(key);
  const bool finite = found != line.end() && found->is_number();
  return finite ? found->get<double>() : std::numeric_limits<double>::quiet_NaN();
}

// What is not finite has no bits in JSON.
bool same(double a, double b) {
  if (!std::isfinite(a) || !std::isfinite(b)) return std::isfinite(a) == std::isfinite(b);
  return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b);
}

}  // namespace

RecordedSteps::RecordedSteps(std::string_view metrics, const std::string& stage) {
  Crewing crewing{0, 0, ""};
  each_object(metrics, [&](const nlohmann::json& line) {
    if (line.value("stage", "") != stage) return;
    const std::string event = line.value("event", "");
    const auto finished = whole_number(line, "step", std::int64_t{0});
    if (event == "start") {
      crewing = {whole_number(line, "ranks", 0), whole_number(line, "tensor", 0),
                 line.value("device", "")};
      if (finished > 0) return;
      steps_.clear();
      newest_.clear();
    }
    if (event != "step" || finished <= 0) return;
    const auto rollbacks = whole_number(line, "rollbacks", std::int32_t{0});
    steps_[{finished - 1, rollbacks}] = {number(line, "loss"),
                                         number(line, "grad_norm"),
                                         number(line, "lr"),
                                         line.value("skipped", ""),
                                         rollbacks,
                                         crewing};
    newest_[finished - 1] = rollbacks;
  });
}

const RecordedStep* RecordedSteps::find(std::int64_t step, std::int32_t rollbacks) const {
  const auto found = steps_.find({step, rollbacks});
  return found == steps_.end() ? nullptr : &found->second;
}

const RecordedStep* RecordedSteps::last(std::int64_t step) const {
  const auto found = newest_.find(step);
  return found == newest_.end() ? nullptr : find(step, found->second);
}

std::int64_t RecordedSteps::end() const {
  return newest_.empty() ? 0 : newest_.rbegin()->first + 1;
}

std::string differences(const StepReport& replayed, const RecordedStep& recorded) {
  std::vector<std::string> found;
  const auto hold = [&](const char* name, double now, double then) {
    if (!same(now, then)) found.push_back(print("%s %.17g was %.17g", name, now, then));
  };
  hold("loss", replayed.loss, recorded.loss);
  hold("gradient norm", replayed.grad_norm, recorded.grad_norm);
  hold("learning rate", replayed.lr, recorded.lr);
  const std::string verdict = replayed.applied() ? "" : name_of(replayed.verdict);
  const auto word = [](const std::string& skipped) { return skipped.empty() ? "good" : skipped; };
  if (verdict != recorded.skipped)
    found.push_back("verdict " + word(verdict) + " was " + word(recorded.skipped));
  return join(found, ", ");
}

}  // namespace demist
