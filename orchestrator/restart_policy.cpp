// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/restart_policy.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>

#include "core/error.hpp"
#include "orchestrator/json_lines.hpp"

namespace demist {

bool may_be_restarted(int code) {
  switch (static_cast<ExitCode>(code)) {
    case ExitCode::done:
    case ExitCode::internal:
    case ExitCode::usage:
    case ExitCode::data:
    case ExitCode::checkpoint:
    case ExitCode::numeric:
      return false;
    default:  // 126 and 127: the program cannot be started
      return code != 126 && code != 127;
  }
}

RestartPolicy::Decision RestartPolicy::after_failure(std::int64_t step, const std::string& newest) {
  in_vain_ = step > best_step_ || newest != newest_ ? 0 : in_vain_ + 1;
  best_step_ = std::max(best_step_, step);
  newest_ = newest;
  if (in_vain_ == 0) return {true, 0, ranks_};
  if (in_vain_ >= recovery_.attempts) return {};
  const double delay = recovery_.delay_seconds * std::ldexp(1.0, in_vain_ - 1);
  if (recovery_.min_ranks > 0 && ranks_ - tensor_ >= recovery_.min_ranks) ranks_ -= tensor_;
  return {true, std::min(delay, recovery_.longest_delay_seconds), ranks_};
}

std::string newest_checkpoint(const std::filesystem::path& stage_folder) {
  std::ifstream file(stage_folder / "checkpoints" / "LATEST");
  std::string name;
  std::getline(file, name);
  return name;
}

std::int64_t last_step(const std::filesystem::path& run_dir, const std::string& stage) {
  std::ifstream file(run_dir / "metrics.jsonl", std::ios::binary | std::ios::ate);
  if (!file) return 0;
  constexpr std::streamoff kTail = 1 << 16;  // some hundred lines
  const std::streamoff size = file.tellg(), begin = std::max<std::streamoff>(0, size - kTail);
  file.seekg(begin);
  std::string lines;
  if (begin > 0) std::getline(file, lines);  // the end of one
  lines.assign(std::istreambuf_iterator<char>(file), {});
  std::int64_t step = 0;
  each_object(lines, [&](const nlohmann::json& line) {
    if (line.value("event", "") == "step" && line.value("stage", "") == stage)
      step = whole_number(line, "step", step);
  });
  return step;
}

}  // namespace demist
