// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/slurm/run_lines.hpp"

#include <algorithm>
#include <iterator>
#include <vector>

#include "core/error.hpp"
#include "orchestrator/json_lines.hpp"

namespace demist::slurm {
namespace {

using nlohmann::json;

struct Supervisor {
  double started = 0;
  std::string host;
  int process = 0;
  bool in_job = false;
};

void make_current(const Supervisor& supervisor, bool open, RunEvents& events) {
  events.started = supervisor.started;
  events.host = supervisor.host;
  events.process = supervisor.process;
  events.in_job = supervisor.in_job;
  events.open = open;
}

// Of a stage: of those that failed, why.
void note_attempt(const json& line, double time, RunEvents& events) {
  const int code = whole_number(line, "code", 0);
  if (code == 0 || code == static_cast<int>(ExitCode::requeue)) return;
  events.failed = time;
  events.cause = line.value("cause", "code " + std::to_string(code));
  if (!line.contains("rank") || events.cause.starts_with("rank ")) return;
  const std::string who =
      "rank " + std::to_string(whole_number(line, "rank", 0)) + " on " + line.value("host", "?");
  events.cause = who + ": " + events.cause;
}

// `open`: supervisors of which no end was told so far. A second one in the same folder is refused
// and ends at once; the first is the current one again then.
void note_supervisor(const json& line, const std::string& event, double time,
                     std::vector<Supervisor>& open, RunEvents& events) {
  if (event == "run_start") {
    open.push_back({time, line.value("host", ""), whole_number(line, "process", 0),
                    line.value("srun", false)});
    make_current(open.back(), true, events);
  } else if (event == "run_end") {
    events.ended = time;
    events.code = whole_number(line, "code", 0);
    const auto ended = std::find_if(open.rbegin(), open.rend(), [&](const Supervisor& s) {
      return s.process == whole_number(line, "process", 0) && s.host == line.value("host", "");
    });
    if (ended != open.rend()) {
      make_current(*ended, false, events);
      open.erase(std::next(ended).base());
    }
    if (!open.empty()) make_current(open.back(), true, events);
    if (!line.contains("problem")) return;
    events.failed = time;
    events.cause = line.value("problem", "");
  } else if (event == "attempt_ended") {
    note_attempt(line, time, events);
  }
}

void note_job(const json& line, const std::string& event, double time, RunEvents& events) {
  if (event == "job_start") {
    events.job_started = time;
    events.job = line.value("job", "");
    events.jobs_over.erase(events.job);
  } else if (event == "job_end") {
    events.job_ended = time;
    events.job_code = whole_number(line, "code", 0);
    events.job_reason = line.value("reason", "");
    events.jobs_over.insert(line.value("job", ""));
  } else if (event == "job_requeue") {
    events.requeued = time;
  } else if (event == "job_signal" || event == "stop_asked") {
    events.asked = time;
  }
}

// Of late: what was measured before a restart belongs to another crew.
struct Rate {
  double seconds = 0, tokens = 0;
  int count = 0;
};

}  // namespace

RunEvents events_in(std::string_view lines) {
  RunEvents events;
  std::vector<Supervisor> open;
  each_object(lines, [&](const json& line) {
    const std::string event = line.value("event", "");
    const double time = line.value("time", 0.0);
    note_supervisor(line, event, time, open, events);
    note_job(line, event, time, events);
  });
  return events;
}

void add_metrics(std::string_view lines, const std::string& stage, RunProgress& progress) {
  Rate rate;
  each_object(lines, [&](const json& line) {
    if (line.value("stage", "") != stage) return;
    progress.last_line = line.value("time", 0.0);
    if (line.value("event", "") == "start") rate = {};
    if (line.value("event", "") != "step") return;
    progress.step = whole_number(line, "step", std::int64_t{0});
    progress.loss = line.at("loss").is_number() ? line.at("loss").get<double>() : 0.0;
    rate.seconds += line.value("seconds", 0.0);
    rate.tokens += line.value("tokens", 0.0);
    ++rate.count;
  });
  if (rate.count == 0 || rate.seconds <= 0) return;
  progress.seconds_per_step = rate.seconds / rate.count;
  progress.tokens_per_second = rate.tokens / rate.seconds;
}

}  // namespace demist::slurm
