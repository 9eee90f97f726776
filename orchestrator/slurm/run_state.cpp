// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/slurm/run_state.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <vector>

#include "orchestrator/nearest.hpp"
#include "orchestrator/progress.hpp"

namespace demist::slurm {
namespace {

// A stage's clock is set once a second; file systems show it to other nodes late.
constexpr double kSilence = 60;  // seconds
// Between sbatch and the first squeue that knows of the job; between two attempts.
constexpr double kGrace = 60;

constexpr int kSaved = 75;

bool is_in_queue(const RunFacts& f) { return f.row && f.row->is_live(); }
bool is_pending(const RunFacts& f) { return f.row && f.row->is_waiting(); }

// Neither supervised nor submitted: what there is comes from `demist train` under a user's mpirun.
bool was_never_supervised(const RunFacts& f) {
  return f.events.started == 0 && f.events.job_started == 0 && !f.job;
}

// A supervisor, or a job's script, has not told of its end, and is not known to be dead.
bool is_supervised(const RunFacts& f) {
  if (is_in_queue(f)) return !is_pending(f);
  return f.events.open && f.process_lives.value_or(true);
}

// Under a user's mpirun: begun after all that is told of supervisors and jobs.
bool is_by_hand(const RunFacts& f) {
  const RunEvents& e = f.events;
  const double last = std::max({e.started, e.ended, e.job_started, e.job_ended});
  return !is_supervised(f) && f.progress.began > last;
}

bool has_lock(const RunFacts& f) { return f.lock && f.lock->holds; }
bool is_alive(const RunFacts& f) {
  return f.progress.alive > 0 && f.now - f.progress.alive < kSilence;
}

// When those began who work on it now.
double beginning(const RunFacts& f) {
  double begin = std::max(f.events.started, f.events.job_started);
  if (is_supervised(f)) return begin;
  if (has_lock(f)) begin = std::max(begin, f.lock->since);
  return is_by_hand(f) ? std::max(begin, f.progress.began) : begin;
}

// Whether a supervisor, or a user, works on it.
bool is_worked_on(const RunFacts& f) {
  if (is_in_queue(f) && !is_pending(f)) return true;
  if (has_lock(f)) return true;
  // Where locks are not shared between hosts only its own host can tell that it is free.
  if (is_by_hand(f)) return is_alive(f) && !(f.lock && f.lock->host == f.host);
  if (f.process_lives && !f.events.in_job) return *f.process_lives && f.events.open;
  if (f.job && f.queue_answered && f.row) return false;  // Slurm says that it is over
  return f.events.open && is_alive(f);
}

RunState judge_pending(const RunFacts& f) {
  const bool came_back = f.row->restarts > 0 || f.events.job == f.row->id;
  std::string why = f.row->reason == "None" ? "" : f.row->reason;
  if (!f.row->start.empty() && f.row->start != "N/A")
    why.append(why.empty() ? "" : ", ").append("expected ").append(f.row->start);
  if (f.row->reason == "Dependency") why = "waits for the job before it";
  return {came_back ? Activity::requeued : Activity::queued, why};
}

RunState judge_working(const RunFacts& f) {
  const RunEvents& e = f.events;
  const RunProgress& p = f.progress;
  const double begin = beginning(f);
  if (f.stop_file || e.asked > begin) return {Activity::saving, "then it stops"};
  const bool restarted = e.failed > begin && e.failed > p.last_line;
  const std::string after = restarted ? std::string("again, after: ") + e.cause : "";
  if (p.stage.empty()) return {Activity::starting, after};
  const double heard = std::max(p.alive, p.last_line);
  const double silent = f.now - std::max(heard, begin);
  if (silent > kSilence && f.now - begin > kSilence)
    return {Activity::stalled, "no sign of life for " + format_duration(silent)};
  if (!p.training) return {Activity::running, after};
  if (p.last_line < begin || restarted) return {Activity::starting, after};
  // Evaluations and saves stand between steps.
  const double limit = std::max(kSilence, 20 * p.seconds_per_step);
  if (f.now - p.last_line > limit)
    return {Activity::stalled, "no step for " + format_duration(f.now - p.last_line)};
  return {Activity::training, ""};
}

// What is known of the reason; may be empty.
std::string failure_text(const RunFacts& f) {
  const RunEvents& e = f.events;
  std::vector<std::string> known;
  if (!e.cause.empty() && e.failed >= e.started) known.push_back(e.cause);
  // Accounting may be late, and call alive what the controller does not know any more.
  const bool told = f.account && !f.account->is_live();
  if (told && f.account->state != "COMPLETED" && f.account->state != "FAILED")
    known.push_back("Slurm: " + f.account->state);
  const bool by_script = e.job_ended >= e.started && !e.job_reason.empty();
  if (known.empty() && by_script)
    known.push_back("code " + std::to_string(e.job_code) + ": " + e.job_reason);
  if (known.empty() && e.ended > 0 && e.ended >= e.started)
    known.push_back("code " + std::to_string(e.code));
  // "JobLaunchFailure": its script was killed.
  const bool explained = f.row && !f.row->reason.empty() && f.row->reason != "None" &&
                         f.row->reason != "NonZeroExitCode";
  if (f.row)
    known.push_back("Slurm: " + f.row->state + (explained ? " (" + f.row->reason + ")" : ""));
  return join(known, "; ");
}

// The script's own words on why it stopped with everything saved, where they say more than a
// cancel.
std::string stop_text(const RunFacts& f) {
  const RunEvents& e = f.events;
  const bool by_script = e.job_ended >= std::max(e.started, e.job_started) && e.job_code == kSaved;
  const std::string unsent = f.unsent.empty() ? "" : "never submitted: " + f.unsent + "; ";
  return unsent + (by_script && !e.job_reason.starts_with("cancelled") ? e.job_reason + "; " : "");
}

std::string way_on_from(const RunFacts& f) {
  if (was_never_supervised(f)) return "demist train goes on";
  return f.progress.saved ? "saved work stands; demist resume goes on"
                          : "nothing is saved yet; demist resume begins anew";
}

// Nobody works on it and no job waits.
RunState judge_ended(const RunFacts& f) {
  const RunEvents& e = f.events;
  const double begin = std::max(e.started, e.job_started);
  const bool never = begin == 0;
  const bool by_itself = std::max(e.ended, e.job_ended) >= begin && !never;
  const int code = e.job_ended >= e.ended ? e.job_code : e.code;
  const bool newer_job = f.job && f.job->submitted > begin;
  if (newer_job && !f.row && f.now - f.job->submitted < kGrace)
    return {Activity::queued, "just submitted"};
  if (f.job && !f.queue_answered && (!by_itself || newer_job))
    return {Activity::unknown, f.queue_problem};
  const bool cancelled =
      (f.row && f.row->state == "CANCELLED") || (f.account && f.account->state == "CANCELLED");
  const std::string way_on = way_on_from(f);
  if (f.stop_file || cancelled) return {Activity::stopped, way_on};
  if (by_itself && !newer_job && (code == kSaved || code == 0))
    return {Activity::stopped, stop_text(f) + way_on};
  if (was_never_supervised(f))
    return f.progress.begun ? RunState{Activity::stopped, way_on}
                            : RunState{Activity::fresh, "nothing has begun"};
  if (by_itself && !newer_job) return {Activity::failed, failure_text(f)};
  std::string text = failure_text(f);
  if (text.empty())
    text = f.job
               ? "job " + f.job->id + " left the queue without a word"
               : "process " + std::to_string(e.process) + " on " + e.host + " ended without a word";
  return {Activity::failed, text + "; " + way_on};
}

template <class... Values>
std::string print(const char* format, Values... values) {
  std::array<char, 160> text{};
  std::snprintf(text.data(), text.size(), format, values...);
  return text.data();
}

}  // namespace

bool RunState::is_over() const {
  return activity == Activity::done || activity == Activity::failed ||
         activity == Activity::stopped || activity == Activity::fresh;
}

const char* name_of(Activity activity) {
  switch (activity) {
    case Activity::fresh:
      return "NEW";
    case Activity::queued:
      return "QUEUED";
    case Activity::starting:
      return "STARTING";
    case Activity::running:
      return "RUNNING";
    case Activity::training:
      return "TRAINING";
    case Activity::saving:
      return "SAVING";
    case Activity::requeued:
      return "REQUEUED";
    case Activity::stalled:
      return "STALLED";
    case Activity::stopped:
      return "STOPPED";
    case Activity::done:
      return "DONE";
    case Activity::failed:
      return "FAILED";
    case Activity::unknown:
      break;
  }
  return "UNKNOWN";
}

RunState judge(const RunFacts& facts) {
  if (facts.progress.done) return {Activity::done, ""};
  if (is_pending(facts)) return judge_pending(facts);
  if (is_worked_on(facts)) return judge_working(facts);
  return judge_ended(facts);
}

std::optional<Worker> worker_of(const RunFacts& f) {
  if (is_in_queue(f)) return std::nullopt;
  const RunEvents& e = f.events;
  if (is_supervised(f) && !(e.in_job && f.job)) return Worker{e.host, e.process, false};
  if (f.lock && (f.lock->holds || (is_by_hand(f) && is_worked_on(f))))
    return Worker{f.lock->host, f.lock->process, true};
  return std::nullopt;
}

std::string describe(const RunState& state, const RunFacts& facts) {
  const RunProgress& p = facts.progress;
  std::string text = name_of(state.activity);
  const bool at_work = state.activity == Activity::training || state.activity == Activity::saving ||
                       state.activity == Activity::stalled;
  if (!p.stage.empty() && !p.done) text += " " + p.stage;
  if (p.training && p.step > 0)
    text.append(" ").append(std::to_string(p.step)).append("/").append(std::to_string(p.steps));
  if (p.training && p.step > 0 && at_work) {
    text += print(", loss %.4g, ", p.loss) + format_count(p.tokens_per_second) + " tok/s";
    if (state.activity == Activity::training)
      text +=
          ", ETA " + format_duration(p.seconds_per_step * static_cast<double>(p.steps - p.step));
  }
  if (!state.detail.empty()) text.append(" (").append(state.detail).append(")");
  return text;
}

}  // namespace demist::slurm
