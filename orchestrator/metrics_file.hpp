// metrics.jsonl: one JSON object a line for every step and event, docs/formats/metrics.md.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "worker/trainer.hpp"

namespace demist {

// Who makes the steps of an attempt: with FAST and another `tensor` or device, the bits depend on
// it.
struct Crewing {
  int ranks = 1, tensor = 1;  // MPI processes; of these, so many share one copy of the model
  std::string device;         // Backend::name()
};

// `control_seconds`: of the step before, the longest that a rank spent on control.
std::string step_line(const std::string& stage, const StepReport& report, double seconds,
                      double control_seconds);
std::string held_out_line(const std::string& stage, std::int64_t step, double loss, double seconds);
// event: "start" or "save".
std::string event_line(const std::string& stage, const std::string& event, std::int64_t step,
                       const Crewing& crewing, double seconds);

// Appends lines; a crash can lose the last ones but never leaves half of an earlier one. A full
// disk does not end a run: lines then wait in memory until there is room again.
class MetricsFile {
 public:
  explicit MetricsFile(const std::filesystem::path& path);  // throws EnvironmentError
  ~MetricsFile();
  MetricsFile(const MetricsFile&) = delete;
  MetricsFile& operator=(const MetricsFile&) = delete;
  void write(const std::string& line);

 private:
  bool append(std::string text) const;
  std::filesystem::path path_;
  int fd_;
  std::string waiting_;
};

}  // namespace demist
