// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/slurm/run_logs.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <ctime>
#include <sstream>
#include <vector>

#include "core/file.hpp"
#include "orchestrator/slurm/run_facts.hpp"

namespace demist::slurm {
namespace {

constexpr std::size_t kTail = 1 << 20;  // bytes of a log that are looked at

std::vector<fs::path> logs_named(const fs::path& run_dir, const std::string& prefix) {
  std::vector<fs::path> found;
  std::error_code none;  // nothing was logged yet
  for (const auto& entry : fs::directory_iterator(run_dir / "logs", none))
    if (entry.path().filename().string().starts_with(prefix)) found.push_back(entry.path());
  std::sort(found.begin(), found.end());
  return found;
}

std::string as_text(double unix_seconds) {
  const auto time = static_cast<std::time_t>(unix_seconds);
  std::tm parts{};
  gmtime_r(&time, &parts);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%FT%TZ", &parts);
  return text.data();
}

}  // namespace

fs::path rank_log(const fs::path& run_dir, int rank) {
  std::array<char, 32> name{};
  std::snprintf(name.data(), name.size(), "rank-%04d.log", rank);
  return run_dir / "logs" / name.data();
}

fs::path main_log(const fs::path& run_dir) {
  const std::vector<fs::path> jobs = logs_named(run_dir, "job-");
  if (jobs.empty()) return rank_log(run_dir, 0);
  return *std::max_element(jobs.begin(), jobs.end(), [](const fs::path& a, const fs::path& b) {
    return fs::last_write_time(a) < fs::last_write_time(b);
  });
}

Failure first_error(const std::string& log, const std::string& since) {
  static const std::string mark = " demist: ";  // as core/log.cpp writes errors
  std::istringstream lines(log);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t space = line.find(' ');
    if (space == std::string::npos || line.compare(space, mark.size(), mark) != 0) continue;
    std::string time = line.substr(0, space);
    if (time >= since) return {"", time, line.substr(space + mark.size())};
  }
  return {};
}

Failure first_failure(const fs::path& run_dir, double since) {
  Failure first;
  for (const fs::path& log : logs_named(run_dir, "rank-")) {
    Failure found = first_error(tail_of(log, kTail), as_text(since));
    if (found.time.empty() || (!first.time.empty() && found.time >= first.time)) continue;
    first = std::move(found);
    first.log = log;
  }
  if (!first.log.empty()) return first;
  const fs::path job = main_log(run_dir);
  for (const char* word : {"error:", "demist: "})
    if (tail_of(job, kTail).find(word) != std::string::npos) return {job, "", ""};
  return {};
}

std::string last_lines(const std::string& text, std::size_t count) {
  if (count == 0) return text;
  std::size_t begin = text.size();
  if (begin > 0 && text[begin - 1] == '\n') --begin;  // the last line's own end
  while (begin > 0 && count > 0) {
    begin = text.rfind('\n', begin - 1);
    if (begin == std::string::npos) return text;
    --count;
    if (count == 0) return text.substr(begin + 1);
  }
  return text.substr(begin);
}

}  // namespace demist::slurm
