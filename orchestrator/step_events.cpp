// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/step_events.hpp"

#include <nlohmann/json.hpp>

#include "core/log.hpp"
#include "orchestrator/events.hpp"

namespace demist {

void append_step_events(const std::filesystem::path& run_dir, const std::string& stage,
                        const StepReport& report) {
  const std::string where = "stage " + stage + ", step " + std::to_string(report.step);
  if (report.recomputed && report.applied()) {
    append_event(run_dir, "step_recomputed", {{"stage", stage}, {"step", report.step}});
    log::warning(where +
                 ": a gradient was not finite, and was when computed again: a machine may "
                 "be faulty");
  }
  if (report.applied()) return;
  append_event(run_dir, "step_skipped",
               {{"stage", stage},
                {"step", report.step},
                {"reason", name_of(report.verdict)},
                {"loss", report.loss},
                {"grad_norm", report.grad_norm}});
  log::warning(where + ": not applied (" + name_of(report.verdict) + ")");
}

void append_rollback(const std::filesystem::path& run_dir, const std::string& stage,
                     const Rollback& rollback) {
  append_event(run_dir, "rollback",
               {{"stage", stage}, {"step", rollback.step}, {"data_steps", rollback.data_steps}});
  log::warning("stage " + stage + ": back to step " + std::to_string(rollback.step) +
               ", without the data of the next " + std::to_string(rollback.data_steps) + " steps");
}

}  // namespace demist
