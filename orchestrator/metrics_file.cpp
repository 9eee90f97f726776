// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/metrics_file.hpp"

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "orchestrator/stage_state.hpp"

namespace demist {
namespace {

using nlohmann::ordered_json;

ordered_json header(const char* event, const std::string& stage, std::int64_t step) {
  return {{"event", event}, {"stage", stage}, {"step", step}, {"time", unix_seconds()}};
}

}  // namespace

std::string step_line(const std::string& stage, const StepReport& report, double seconds) {
  ordered_json line = header("step", stage, report.step + 1);
  line["loss"] = report.loss;  // not finite: null
  line["grad_norm"] = report.grad_norm;
  line["lr"] = report.lr;
  line["tokens"] = report.tokens;
  line["seconds"] = seconds;
  line["tokens_per_second"] = seconds > 0 ? static_cast<double>(report.tokens) / seconds : 0.0;
  line["load_seconds"] = report.load_seconds;
  line["rescaled"] = report.rescaled;
  if (!report.applied()) line["skipped"] = name_of(report.verdict);
  return line.dump();
}

std::string held_out_line(const std::string& stage, std::int64_t step, double loss,
                          double seconds) {
  ordered_json line = header("held_out", stage, step);
  line["loss"] = loss;
  line["seconds"] = seconds;
  return line.dump();
}

std::string event_line(const std::string& stage, const std::string& event, std::int64_t step,
                       int ranks, double seconds) {
  ordered_json line = header(event.c_str(), stage, step);
  line["ranks"] = ranks;
  line["seconds"] = seconds;
  return line.dump();
}

MetricsFile::MetricsFile(const std::filesystem::path& path) : path_(path) {
  file_.reset(std::fopen(path.c_str(), "a"));
  if (!file_) throw EnvironmentError(path.string() + ": cannot open: " + std::strerror(errno));
}

void MetricsFile::write(const std::string& line) {
  const bool ok =
      std::fprintf(file_.get(), "%s\n", line.c_str()) >= 0 && std::fflush(file_.get()) == 0;
  if (!ok) throw EnvironmentError(path_.string() + ": cannot write: " + std::strerror(errno));
}

}  // namespace demist
