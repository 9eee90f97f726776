// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/metrics_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "orchestrator/stage_state.hpp"

namespace demist {
namespace {

using nlohmann::ordered_json;

ordered_json header(const char* event, const std::string& stage, std::int64_t step) {
  return {{"event", event}, {"stage", stage}, {"step", step}, {"time", unix_seconds()}};
}

}  // namespace

std::string step_line(const std::string& stage, const StepReport& report, double seconds,
                      double control_seconds) {
  ordered_json line = header("step", stage, report.step + 1);
  line["loss"] = report.loss;  // not finite: null
  line["grad_norm"] = report.grad_norm;
  line["lr"] = report.lr;
  line["tokens"] = report.tokens;
  line["seconds"] = seconds;
  line["tokens_per_second"] = seconds > 0 ? static_cast<double>(report.tokens) / seconds : 0.0;
  line["load_seconds"] = report.load_seconds;
  line["control_seconds"] = control_seconds;
  line["rescaled"] = report.rescaled;
  if (!report.applied()) line["skipped"] = name_of(report.verdict);
  if (report.rollbacks > 0) line["rollbacks"] = report.rollbacks;
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
                       const Crewing& crewing, double seconds) {
  ordered_json line = header(event.c_str(), stage, step);
  line["ranks"] = crewing.ranks;
  line["tensor"] = crewing.tensor;
  line["device"] = crewing.device;
  line["seconds"] = seconds;
  return line.dump();
}

MetricsFile::MetricsFile(const std::filesystem::path& path)
    : path_(path), fd_(::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644)) {
  if (fd_ < 0) throw EnvironmentError(path.string() + ": cannot open: " + std::strerror(errno));
}

MetricsFile::~MetricsFile() { ::close(fd_); }

void MetricsFile::write(const std::string& line) {
  constexpr std::size_t most = std::size_t{64} << 20;  // bytes that may wait: months of lines
  const bool waited = !waiting_.empty();
  if (waiting_.size() < most) waiting_.append(line).append("\n");
  if (append(waiting_))
    waiting_.clear();
  else if (!waited)
    log::warning(path_.string() + ": cannot write: " + std::strerror(errno) +
                 "; its lines wait in memory");
}

// All of the text or nothing: nobody else appends. What was left of a line, when a process was
// killed before it could take it back or a machine failed, stays on a line of its own.
bool MetricsFile::append(std::string text) const {
  const off_t before = ::lseek(fd_, 0, SEEK_END);
  if (!begins_line(fd_)) text.insert(0, 1, '\n');
  const ssize_t written = ::write(fd_, text.data(), text.size());
  if (written == static_cast<ssize_t>(text.size())) return true;
  const int reason = errno;
  if (written > 0 && before >= 0) (void)!::ftruncate(fd_, before);
  errno = written >= 0 ? ENOSPC : reason;  // the disk was full in the middle
  return false;
}

}  // namespace demist
