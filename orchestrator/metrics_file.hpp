// metrics.jsonl: one JSON object a line for every step and event, docs/formats/metrics.md.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

#include "worker/trainer.hpp"

namespace demist {

std::string step_line(const std::string& stage, const StepReport& report, double seconds);
std::string held_out_line(const std::string& stage, std::int64_t step, double loss, double seconds);
// event: "start" or "checkpoint".
std::string event_line(const std::string& stage, const std::string& event, std::int64_t step,
                       int ranks, double seconds);

// Appends lines; a crash can lose the last one but never leaves half of an earlier one.
class MetricsFile {
 public:
  explicit MetricsFile(const std::filesystem::path& path);  // throws EnvironmentError
  void write(const std::string& line);

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Close> file_;
};

}  // namespace demist
